//! Log lines as NDJSON: one JSON document per line, ended by the reader or by the end of the node.

use axum::{body::Body, extract::State, response::IntoResponse};
use bytes::Bytes;
use dunlin_api::{FunctionName, LogLine};
use futures::{Stream, StreamExt, future};
use http::{StatusCode, header};
use serde::Deserialize;
use std::convert::Infallible;
use utoipa::IntoParams;

use super::{
    Shared,
    extract::Params,
    problem::{Answer, Failure},
    schema::{self, Problem},
};
use crate::{deploy::DeployError, log_share::Wanted};

/// Lines before the first that is followed, unless the caller says otherwise.
const TAIL: usize = 100;
/// Most lines of a tail: what the log hub keeps of ten functions.
const MAX_TAIL: usize = 10_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Lines of this function only.
    #[param(value_type = Option<String>)]
    function: Option<FunctionName>,
    /// The last lines that were kept, at most 10,000; default 100.
    tail: Option<usize>,
    /// Go on with every further line.
    #[serde(default)]
    follow: bool,
}

/// What functions print.
#[utoipa::path(get, path = "/v1/logs", tag = "logs", params(Which),
    responses(
        (status = 200, body = schema::LogLine, content_type = "application/x-ndjson", description = "One line each"),
        (status = 404, body = Problem), (status = 503, body = Problem, description = "Too many followers"),
    ))]
pub(super) async fn logs(State(admin): State<Shared>, which: Params<Which>) -> Answer<impl IntoResponse> {
    let Params(Which { function, tail, follow }) = which;
    let tail = tail.unwrap_or(TAIL);
    if tail > MAX_TAIL {
        let detail = format!("tail is {tail}: at most {MAX_TAIL} lines");
        return Err(Failure::new(StatusCode::BAD_REQUEST, "bad-query", detail));
    }
    if let Some(name) = &function
        && !admin.catalog.snapshot().functions.contains_key(name)
    {
        return Err(DeployError::NoFunction(name.clone()).into());
    }
    let lines = admin.lines.lines(Wanted { function, tail, follow }).await;
    let lines = lines
        .map_err(|error| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-followers", error.to_string()))?;
    let lines = lines.take_until(admin.stop.clone().cancelled_owned());
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(documents(lines))))
}

fn documents(lines: impl Stream<Item = LogLine> + Send) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    lines.filter_map(|line| {
        // A log line has nothing that JSON cannot hold.
        let document = serde_json::to_vec(&line).ok();
        future::ready(document.map(|mut document| {
            document.push(b'\n');
            Ok(Bytes::from(document))
        }))
    })
}
