//! Uploads: bytes by SHA-256, streamed to the store.
//!
//! Bounds: [`crate::admin::Admin::max_component`], and [`IDLE`] between two pieces of an upload.

use axum::{
    body::{Body, BodyDataStream},
    extract::State,
};
use dunlin_api::{BodyError, ByteSize};
use futures::{Stream, StreamExt};
use http::{HeaderMap, StatusCode, header};
use std::time::Duration;

use super::{
    Shared,
    extract::Artifact,
    problem::{Answer, Failure},
    schema::Problem,
};
use crate::store::{PutError, Stored};

/// An upload that stands still for this long is given up.
const IDLE: Duration = Duration::from_secs(30);
/// What is read and thrown away of a refused upload, so that its sender gets to read why.
const DRAIN_BYTES: usize = 16 << 20;
const DRAIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
#[error("nothing came for {} s", IDLE.as_secs())]
struct Stalled;

/// Whether an artifact is here and intact, so that it need not be uploaded.
#[utoipa::path(head, path = "/v1/artifacts/{digest}", tag = "artifacts",
    params(("digest" = String, Path, description = "SHA-256 as 64 hex digits")),
    responses((status = 200, description = "It is here"), (status = 404, description = "It is not")))]
pub(super) async fn has(State(admin): State<Shared>, digest: Artifact) -> Answer<StatusCode> {
    Ok(match admin.artifacts.touch(digest.0).await? {
        Some(_) => StatusCode::OK,
        None => StatusCode::NOT_FOUND,
    })
}

/// Uploads an artifact under its SHA-256.
#[utoipa::path(put, path = "/v1/artifacts/{digest}", tag = "artifacts",
    params(("digest" = String, Path, description = "SHA-256 as 64 hex digits")),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses(
        (status = 200, description = "It was here already"), (status = 201, description = "It is here now"),
        (status = 408, body = Problem, description = "The upload stood still"),
        (status = 413, body = Problem, description = "Larger than this node takes"),
        (status = 422, body = Problem, description = "The bytes have another digest"),
    ))]
pub(super) async fn put(
    State(admin): State<Shared>,
    digest: Artifact,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let limit = admin.max_component;
    let mut body = body.into_data_stream();
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let stored = match announced {
        Some(size) if size > limit.bytes() => Err(PutError::TooLarge { limit }),
        _ => admin.artifacts.put(digest.0, pieces(&mut body).boxed(), limit).await,
    };
    match stored {
        Ok(Stored::Known) => Ok(StatusCode::OK),
        Ok(Stored::New) => Ok(StatusCode::CREATED),
        Err(error) => {
            drain(body).await;
            Err(failure(error, limit))
        }
    }
}

fn pieces(body: &mut BodyDataStream) -> impl Stream<Item = Result<bytes::Bytes, BodyError>> + Send {
    futures::stream::unfold(body, |body| async {
        let piece = match tokio::time::timeout(IDLE, body.next()).await {
            Ok(piece) => piece?.map_err(Into::into),
            Err(_) => Err(Stalled.into()),
        };
        Some((piece, body))
    })
}

async fn drain(mut body: BodyDataStream) {
    let all = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(piece)) = body.next().await
            && piece.len() <= left
        {
            left -= piece.len();
        }
    };
    // What is left then is cut off with the connection.
    let _ = tokio::time::timeout(DRAIN, all).await;
}

fn failure(error: PutError, limit: ByteSize) -> Failure {
    let detail = error.to_string();
    match error {
        PutError::TooLarge { .. } => {
            let detail = format!("the component is larger than {limit}, the most that this node takes");
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "component-too-large", detail)
        }
        PutError::WrongDigest { .. } => Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong-digest", detail),
        PutError::Source(error) if error.is::<Stalled>() => {
            Failure::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", detail)
        }
        PutError::Source(_) => Failure::new(StatusCode::BAD_REQUEST, "broken-body", detail),
        PutError::Store(error) => error.into(),
    }
}
