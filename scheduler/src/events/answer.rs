//! From what a function answered, or the error there was instead, to what becomes of its event.
//!
//! [`Answer::read`] reads a response to its end, because it is over only then: a body that breaks off is a failure. At
//! most [`KEPT`] bytes of a body stay in memory, the rest is read and forgotten; time is bounded by the invocation's deadline.

use bytes::{Bytes, BytesMut};
use dunlin_api::{Body, InvokeError, Problem};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use std::time::Duration;

use super::Outcome;

/// Bytes of a response body that are kept for a reply.
pub(crate) const KEPT: usize = 1 << 20;
/// Longest wait that a function may ask for.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
/// Characters of a reason.
const REASON: usize = 300;

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status; that of the error if there was one.
    pub status: StatusCode,
    /// The type of its body.
    pub content_type: Option<HeaderValue>,
    /// What was kept of its body.
    pub body: Bytes,
    /// Bytes that the body had.
    pub size: u64,
    /// What becomes of the event.
    pub outcome: Outcome,
    /// Whether the function has sent its reply itself, if it wanted to: it handles messages, not requests.
    pub replied: bool,
}

impl Answer {
    /// Reads `result`. `started` says whether guest code had begun, when it is called; `now_ms` is the time that a date in
    /// `Retry-After` is compared with.
    pub(crate) async fn read(
        result: Result<Response<Body>, InvokeError>,
        started: impl FnOnce() -> bool,
        now_ms: u64,
    ) -> Self {
        let response = match result {
            Ok(response) => response,
            Err(error) => return Self::failed(&error, started()),
        };
        let (parts, mut body) = response.into_parts();
        let (mut kept, mut size) = (BytesMut::new(), 0);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    let data = frame.into_data().unwrap_or_default();
                    size += data.len() as u64;
                    kept.extend_from_slice(&data[..data.len().min(KEPT - kept.len())]);
                }
                Err(error) => match error.downcast_ref::<InvokeError>() {
                    Some(error) => return Self::failed(error, true),
                    None => return Self::failed(&InvokeError::BadResponse(format!("it broke off: {error}")), true),
                },
            }
        }
        let outcome = judge(parts.status, &parts.headers, &kept, now_ms);
        let content_type = parts.headers.get(header::CONTENT_TYPE).cloned();
        Self { status: parts.status, content_type, body: kept.freeze(), size, outcome, replied: false }
    }

    fn failed(error: &InvokeError, started: bool) -> Self {
        let (body, content_type) = (Bytes::new(), None);
        Self {
            status: error.status(),
            content_type,
            body,
            size: 0,
            outcome: outcome_of(error, started),
            replied: false,
        }
    }
}

/// What a failed call means for its event.
pub(crate) fn outcome_of(error: &InvokeError, started: bool) -> Outcome {
    use InvokeError as E;
    let reason = one_line(&error.to_string());
    match error {
        E::Concurrency { .. } | E::Busy(_) | E::Draining | E::NotReady(_) | E::NoNode(_) | E::NoFunction(_) => {
            Outcome::NotRun { reason }
        }
        E::Lost { .. } | E::Silent { .. } => Outcome::NotRun { reason },
        // It waited for its code or for a slot until its time was over.
        E::Deadline(_) if !started => Outcome::NotRun { reason },
        E::BadRequest(_) | E::BodyTooLarge(_) | E::NoRoute(_) | E::Method(_) => Outcome::Rejected { reason },
        E::Trap(_) | E::NoResponse(_) | E::BadResponse(_) | E::Cpu(_) | E::Memory(_) | E::Deadline(_) => {
            Outcome::Failed { after: None, reason }
        }
        // A host that fails at this event each time must not try it for ever.
        E::BodyTimeout(_) | E::Internal(_) => Outcome::Failed { after: None, reason },
    }
}

/// What a function's answer means for its event.
pub(crate) fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8], now_ms: u64) -> Outcome {
    if status.is_success() {
        return Outcome::Done;
    }
    let reason = reason(status, body);
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let after = headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now_ms));
            Outcome::Failed { after, reason }
        }
        _ if status.is_server_error() => Outcome::Failed { after: None, reason },
        _ => Outcome::Rejected { reason },
    }
}

/// `Retry-After` as seconds or as a date (RFC 9110 §10.2.3), [`LONGEST_WAIT`] at most.
fn retry_after(value: &str, now_ms: u64) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number has are a long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_millisecond();
        Duration::from_millis(u64::try_from(date).unwrap_or_default().saturating_sub(now_ms))
    };
    Some(wait.min(LONGEST_WAIT))
}

/// The status, and what the body says in its first line or in the detail of its problem document.
fn reason(status: StatusCode, body: &[u8]) -> String {
    let detail = serde_json::from_slice::<Problem>(body).map(|problem| problem.detail);
    let detail = detail.unwrap_or_else(|_| String::from_utf8_lossy(&body[..body.len().min(4 * REASON)]).into_owned());
    let first = detail.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let status = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    one_line(&if first.is_empty() { status.trim_end().to_owned() } else { format!("{}: {first}", status.trim_end()) })
}

