//! What a handler returns, as the answer that decides what becomes of the event.

#[cfg(feature = "json")]
use std::any::Any;
use std::fmt;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};

use crate::{Error, IntoResponse, Response};

/// Why an event was not handled, and whether it comes again.
///
/// Every `std::error::Error` converts into one that is tried again by the trigger's backoff, so `?` works. A
/// [`dunlin_sdk::Error`](Error) keeps its status: 429 and 5xx come again, other 4xx never will work.
///
/// The text is kept with a dead letter. Whoever sent a request over NATS reads it only from [`retry_after`](Self::retry_after),
/// [`reject`](Self::reject) and errors that were made public.
pub struct EventError {
    error: Error,
    after: Option<Duration>,
}

impl EventError {
    /// Comes again after `time`, in whole seconds, rounded up, an hour at most. It counts as an attempt.
    pub fn retry_after(time: Duration, why: impl Into<String>) -> Self {
        let error = Error::new(StatusCode::SERVICE_UNAVAILABLE, why.into()).public();
        Self { error, after: Some(time) }
    }

    /// It will never work: a dead letter at once.
    pub fn reject(why: impl Into<String>) -> Self {
        Error::new(StatusCode::UNPROCESSABLE_ENTITY, why.into()).public().into()
    }

    /// Comes again by the trigger's backoff, as every other error does.
    pub fn failed(why: impl Into<String>) -> Self {
        Error::new(StatusCode::INTERNAL_SERVER_ERROR, why.into()).into()
    }

    /// The answer. Everything is said to the platform, and to a requester only what is public.
    fn into_answer(self, to_requester: bool) -> Response {
        let answer = if to_requester { self.error } else { self.error.public() }.into_response();
        match self.after {
            Some(time) => {
                let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
                answer.with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
            }
            None => answer,
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for EventError {
    fn from(cause: E) -> Self {
        Error::from(cause).into()
    }
}

impl From<Error> for EventError {
    fn from(error: Error) -> Self {
        Self { error, after: None }
    }
}

impl fmt::Display for EventError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(out)
    }
}

impl fmt::Debug for EventError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(out)
    }
}

/// What a handler may return: nothing, or a `Result` of a [`Reply`] and of what converts into an [`EventError`].
pub trait IntoOutcome {
    /// The answer to send; `to_requester` when it reaches somebody who waits for a reply.
    fn into_outcome(self, to_requester: bool) -> Response;
}

impl IntoOutcome for () {
    fn into_outcome(self, _to_requester: bool) -> Response {
        Response::new(StatusCode::NO_CONTENT)
    }
}

impl<T: Reply, E: Into<EventError>> IntoOutcome for Result<T, E> {
    fn into_outcome(self, to_requester: bool) -> Response {
        match self.map_err(Into::into).and_then(|value| Ok(value.into_reply()?)) {
            Ok(answer) => answer,
            Err(error) => error.into_answer(to_requester),
        }
    }
}

/// What answers a request over NATS: `()` (empty), `Vec<u8>` and `String` (as they are), a [`Response`] (its body; its status
/// decides), and with the feature `json` every type that serde writes. Events that nobody waits for do without it.
pub trait Reply: Sized {
    /// The answer that carries it.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn into_reply(self) -> Result<Response, Error>;
}

impl Reply for Response {
    fn into_reply(self) -> Result<Response, Error> {
        Ok(self)
    }
}

#[cfg(not(feature = "json"))]
impl Reply for () {
    fn into_reply(self) -> Result<Response, Error> {
        Ok(Response::new(StatusCode::NO_CONTENT))
    }
}

#[cfg(not(feature = "json"))]
impl Reply for Vec<u8> {
    fn into_reply(self) -> Result<Response, Error> {
        Ok(Response::bytes(self))
    }
}

#[cfg(not(feature = "json"))]
impl Reply for String {
    fn into_reply(self) -> Result<Response, Error> {
        Ok(Response::text(self))
    }
}

// The raw ones are told apart as those of `Payload` are.
#[cfg(feature = "json")]
impl<T: serde::Serialize + 'static> Reply for T {
    fn into_reply(mut self) -> Result<Response, Error> {
        let value: &mut dyn Any = &mut self;
        if let Some(bytes) = value.downcast_mut::<Vec<u8>>() {
            Ok(Response::bytes(std::mem::take(bytes)))
        } else if let Some(text) = value.downcast_mut::<String>() {
            Ok(Response::text(std::mem::take(text)))
        } else if value.is::<()>() {
            Ok(Response::new(StatusCode::NO_CONTENT))
        } else {
            Response::json(&self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, `retry-after` and body of what a handler returned.
    fn told(outcome: impl IntoOutcome, to_requester: bool) -> (u16, Option<String>, String) {
        let answer = outcome.into_outcome(to_requester);
        let after = answer.headers().iter().find(|(name, _)| name == header::RETRY_AFTER);
        let after = after.map(|(_, value)| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), after, String::from_utf8(answer.into_bytes()).unwrap())
    }

    fn err(error: impl Into<EventError>) -> Result<(), EventError> {
        Err(error.into())
    }

    #[test]
    fn each_outcome_has_its_row_in_the_table() {
        assert_eq!(told((), false), (204, None, String::new()));
        assert_eq!(told(Ok::<_, EventError>(()), false), (204, None, String::new()));
        assert_eq!(told(err(EventError::reject("no card")), false), (422, None, "no card\n".into()));
        assert_eq!(told(err(EventError::failed("no luck")), false), (500, None, "no luck\n".into()));
        assert_eq!(told(err(std::fmt::Error), false).0, 500);
        assert_eq!(told(err(Error::bad_request("what?")), false), (400, None, "what?\n".into()));
    }

    #[test]
    fn a_wait_is_whole_seconds_and_never_shorter_than_asked() {
        for (time, seconds) in [(Duration::ZERO, "0"), (Duration::from_millis(1), "1"), (Duration::from_secs(60), "60")]
        {
            let (status, after, why) = told(err(EventError::retry_after(time, "busy")), false);
            assert_eq!((status, after.as_deref(), &*why), (503, Some(seconds), "busy\n"));
        }
        let longest = told(err(EventError::retry_after(Duration::MAX, "")), false);
        assert_eq!(longest.1, Some(u64::MAX.to_string()));
    }

    #[test]
    fn a_requester_reads_only_what_is_public() {
        let secret = || err(std::io::Error::other("secret path"));
        assert_eq!(told(secret(), false).2, "secret path\n");
        assert_eq!(told(secret(), true).2, "500 Internal Server Error\n");
        assert_eq!(told(err(EventError::reject("no card")), true).2, "no card\n");
    }

    #[test]
    fn texts_and_bytes_are_replies_as_they_are() {
        assert_eq!(told(Ok::<_, EventError>("4\"2".to_owned()), true), (200, None, "4\"2".into()));
        assert_eq!(told(Ok::<_, EventError>(b"42".to_vec()), true), (200, None, "42".into()));
        let own = Response::text("later").with_status(StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(told(Ok::<_, EventError>(own), true), (429, None, "later".into()));
    }

    #[cfg(feature = "json")]
    #[test]
    fn other_values_are_json() {
        assert_eq!(told(Ok::<_, EventError>(vec!["a", "b"]), true), (200, None, r#"["a","b"]"#.into()));
    }
}
