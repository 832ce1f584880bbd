//! Publishing to a subject, as people and scripts do it, with or without waiting for a reply.
//!
//! The body of the request is the payload, byte for byte. Each header of the message is one field `dunlin-header: Name: value`,
//! because names of NATS headers have a case and HTTP's have none; the reply has its headers likewise. Bounds:
//! [`MAX_MESSAGE_BYTES`] with headers, [`MAX_WAIT_MS`] for a reply.

use axum::{
    Json as JsonAnswer,
    body::Bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use dunlin_api::{
    ByteSize, Message, StoreError,
    subject::{check_not_reserved, check_subject},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::{
    Shared,
    extract::{Parameter, Params, read},
    problem::{Answer, Failure},
    schema::Problem,
};
use crate::store::events::{Bus, MAX_MESSAGE_BYTES};

/// Carries one header of a message.
const MESSAGE_HEADER: HeaderName = HeaderName::from_static("dunlin-header");
/// Longest wait for a reply.
const MAX_WAIT_MS: u64 = 300_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// Wait so many milliseconds for a reply, 1 to 300,000, and answer with its payload.
    request_ms: Option<u64>,
}

/// Where a message went.
#[derive(Serialize, ToSchema)]
pub(super) struct PublishResult {
    subject: String,
    /// The stream that keeps it; absent if none does, so that only those who listened at that moment have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    /// Its number there.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
}

/// Publishes the body to a subject. `dunlin-header: Name: value`, which may be repeated, gives the message headers.
#[utoipa::path(post, path = "/v1/publish/{subject}", tag = "events",
    params(("subject" = String, Path, description = "Where to"), How),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = PublishResult, description = "Where it went; with `request_ms` the payload of the reply"),
        (status = 400, body = Problem, description = "No subject that a message may have"),
        (status = 404, body = Problem, description = "Nobody listens who could reply"),
        (status = 413, body = Problem, description = "Larger than a message may be"),
        (status = 504, body = Problem, description = "No reply came in time"),
    ))]
pub(super) async fn publish(
    State(admin): State<Shared>,
    subject: Parameter<String>,
    how: Params<How>,
    request: Request,
) -> Answer<Response> {
    let Params(How { request_ms }) = how;
    let events = admin.events()?;
    check(&subject.0)?;
    let wait = request_ms.map(wait).transpose()?;
    let (parts, body) = request.into_parts();
    let payload = read(body, MAX_MESSAGE_BYTES).await?;
    let message = Message { subject: subject.0, headers: headers(&parts.headers)?, payload };
    if message.size() > MAX_MESSAGE_BYTES {
        let most = ByteSize(MAX_MESSAGE_BYTES as u64);
        let detail = format!("the message is larger than {most} with its headers: send a reference to what is larger");
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail));
    }
    match wait {
        Some(wait) => request_reply(&*events.bus, message, wait).await,
        None => {
            let subject = message.subject.clone();
            let (stream, sequence) = events.bus.publish(message).await.map_err(failure)?.stored.unzip();
            Ok(JsonAnswer(PublishResult { subject, stream, sequence }).into_response())
        }
    }
}

async fn request_reply(bus: &dyn Bus, message: Message, wait: Duration) -> Answer<Response> {
    let (subject, started) = (message.subject.clone(), Instant::now());
    match bus.request(message, wait).await {
        Ok(reply) => Ok(shown(reply)),
        Err(StoreError::NotFound(_)) => {
            let detail = format!("nobody listens to `{subject}` who could reply");
            Err(Failure::new(StatusCode::NOT_FOUND, "nobody-listens", detail))
        }
        Err(StoreError::Unavailable(_)) if started.elapsed() >= wait => {
            let detail = format!("no reply to `{subject}` came within {} ms", wait.as_millis());
            Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, "no-reply", detail))
        }
        Err(error) => Err(failure(error)),
    }
}

/// Checks that people may publish to `subject`.
pub(super) fn check(subject: &str) -> Answer<()> {
    let checked = check_subject(subject).and_then(|()| check_not_reserved(subject));
    checked.map_err(|why| Failure::new(StatusCode::BAD_REQUEST, "bad-subject", format!("the subject {why}")))
}

fn wait(ms: u64) -> Answer<Duration> {
    if (1..=MAX_WAIT_MS).contains(&ms) {
        return Ok(Duration::from_millis(ms));
    }
    let detail = format!("request_ms is {ms}: it must be between 1 and {MAX_WAIT_MS}");
    Err(Failure::new(StatusCode::BAD_REQUEST, "bad-query", detail))
}

fn headers(fields: &HeaderMap) -> Answer<Vec<(String, String)>> {
    fields.get_all(MESSAGE_HEADER).iter().map(header_of).collect()
}

/// NATS takes any printable ASCII without a colon as a name (ADR-4).
fn header_of(field: &HeaderValue) -> Answer<(String, String)> {
    let text = std::str::from_utf8(field.as_bytes()).ok();
    let pair = text.and_then(|text| text.split_once(':')).map(|(name, value)| (name.trim(), value.trim()));
    match pair {
        Some((name, value)) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok((name.into(), value.into()))
        }
        _ => {
            let detail = "a dunlin-header is not `Name: value` with a name of visible ASCII and a value of UTF-8";
            Err(Failure::new(StatusCode::BAD_REQUEST, "bad-header", detail))
        }
    }
}

/// The reply; a header that HTTP cannot carry is left out.
fn shown(reply: Message) -> Response {
    let Message { headers, payload, .. } = reply;
    let mut response = bytes(payload);
    let fields = response.headers_mut();
    for (name, value) in headers {
        if let Ok(field) = HeaderValue::from_bytes(format!("{name}: {value}").as_bytes()) {
            fields.append(MESSAGE_HEADER, field);
        }
    }
    response
}

/// Bytes of somebody, which no browser may take for anything else.
pub(super) fn bytes(payload: Bytes) -> Response {
    let kind = (header::CONTENT_TYPE, "application/octet-stream");
    ([kind, (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], payload).into_response()
}

fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::Invalid(why) => Failure::new(StatusCode::BAD_REQUEST, "bad-message", why),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_a_message_keeps_its_case_and_its_order() {
        let mut fields = HeaderMap::new();
        for field in ["Nats-Msg-Id: 7", "x:a:b", "X: ä"] {
            fields.append(MESSAGE_HEADER, HeaderValue::from_bytes(field.as_bytes()).unwrap());
        }
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(headers(&fields).unwrap(), [pair("Nats-Msg-Id", "7"), pair("x", "a:b"), pair("X", "ä")]);
        let reply = shown(Message::new("a", "b").with("Nats-Msg-Id", "7").with("X", "ä").with("no", "line\nbreak"));
        assert_eq!(headers(reply.headers()).unwrap(), [pair("Nats-Msg-Id", "7"), pair("X", "ä")]);
    }

    #[test]
    fn what_is_no_header_of_a_message_is_refused() {
        for bad in [&b"no colon"[..], b": value", b"two words: x", b"\xff: x"] {
            assert!(header_of(&HeaderValue::from_bytes(bad).unwrap()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn subjects_of_the_cluster_and_patterns_are_refused() {
        for bad in ["a.*", "", "a b", "dl.v1.x", "$JS.API.INFO", "_INBOX.x"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        check("orders.paid").unwrap();
        assert!(wait(0).is_err() && wait(MAX_WAIT_MS + 1).is_err() && wait(MAX_WAIT_MS).is_ok());
    }
}
