//! What a function answers when it cannot answer.
//!
//! Made by `?` in handlers and by the SDK. Promises that the cause reaches stderr (the function's log) once, and the
//! caller only when it was made public.

use std::fmt;

use http::StatusCode;

use crate::{IntoResponse, Response};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A status for the caller and a cause for the log.
///
/// Every `std::error::Error` converts into one with status 500. (This is why `Error` is not itself a
/// `std::error::Error`: the two conversions would overlap.)
pub struct Error {
    status: StatusCode,
    cause: Cause,
    public: bool,
}

impl Error {
    /// An error with this status, whose cause (a text or another error) goes to the log only.
    pub fn new(status: StatusCode, cause: impl Into<Cause>) -> Self {
        Self { status, cause: cause.into(), public: false }
    }

    /// 400, and the caller may read why.
    pub fn bad_request(cause: impl Into<Cause>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, cause).public()
    }

    /// 404, and the caller may read why.
    pub fn not_found(cause: impl Into<Cause>) -> Self {
        Self::new(StatusCode::NOT_FOUND, cause).public()
    }

    /// Lets the caller read the cause.
    #[must_use]
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    /// The status the caller gets.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What went wrong; `downcast_ref` finds the error it was made from.
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.cause
    }

    fn text(&self) -> String {
        if self.public {
            return format!("{}\n", self.cause);
        }
        format!("{} {}\n", self.status.as_str(), self.status.canonical_reason().unwrap_or_default())
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(cause: E) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, cause)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.status.as_str(), self.cause)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        log("answered with an error", &self);
        Response::text(self.text()).with_status(self.status)
    }
}

/// One line on stderr, causes included.
#[allow(clippy::print_stderr, reason = "stderr is the function's log")]
pub(crate) fn log(what: &str, error: &Error) {
    let mut line = format!("{what}: {error}");
    let mut cause = error.cause.source();
    while let Some(deeper) = cause {
        line.push_str(&format!(": {deeper}"));
        cause = deeper.source();
    }
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_the_cause_unless_it_was_made_public() {
        let error = Error::from(std::io::Error::other("secret path"));
        assert_eq!(error.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(error.text(), "500 Internal Server Error\n");
        assert_eq!(error.public().text(), "secret path\n");
    }

    #[test]
    fn keeps_the_error_it_was_made_from() {
        let error = Error::new(StatusCode::BAD_GATEWAY, std::io::Error::other("reset"));
        assert!(error.cause().downcast_ref::<std::io::Error>().is_some());
        assert_eq!(error.to_string(), "502: reset");
    }
}
