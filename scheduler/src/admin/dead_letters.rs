//! Dead letters: looking at them, trying them again, throwing them away. One at a time: who wants many pages through them.
//! Bounds: [`PAGE`] in a list, [`SHOWN`] of a payload in JSON.

use axum::{Json as JsonAnswer, extract::State, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dunlin_api::{FunctionName, StoreError, trigger::TriggerId};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Shared,
    extract::{Parameter, Params},
    problem::{Answer, Failure},
    publish,
    schema::Problem,
};
use crate::dead_letters::Letter;

/// Letters in one answer, unless the caller wants fewer: each may have a payload that is read for it.
const PAGE: usize = 100;
/// Bytes of a payload that stand in JSON; larger ones are asked for by themselves.
const SHOWN: usize = 1 << 20;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Those of this function only.
    #[param(value_type = Option<String>)]
    function: Option<FunctionName>,
    /// Goes on after this number.
    #[serde(default)]
    after: u64,
    /// At most this many, 1 to 100.
    limit: Option<usize>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Redrive {
    /// The subject it is published to; without it only its function gets it again.
    to: Option<String>,
}

/// Dead letters, the oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct LetterList {
    letters: Vec<LetterSummary>,
    /// The `after` that gives the next ones; absent when there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

/// A dead letter in a list.
#[derive(Serialize, ToSchema)]
pub(super) struct LetterSummary {
    /// Its number among the dead letters.
    sequence: u64,
    /// When it died, in milliseconds since the Unix epoch.
    died_ms: u64,
    #[schema(value_type = String)]
    function: FunctionName,
    /// The trigger that fired the function.
    #[schema(value_type = String)]
    trigger: TriggerId,
    subject: String,
    /// The stream that it came from.
    stream: String,
    /// Its number there.
    origin: u64,
    /// Tries that failed.
    attempts: u32,
    /// Why it died.
    reason: String,
    /// Bytes of its payload.
    size: u64,
}

/// A dead letter with all that is known of it.
#[derive(Serialize, ToSchema)]
pub(super) struct LetterDetails {
    #[serde(flatten)]
    summary: LetterSummary,
    /// Names and values in their order.
    headers: Vec<(String, String)>,
    /// The payload in Base64 (RFC 4648 §4); absent if it is larger than 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The payload, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The last lines that the function printed.
    log: Vec<String>,
}

/// What became of a letter that is tried again.
#[derive(Serialize, ToSchema)]
pub(super) struct Redriven {
    sequence: u64,
    /// Where it went, in words.
    to: String,
}

/// The dead letters.
#[utoipa::path(get, path = "/v1/dead-letters", tag = "events", params(Page),
    responses((status = 200, body = LetterList)))]
pub(super) async fn list(State(admin): State<Shared>, page: Params<Page>) -> Answer<JsonAnswer<LetterList>> {
    let Params(Page { function, after, limit }) = page;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        let detail = format!("limit is {limit}: it must be between 1 and {PAGE}");
        return Err(Failure::new(StatusCode::BAD_REQUEST, "bad-query", detail));
    }
    let letters = admin.events()?.dead.list(function.as_ref(), after, limit).await?;
    let next = letters.last().map(|letter| letter.sequence);
    Ok(JsonAnswer(LetterList { letters: letters.into_iter().map(summary).collect(), next }))
}

/// One dead letter.
#[utoipa::path(get, path = "/v1/dead-letters/{sequence}", tag = "events",
    params(("sequence" = u64, Path, description = "Its number")),
    responses((status = 200, body = LetterDetails), (status = 404, body = Problem)))]
pub(super) async fn show(State(admin): State<Shared>, at: Parameter<u64>) -> Answer<JsonAnswer<LetterDetails>> {
    let letter = admin.events()?.dead.show(at.0).await?.ok_or_else(|| absent(at.0))?;
    Ok(JsonAnswer(details(letter)))
}

/// The payload of a dead letter, byte for byte.
#[utoipa::path(get, path = "/v1/dead-letters/{sequence}/payload", tag = "events",
    params(("sequence" = u64, Path, description = "Its number")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 404, body = Problem)))]
