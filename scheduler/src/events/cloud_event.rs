//! From a message to the request that its function sees: CloudEvents 1.0, HTTP protocol binding §3.1 (binary mode).
//!
//! Called by [`super::work`] for every try and by [`crate::dead_letters`], which writes the attributes into a message
//! that loses its place. A message that is a CloudEvent by the NATS protocol binding, in binary mode (`ce-…` headers) or in
//! structured mode (`application/cloudevents+json`), keeps its attributes; every other one gets those of its [`Origin`].
//! It promises that fields which only Dunlin sets cannot come from a message. Bounds: [`MAX_FIELDS`], [`MAX_FIELD_BYTES`].

mod structured;

use bytes::Bytes;
use dunlin_api::{FunctionName, Message, trigger::TriggerId};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::collections::BTreeMap;

use super::item;
use crate::store::events::{CHANGED, OPERATION};

/// Headers of a message that its function sees; those beyond are left out.
pub(crate) const MAX_FIELDS: usize = 256;
/// Bytes of those headers, names included; those beyond are left out.
pub(crate) const MAX_FIELD_BYTES: usize = 64 << 10;

/// What the HTTP binding escapes in a value (§3.1.3.2); what is not ASCII is escaped always.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
/// What a segment of a path cannot have in it (RFC 3986 §3.3).
const NO_SEGMENT: &AsciiSet = &ESCAPED
    .add(b'#')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
/// Fields of one hop or of the request itself: never taken from a message.
const NOT_TAKEN: [&str; 12] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Attributes by name, as text.
pub(crate) type Attributes = BTreeMap<String, String>;

/// What the attributes of a message are that is no CloudEvent itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The same for every delivery.
    pub id: String,
    /// Where it comes from: a URI reference.
    pub source: String,
    /// What happened.
    pub kind: &'static str,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

impl Origin {
    /// That of a message which a stream holds; the changes of keys say so in their headers.
    pub(crate) fn stored(stream: &str, sequence: u64, time_ms: u64, message: &Message) -> Self {
        let id = format!("{stream}/{sequence}");
        match (message.header(OPERATION), message.header(CHANGED)) {
            (Some(operation), Some(changed)) => {
                let kind = if operation == "put" { "dev.dunlin.kv.put" } else { "dev.dunlin.kv.delete" };
                let source = match changed.split_once(' ') {
                    Some(("objects", name)) => format!("/objects/{name}"),
                    Some((kind, name)) => format!("/kv/{kind}/{name}"),
                    None => format!("/kv/{changed}"),
                };
                Self { id, source, kind, time_ms }
            }
            _ => Self { id, source: format!("/streams/{stream}"), kind: "dev.dunlin.message", time_ms },
        }
    }

    /// That of a message which nothing holds.
    pub(crate) fn passing(id: String, subject: &str, time_ms: u64) -> Self {
        let source = format!("/subjects/{}", utf8_percent_encode(subject, NO_SEGMENT));
        Self { id, source, kind: "dev.dunlin.message", time_ms }
    }

