//! A call as it stands in the cluster's own queue: the head of its request in one header, its body as the payload, or in
//! a blob that another header names.

use bytes::Bytes;
use dunlin_api::{FunctionName, InvocationId, Message, trigger::TriggerId};
use http::{HeaderMap, HeaderName, HeaderValue, Request, request::Parts};
use serde::{Deserialize, Serialize};

use super::record::{CallRecord, Entry, State};
use crate::events::item;

/// The header with a call's [`Head`] in JSON.
pub(super) const CALL: &str = "Dunlin-Call";

/// Everything about a call that is not its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub id: InvocationId,
    pub submitted_ms: u64,
    pub keep_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<String>,
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, String)>,
}

/// A call that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub function: FunctionName,
    pub head: Head,
    pub body: Payload,
}

/// A body that was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Inline(Bytes),
    Blob { name: String, bytes: u64 },
}

impl Payload {
    pub(super) fn blob(&self) -> Option<String> {
        match self {
            Self::Inline(_) => None,
            Self::Blob { name, .. } => Some(name.clone()),
        }
    }
}

impl Item {
    /// The message of this call.
    pub(super) fn message(&self) -> Message {
        let head = serde_json::to_string(&self.head).expect("a head has only string keys");
        let queue = item::queue(&self.function, &TriggerId::calls());
        let payload = if let Payload::Inline(body) = &self.body { body.clone() } else { Bytes::new() };
        let message = Message::new(queue, payload).with(item::KIND, item::KIND_CALL).with(CALL, head);
        match self.body.blob() {
            Some(name) => message.with(item::BLOB, name),
            None => message,
        }
    }

    /// The call in `message`.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn read(message: &Message) -> Result<Self, String> {
        let owner = item::owner(&message.subject);
        let (function, _) = owner.ok_or_else(|| format!("`{}` is not the queue of a function", message.subject))?;
        let head = message.header(CALL).ok_or_else(|| format!("it has no header {CALL}"))?;
        let head = serde_json::from_str(head).map_err(|error| format!("its header {CALL} is malformed: {error}"))?;
        let body = match message.header(item::BLOB) {
            Some(name) => Payload::Blob { name: name.into(), bytes: 0 },
            None => Payload::Inline(message.payload.clone()),
        };
        Ok(Self { function, head, body })
    }

    /// The record of this call before it ran.
    pub(super) fn entry(&self) -> Entry {
        let call = CallRecord {
            id: self.head.id,
            function: self.function.clone(),
            state: State::Queued,
            submitted_ms: self.head.submitted_ms,
            started_ms: None,
            ended_ms: None,
            attempts: 0,
            node: None,
            reason: None,
            host: self.head.host.clone(),
            response: None,
        };
        let idempotency = self.head.idempotency.clone();
        let (keep_ms, blob) = (self.head.keep_ms, self.body.blob());
        Entry { call, keep_ms, blob, idempotency, response_blob: None, body: Bytes::new() }
    }
}

impl Head {
    /// The request that was sent, without its body.
    ///
    /// # Errors
    /// What in it is no HTTP.
    pub(super) fn request(&self) -> Result<Request<()>, String> {
        let request = Request::builder().method(&*self.method).uri(&*self.target).body(());
        let mut request = request.map_err(|error| error.to_string())?;
        *request.headers_mut() = fields(&self.fields).ok_or("a header field is malformed")?;
        Ok(request)
    }
}

/// Header fields as text: each byte of a value is one character, so that none is lost and most can be read.
pub(super) fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// The header fields that [`shown`] made text of.
pub(super) fn fields(shown: &[(String, String)]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(shown.len());
    for (name, value) in shown {
        let bytes: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(c).ok()).collect();
        headers.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(&bytes?).ok()?);
    }
    Some(headers)
}

/// Method and target as they are kept.
pub(super) fn line(parts: &Parts) -> (String, String) {
    (parts.method.to_string(), parts.uri.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(body: Payload) -> Item {
        let request = Request::builder().method("PATCH").uri("https://a.example:81/x%20y?q=1&r");
        let request = request.header("x-b", "2").header("x-a", "1").header("x-b", b"\xff\xe4\"\\".as_slice());
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let (method, target) = line(&parts);
        let fields = shown(&parts.headers);
        let head = Head {
            id: InvocationId::new(),
            submitted_ms: 7,
            keep_ms: 8,
            host: Some("a.example".into()),
            idempotency: None,
            method,
            target,
            fields,
        };
        Item { function: "f".parse().unwrap(), head, body }
    }

    #[test]
    fn a_call_comes_back_as_it_was() {
        let sent = item(Payload::Inline(Bytes::from_static(b"\0body")));
        let message = sent.message();
        assert_eq!((&*message.subject, message.header("dunlin-kind")), ("f.async", Some("call")));
        assert_eq!(Item::read(&message), Ok(sent.clone()));
        let request = sent.head.request().unwrap();
        assert_eq!((request.method().as_str(), request.uri().path()), ("PATCH", "/x%20y"));
        let values: Vec<_> = request.headers().get_all("x-b").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [b"2".as_slice(), b"\xff\xe4\"\\"]);
        let large = item(Payload::Blob { name: "b".into(), bytes: 9 });
        assert_eq!(Item::read(&large.message()).unwrap().body.blob().as_deref(), Some("b"));
    }

    #[test]
    fn what_is_no_call_is_refused() {
        for bad in [
            Message::new("f.async", ""),
            Message::new("no queue", "").with(CALL, "{}"),
            Message::new("f.async", "").with(CALL, "{}"),
        ] {
            assert!(Item::read(&bad).is_err(), "{bad:?}");
        }
        let mut bad = item(Payload::Inline(Bytes::new())).head;
        bad.fields.push(("x".into(), "\u{100}".into()));
        assert!(bad.request().is_err());
    }
}
