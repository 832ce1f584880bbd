//! The client's calls about messages, dead letters and calls that nobody waits for.

use bytes::Bytes;
use dunlin_api::FunctionName;
use http::{HeaderName, HeaderValue, Method, header};
use reqwest::{RequestBuilder, Response};
use std::time::Duration;

use super::Client;
use crate::wire::{Letter, LetterPage, Published, Record, Redriven};

/// Carries one header of a message.
const MESSAGE_HEADER: HeaderName = HeaderName::from_static("dunlin-header");
/// One question waits for so long at most; who waits longer asks again, and learns in between of a node that is gone.
const ASK: Duration = Duration::from_secs(20);

/// A message to publish.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) subject: String,
    /// Each as `Name: value`.
    pub(crate) headers: Vec<HeaderValue>,
    pub(crate) payload: Bytes,
}

/// A reply to a message.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Bytes,
}

impl Client {
    /// Publishes a message; says where it went.
    pub(crate) async fn publish(&self, message: &Outgoing) -> anyhow::Result<Published> {
        self.json(self.message(message, "")).await
    }

    /// Publishes a message and waits for a reply.
    pub(crate) async fn request_reply(&self, message: &Outgoing, wait: Duration) -> anyhow::Result<Reply> {
        let request = self.message(message, &format!("?request_ms={}", wait.as_millis()));
        let answer = self.success(self.answer(request).await?).await?;
        let fields = answer.headers().get_all(MESSAGE_HEADER).iter();
        let headers = fields.filter_map(|field| {
            let (name, value) = std::str::from_utf8(field.as_bytes()).ok()?.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        });
        Ok(Reply { headers: headers.collect(), payload: answer.bytes().await? })
    }

    fn message(&self, message: &Outgoing, query: &str) -> RequestBuilder {
        let path = format!("/v1/publish/{}{query}", segment(&message.subject));
        let request = self.request(Method::POST, &path).header(header::CONTENT_TYPE, "application/octet-stream");
        let headers = message.headers.iter();
        headers.fold(request, |request, field| request.header(MESSAGE_HEADER, field)).body(message.payload.clone())
    }

    /// Dead letters after number `after`, the oldest first.
    pub(crate) async fn letters(
        &self,
        function: Option<&FunctionName>,
        after: u64,
        limit: usize,
    ) -> anyhow::Result<LetterPage> {
        let function = function.map(|name| format!("&function={name}")).unwrap_or_default();
        let path = format!("/v1/dead-letters?after={after}&limit={limit}{function}");
        self.json(self.request(Method::GET, &path)).await
    }

    /// One dead letter with all that is known of it.
    pub(crate) async fn letter(&self, number: u64) -> anyhow::Result<Letter> {
        self.json(self.request(Method::GET, &format!("/v1/dead-letters/{number}"))).await
    }

    /// The payload of a dead letter.
    pub(crate) async fn letter_payload(&self, number: u64) -> anyhow::Result<Response> {
        let request = self.request(Method::GET, &format!("/v1/dead-letters/{number}/payload"));
        self.success(self.answer(request).await?).await
    }

    /// Tries a dead letter again: gives it to its function, or publishes it to `to`.
    pub(crate) async fn redrive(&self, number: u64, to: Option<&str>) -> anyhow::Result<Redriven> {
        let to = to.map(|to| format!("?to={}", segment(to))).unwrap_or_default();
        self.json(self.request(Method::POST, &format!("/v1/dead-letters/{number}/redrive{to}"))).await
    }

    /// Throws a dead letter away.
    pub(crate) async fn purge(&self, number: u64) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/dead-letters/{number}"))).await
    }

    /// How far a call is that nobody waits for, as soon as it has ended, or after `wait`.
    pub(crate) async fn record(&self, id: &str, wait: Duration) -> anyhow::Result<Record> {
        let wait = wait.min(ASK).as_millis();
        self.json(self.request(Method::GET, &format!("/v1/invocations/{}?wait_ms={wait}", segment(id)))).await
    }

    /// What such a call answered. Whatever comes back is the answer.
    pub(crate) async fn result(&self, id: &str) -> anyhow::Result<Response> {
        self.answer(self.request(Method::GET, &format!("/v1/invocations/{}/result", segment(id)))).await
    }

    /// Cancels such a call.
    pub(crate) async fn cancel(&self, id: &str) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/invocations/{}", segment(id)))).await
    }
}

/// `text` as one segment of a path or one value of a query: all that is not unreserved (RFC 3986 §2.3) is escaped.
fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn whatever_a_subject_holds_stays_one_segment() {
        assert_eq!(segment("orders.eu-1.paid_2"), "orders.eu-1.paid_2");
        assert_eq!(segment("a/b?c=*.>ä"), "a%2Fb%3Fc%3D%2A.%3E%C3%A4");
    }
}