/// Text for a header, a log and a table: one line, bounded.
pub(crate) fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON).collect();
    if text.chars().nth(REASON).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_api::{ByteSize, Load};
    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    const NOW_MS: u64 = 784_111_777_000; // Sun, 06 Nov 1994 08:49:37 GMT

    fn judged(status: u16, retry_after: Option<&str>, body: &str) -> Outcome {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
        }
        judge(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), NOW_MS)
    }

    fn failed(seconds: Option<u64>, reason: &str) -> Outcome {
        Outcome::Failed { after: seconds.map(Duration::from_secs), reason: reason.into() }
    }

    fn rejected(reason: &str) -> Outcome {
        Outcome::Rejected { reason: reason.into() }
    }

    #[test]
    fn the_table_of_answers() {
        for (status, retry_after, body, expected) in [
            (200, None, "", Outcome::Done),
            (202, Some("9"), "x", Outcome::Done),
            (299, None, "", Outcome::Done),
            (429, None, "", failed(None, "429 Too Many Requests")),
            (429, Some("7"), "", failed(Some(7), "429 Too Many Requests")),
            (503, Some("0"), "", failed(Some(0), "503 Service Unavailable")),
            (503, Some("3600"), "", failed(Some(3_600), "503 Service Unavailable")),
            (503, Some("3601"), "", failed(Some(3_600), "503 Service Unavailable")),
            (503, Some("99999999999999999999999"), "", failed(Some(3_600), "503 Service Unavailable")),
            (503, Some("Sun, 06 Nov 1994 08:49:47 GMT"), "", failed(Some(10), "503 Service Unavailable")),
            (503, Some("Sun, 06 Nov 1994 08:49:27 GMT"), "", failed(Some(0), "503 Service Unavailable")),
            (503, Some("soon"), "", failed(None, "503 Service Unavailable")),
            (503, Some("-1"), "", failed(None, "503 Service Unavailable")),
            (500, Some("7"), "\n  out of luck \nmore", failed(None, "500 Internal Server Error: out of luck")),
            (502, None, "", failed(None, "502 Bad Gateway")),
            (599, None, "odd", failed(None, "599: odd")),
            (400, None, "no such order", rejected("400 Bad Request: no such order")),
            (404, None, "", rejected("404 Not Found")),
            (
                422,
                None,
                r#"{"type":"a","title":"b","status":422,"detail":"no","code":"c"}"#,
                rejected("422 Unprocessable Entity: no"),
            ),
            (301, None, "", rejected("301 Moved Permanently")),
            (304, None, "", rejected("304 Not Modified")),
            (103, None, "", rejected("103 Early Hints")),
        ] {
            assert_eq!(judged(status, retry_after, body), expected, "{status} {retry_after:?}");
        }
    }

    #[test]
    fn the_table_of_errors() {
        use InvokeError as E;
        let (node, name) = (|| "n".parse().unwrap(), || "f".parse().unwrap());
        let second = Duration::from_secs(1);
        let not_run = [
            E::Concurrency { limit: 1 },
            E::Busy(Load::default()),
            E::Draining,
            E::NotReady("x".into()),
            E::NoNode("x".into()),
            E::NoFunction(name()),
            E::Lost { node: node() },
            E::Silent { node: node() },
        ];
        assert!(not_run.iter().all(|e| matches!(outcome_of(e, true), Outcome::NotRun { .. })));
        let failed = [
            E::Trap("x".into()),
            E::NoResponse("x".into()),
            E::BadResponse("x".into()),
            E::Cpu(second),
            E::Memory(ByteSize::mib(1)),
            E::Deadline(second),
            E::Internal("x".into()),
            E::BodyTimeout(second),
        ];
        assert!(failed.iter().all(|e| matches!(outcome_of(e, true), Outcome::Failed { after: None, .. })));
        assert!(matches!(outcome_of(&E::Deadline(second), false), Outcome::NotRun { .. }));
        let rejected = [
            E::BadRequest("x".into()),
            E::BodyTooLarge(ByteSize::mib(1)),
            E::NoRoute("x".into()),
            E::Method("x".into()),
        ];
        assert!(rejected.iter().all(|e| matches!(outcome_of(e, true), Outcome::Rejected { .. })));
    }

    #[test]
    fn a_reason_is_one_bounded_line() {
        assert_eq!(one_line("a\r\nb"), "a  b");
        assert_eq!(one_line(&"ä".repeat(REASON)).chars().count(), REASON);
        assert_eq!(one_line(&"ä".repeat(REASON + 1)).chars().count(), REASON + 1);
    }

    fn streamed(chunks: Vec<Result<usize, dunlin_api::BodyError>>) -> Result<Response<Body>, InvokeError> {
        let frames = chunks.into_iter().map(|chunk| chunk.map(|size| Frame::data(Bytes::from(vec![b'x'; size]))));
        Ok(Response::new(Body::stream(StreamBody::new(stream::iter(frames)))))
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_end_and_kept_to_a_bound() {
        let read = Answer::read(streamed(vec![Ok(KEPT - 1), Ok(1)]), || true, 0).await;
        assert_eq!((read.body.len(), read.size, read.outcome), (KEPT, KEPT as u64, Outcome::Done));
        let read = Answer::read(streamed(vec![Ok(KEPT - 1), Ok(9)]), || true, 0).await;
        assert_eq!((read.body.len(), read.size, read.outcome), (KEPT, KEPT as u64 + 8, Outcome::Done));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_a_failure_unless_its_node_was_lost() {
        let broken = Answer::read(streamed(vec![Ok(1), Err("cut".into())]), || true, 0).await;
        assert!(matches!(broken.outcome, Outcome::Failed { reason, .. } if reason.contains("cut")));
        let lost = InvokeError::Lost { node: "n".parse().unwrap() };
        let lost = Answer::read(streamed(vec![Ok(1), Err(Box::new(lost))]), || true, 0).await;
        assert!(matches!(lost.outcome, Outcome::NotRun { .. }));
    }
}