pub(super) async fn payload(State(admin): State<Shared>, at: Parameter<u64>) -> Answer<Response> {
    let letter = admin.events()?.dead.show(at.0).await?.ok_or_else(|| absent(at.0))?;
    Ok(publish::bytes(letter.message.payload))
}

/// Tries a dead letter again: its function gets it as a new event, or the subject `to` does. Then it is deleted here.
#[utoipa::path(post, path = "/v1/dead-letters/{sequence}/redrive", tag = "events",
    params(("sequence" = u64, Path, description = "Its number"), Redrive),
    responses((status = 200, body = Redriven), (status = 404, body = Problem)))]
pub(super) async fn redrive(
    State(admin): State<Shared>,
    at: Parameter<u64>,
    how: Params<Redrive>,
) -> Answer<JsonAnswer<Redriven>> {
    let (Parameter(sequence), Params(Redrive { to })) = (at, how);
    to.as_deref().map_or(Ok(()), publish::check)?;
    let to = admin.events()?.dead.redrive(sequence, to.as_deref()).await.map_err(|error| match error {
        StoreError::NotFound(_) => absent(sequence),
        StoreError::Invalid(why) => Failure::new(StatusCode::CONFLICT, "not-redriven", why),
        other => other.into(),
    })?;
    Ok(JsonAnswer(Redriven { sequence, to }))
}

/// Throws a dead letter away.
#[utoipa::path(delete, path = "/v1/dead-letters/{sequence}", tag = "events",
    params(("sequence" = u64, Path, description = "Its number")),
    responses((status = 204, description = "It is gone"), (status = 404, body = Problem)))]
pub(super) async fn purge(State(admin): State<Shared>, at: Parameter<u64>) -> Answer<StatusCode> {
    let there = admin.events()?.dead.purge(at.0).await?;
    if there { Ok(StatusCode::NO_CONTENT) } else { Err(absent(at.0)) }
}

fn absent(sequence: u64) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "no-dead-letter", format!("there is no dead letter {sequence}"))
}

fn summary(letter: Letter) -> LetterSummary {
    let Letter { sequence, died_ms, function, trigger, stream, origin, attempts, reason, message, size, .. } = letter;
    let subject = message.subject;
    LetterSummary { sequence, died_ms, function, trigger, subject, stream, origin, attempts, reason, size }
}

fn details(mut letter: Letter) -> LetterDetails {
    let (headers, log) = (std::mem::take(&mut letter.message.headers), std::mem::take(&mut letter.log));
    let payload = std::mem::take(&mut letter.message.payload);
    let payload = Some(payload).filter(|payload| payload.len() <= SHOWN);
    let text = payload.as_ref().and_then(|payload| std::str::from_utf8(payload).ok().map(str::to_owned));
    let payload = payload.map(|payload| STANDARD.encode(payload));
    LetterDetails { summary: summary(letter), headers, payload, text, log }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_api::Message;

    fn letter(payload: &'static [u8]) -> Letter {
        Letter {
            sequence: 7,
            died_ms: 1,
            function: "ship".parse().unwrap(),
            trigger: TriggerId::calls(),
            stream: "ORDERS".into(),
            origin: 3,
            attempts: 5,
            reason: "status 500".into(),
            log: vec!["no stock".into()],
            message: Message::new("orders.paid", payload).with("A", "1").with("A", "2"),
            size: payload.len() as u64,
        }
    }

    #[test]
    fn a_payload_is_told_in_base64_and_as_text_where_it_is_some() {
        let told = serde_json::to_value(details(letter(b"hi"))).unwrap();
        assert_eq!((&told["payload"], &told["text"]), (&"aGk=".into(), &"hi".into()));
        assert_eq!(told["headers"], serde_json::json!([["A", "1"], ["A", "2"]]));
        assert_eq!(
            (&told["sequence"], &told["subject"], &told["trigger"]),
            (&7.into(), &"orders.paid".into(), &"async".into())
        );
        let told = serde_json::to_value(details(letter(&[0xff]))).unwrap();
        assert_eq!((&told["payload"], told.get("text")), (&"/w==".into(), None));
        assert!(details(letter(&[0; SHOWN])).payload.is_some() && details(letter(&[0; SHOWN + 1])).payload.is_none());
    }
}
