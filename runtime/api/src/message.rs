//! Messages on subjects, and the trait by which guests send them.

use bytes::Bytes;
use std::time::Duration;

use crate::{BoxFuture, StoreError};

/// A message as NATS has it: a subject, headers in order, a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it is published.
    pub subject: String,
    /// Names and values in their order; a name may come more than once.
    pub headers: Vec<(String, String)>,
    /// Its content.
    pub payload: Bytes,
}

impl Message {
    /// A message without headers.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), headers: Vec::new(), payload: payload.into() }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The first value of the header `name`, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Bytes that it takes on the wire, as NATS counts them against `max_payload`: headers and payload.
    pub fn size(&self) -> usize {
        let line = |(name, value): &(String, String)| name.len() + value.len() + ": \r\n".len();
        let headers: usize = self.headers.iter().map(line).sum();
        // `NATS/1.0` with its end, and the empty line.
        let frame = if self.headers.is_empty() { 0 } else { "NATS/1.0\r\n\r\n".len() };
        headers + frame + self.payload.len()
    }
}

/// What became of a message that was published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The stream that keeps it and its number there; none if no stream takes this subject, so that only those who
    /// listened at that moment have it.
    pub stored: Option<(String, u64)>,
}

/// Publishes messages, for guests and for people. Grants were checked before.
pub trait Publish: Send + Sync + 'static {
    /// Publishes `message`. If a stream takes its subject, it is kept by it when this returns. A reply, to the subject of an
    /// [inbox](crate::subject::is_inbox), is only sent.
    ///
    /// # Errors
    /// `Invalid` for a subject or a size that is not allowed, `Unavailable`.
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<Published, StoreError>>;

    /// Publishes `message` with a subject to reply to and waits for the first reply.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); `NotFound` if nobody listens, `Unavailable` if no reply comes within `timeout`.
    fn request(&self, message: Message, timeout: Duration) -> BoxFuture<'_, Result<Message, StoreError>>;
}
