//! Reads parameters and bodies of requests, with problem documents for what is malformed.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use dunlin_api::{Digest, FunctionName};
use http::{StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::{str::FromStr, time::Duration};

use super::problem::Failure;

/// Largest JSON body: settings are small, and the catalog keeps no larger record.
const MAX_JSON_BYTES: usize = 1 << 20;
/// A body that is read whole must be there by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The first parameter of the path, parsed.
pub(super) struct Parameter<T>(pub(super) T);

/// The function that the path names.
pub(super) type Name = Parameter<FunctionName>;
/// The artifact that the path names.
pub(super) type Artifact = Parameter<Digest>;

impl<S: Send + Sync, T: FromStr<Err: std::fmt::Display>> FromRequestParts<S> for Parameter<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let bad = |detail: String| Failure::new(StatusCode::BAD_REQUEST, "bad-path", detail);
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Path(parameters) = path.map_err(|e| bad(e.body_text()))?;
        let (_, text) = parameters.first().ok_or_else(|| bad("the path lacks a parameter".into()))?;
        text.parse().map(Self).map_err(|e: T::Err| bad(e.to_string()))
    }
}

/// The query, parsed.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let query = Query::try_from_uri(&parts.uri);
        let Query(query) = query.map_err(|e| Failure::new(StatusCode::BAD_REQUEST, "bad-query", e.body_text()))?;
        Ok(Self(query))
    }
}

/// The JSON body, parsed.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let detail = "send the body as content-type: application/json";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", detail));
        }
        let bytes = read(request.into_body(), MAX_JSON_BYTES).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| {
            Failure::new(StatusCode::BAD_REQUEST, "malformed-json", format!("the body is not as it should be: {e}"))
        })
    }
}

/// The whole body, if it has at most `limit` bytes.
pub(super) async fn read(body: Body, limit: usize) -> Result<bytes::Bytes, Failure> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await;
    let late = || {
        let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
        Failure::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail)
    };
    match collected.map_err(|_| late())? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("the body is larger than {limit} bytes");
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail))
        }
        Err(error) => Err(Failure::new(StatusCode::BAD_REQUEST, "broken-body", error.to_string())),
    }
}