    fn attributes(&self, subject: &str) -> Attributes {
        let time = jiff::Timestamp::from_millisecond(i64::try_from(self.time_ms).unwrap_or_default());
        let mut attributes: Attributes = [
            ("specversion", "1.0".into()),
            ("id", self.id.clone()),
            ("source", self.source.clone()),
            ("type", self.kind.into()),
            ("time", time.unwrap_or_default().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if !subject.is_empty() {
            attributes.insert("subject".into(), subject.into());
        }
        attributes
    }
}

/// Which try this is, of which trigger.
pub(crate) struct Try<'a> {
    pub function: &'a FunctionName,
    pub trigger: &'a TriggerId,
    /// 1 for the first.
    pub attempt: u32,
    /// Where a reply goes.
    pub reply: Option<&'a str>,
}

/// The request for `message`.
///
/// # Errors
/// Why it is not a well-formed CloudEvent although it says that it is one.
pub(crate) fn request(message: &Message, origin: &Origin, which: &Try<'_>) -> Result<Request<Bytes>, String> {
    let event = read(message, origin)?;
    // Those of a plain message, without growing.
    let mut headers = HeaderMap::with_capacity(12 + message.headers.len().min(MAX_FIELDS));
    take_over(&mut headers, message);
    for (name, value) in &event.attributes {
        set(&mut headers, &format!("ce-{name}"), &escaped(value));
    }
    set(&mut headers, "ce-dunlinattempt", &which.attempt.to_string());
    set(&mut headers, "ce-dunlintrigger", which.trigger.as_str());
    if let Some(subject) = subject_of(message) {
        set(&mut headers, "dunlin-subject", subject);
    }
    if let Some(reply) = which.reply {
        set(&mut headers, "dunlin-reply-to", reply);
    }
    if let Some(content_type) = &event.content_type {
        set(&mut headers, header::CONTENT_TYPE.as_str(), content_type);
    }
    headers.insert(header::CONTENT_LENGTH, event.data.len().into());
    let mut request = Request::new(event.data);
    *request.method_mut() = Method::POST;
    let uri = format!("http://{}.internal/", which.function);
    *request.uri_mut() = uri.parse().expect("the name of a function is a DNS label");
    *request.headers_mut() = headers;
    Ok(request)
}

/// `message` with the attributes of `origin` in its headers, unless it has attributes of its own: what it needs to be the
/// same event from another place.
pub(crate) fn stamped(mut message: Message, origin: &Origin) -> Message {
    if !structured::is(&message) && !is_binary(&message) {
        let attributes = origin.attributes(subject_of(&message).unwrap_or_default());
        message.headers.extend(attributes.into_iter().map(|(name, value)| (format!("ce-{name}"), escaped(&value))));
    }
    message
}

/// A CloudEvent, whatever it was written as.
struct Event {
    attributes: Attributes,
    content_type: Option<String>,
    data: Bytes,
}

fn read(message: &Message, origin: &Origin) -> Result<Event, String> {
    if structured::is(message) {
        let event = structured::read(message)?;
        return check(&event.attributes).map(|()| event);
    }
    let content_type = message.header("content-type").map(ToOwned::to_owned);
    let data = message.payload.clone();
    if !is_binary(message) {
        let attributes = origin.attributes(subject_of(message).unwrap_or_default());
        return Ok(Event { attributes, content_type, data });
    }
    let mut attributes = Attributes::new();
    for (name, value) in &message.headers {
        if let Some(name) = attribute_name(name) {
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            attributes.entry(name).or_insert(value);
        }
    }
    check(&attributes)?;
    Ok(Event { attributes, content_type, data })
}

/// Whether a message claims to be a CloudEvent in binary mode: it has one of the attributes that all of them have.
fn is_binary(message: &Message) -> bool {
    ["ce-specversion", "ce-id", "ce-source", "ce-type"].iter().any(|name| message.header(name).is_some())
}

/// The attribute that a header of the NATS binding holds: lower case letters and digits (CloudEvents §3.1), and none of ours.
fn attribute_name(header: &str) -> Option<String> {
    let name = header.to_ascii_lowercase();
    let name = name.strip_prefix("ce-")?;
    is_attribute(name).then(|| name.to_owned())
}

fn is_attribute(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    // The type of the data is the content type of the message.
    let ours = ["dunlinattempt", "dunlintrigger", "datacontenttype"].contains(&name);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !ours
}

/// Checks what every CloudEvent must have (CloudEvents §3.1).
fn check(attributes: &Attributes) -> Result<(), String> {
    for name in ["id", "source", "type"] {
        if attributes.get(name).is_none_or(String::is_empty) {
            return Err(format!("malformed CloudEvent: its attribute `{name}` is missing"));
        }
    }
    match attributes.get("specversion").map(String::as_str) {
        Some("1.0") => Ok(()),
        Some(other) => {
            let shown: String = other.escape_debug().take(20).collect();
            Err(format!("malformed CloudEvent: its specversion is `{shown}`, not `1.0`"))
        }
        None => Err("malformed CloudEvent: its attribute `specversion` is missing".into()),
    }
}

/// The subject that a message had at first: that of an item of a queue stands in its headers.
fn subject_of(message: &Message) -> Option<&str> {
    if message.header(item::KIND).is_some() { message.header(item::SUBJECT) } else { Some(&message.subject) }
}

/// Adds the headers of `message` as `nats-…`.
fn take_over(headers: &mut HeaderMap, message: &Message) {
    let mut bytes = 0;
    for (name, value) in &message.headers {
        let name = sanitised(name);
        if name.starts_with("ce-") || name.starts_with("dunlin-") || NOT_TAKEN.contains(&&*name) {
            continue;
        }
        bytes += name.len() + value.len();
        if headers.len() >= MAX_FIELDS || bytes > MAX_FIELD_BYTES {
            return;
        }
        let name = HeaderName::try_from(format!("nats-{name}"));
        if let (Ok(name), Some(value)) = (name, carried(value)) {
            headers.append(name, value);
        }
    }
}

/// A name of which HTTP takes every byte: the others become dashes.
fn sanitised(name: &str) -> String {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    name.trim().chars().map(|c| if token(c) { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// A value that HTTP carries: its control characters are escaped.
fn carried(value: &str) -> Option<HeaderValue> {
    let value = value.trim();
    HeaderValue::from_str(value).or_else(|_| escape_controls(value)).ok()
}

fn escape_controls(value: &str) -> Result<HeaderValue, header::InvalidHeaderValue> {
    // Bytes beyond ASCII are allowed (`obs-text`, RFC 9110 §5.5).
    let mut bytes = Vec::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_control() && byte != b'\t' {
            bytes.extend(format!("%{byte:02X}").bytes());
        } else {
            bytes.push(byte);
        }
    }
    HeaderValue::from_bytes(&bytes)
}

fn escaped(value: &str) -> String {
    utf8_percent_encode(value, ESCAPED).to_string()
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Some(value)) = (HeaderName::try_from(name), carried(value)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests;
