//! The gateway's side of calls that nobody waits for: which requests are such calls, and which ask about one.
//!
//! Off the path of every other request: the front looks here only when a request has `Prefer`, or a path of ours.

use bytes::Bytes;
use dunlin_api::{Body, BodyError, Revision};
use http::{HeaderMap, Request, Response, StatusCode};

use super::{arrival::Arrival, exchange::Outcome, fields::REQUEST_ID, refusal};
use crate::calls::{
    AsyncCalls,
    fields::Preferences,
    http::{Desk, GATEWAY},
};

/// What the sender of `headers` would like, if it is not to wait.
pub(super) fn preferences(headers: &HeaderMap) -> Option<Preferences> {
    Some(Preferences::of(headers)).filter(|preferences| preferences.respond_async)
}

/// Accepts `request` for the function of `revision`.
pub(super) async fn submit<B>(
    calls: &dyn AsyncCalls,
    revision: &Revision,
    request: Request<B>,
    preferences: Preferences,
    arrival: &Arrival,
) -> Outcome
where
    B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let host = refusal::host(&parts).map(str::to_owned);
    let body = if body.is_end_stream() { Body::Empty } else { Body::stream(body) };
    let desk = Desk { calls, prefix: GATEWAY, host: Some(host.as_deref()) };
    let mut response = desk.submit(revision, Request::from_parts(parts, body), preferences).await;
    response.headers_mut().entry(REQUEST_ID).or_insert_with(|| arrival.request_id.clone());
    // Then the request was left half-read.
    let close = matches!(response.status(), StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT);
    Outcome { response, close }
}

/// Answers a request for a path of ours.
pub(super) async fn about<B>(calls: &dyn AsyncCalls, request: &Request<B>) -> Response<Body> {
    let host = refusal::host_of(request.uri(), request.headers());
    let desk = Desk { calls, prefix: GATEWAY, host: Some(host) };
    desk.serve(request.method(), request.uri(), request.headers()).await
}
