//! Events: messages of subjects and streams, ticks of schedules, changes of keys.
//!
//! An event reaches a function as a POST in the HTTP binary binding of CloudEvents 1.0; [`Event`] is that request with a
//! typed payload, and `#[dunlin_sdk::event]` makes a function its handler. What the handler returns decides what becomes
//! of the event:
//!
//! | returned | answer | a durable event (stream, schedule, change) | a message with a reply subject |
//! | --- | --- | --- | --- |
//! | `Ok(())` | 204 | is done | gets an empty reply |
//! | `Ok(value)` | 200 | is done | gets it as the reply ([`Reply`]) |
//! | [`EventError::retry_after`] | 503 | comes again after that time | gets an error |
//! | [`EventError::reject`] | 422 | is a dead letter at once | gets an error |
//! | any other `Err`, a panic | 500 | comes again by the trigger's backoff | gets an error |
//! | (a payload of another type) | 400 | is a dead letter at once | gets an error |
//!
//! Durable events come at least once: a handler sees one again when the answer to it was lost. [`Event::id`] stays the same then.
//!
//! ```
//! # #[cfg(feature = "json")] mod example {
//! use dunlin_sdk::{Event, EventError};
//! use std::time::Duration;
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     id: String,
//!     cents: u64,
//! }
//!
//! #[dunlin_sdk::event]
//! fn on_order(event: Event<Order>) -> Result<(), EventError> {
//!     match event.data.cents {
//!         0 => Err(EventError::reject("an order of nothing")),
//!         1..1_000_000 => Ok(()),
//!         _ => Err(EventError::retry_after(Duration::from_secs(60), "somebody must look first")),
//!     }
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! One function may take both: name the event handler, which then has no attribute of its own, in that of the other.
//!
//! ```
//! use dunlin_sdk::{Event, EventError, Request, Response};
//!
//! #[dunlin_sdk::http(events = on_tick)]
//! fn handle(_request: Request) -> Response {
//!     Response::text("called\n")
//! }
//!
//! async fn on_tick(event: Event<()>) -> Result<(), EventError> {
//!     dunlin_sdk::info!("the tick of {:?}", event.time);
//!     Ok(())
//! }
//! # fn main() {}
//! ```

mod handler;
mod outcome;
mod payload;

use crate::{Error, Request, uri};
pub use handler::Handler;
pub use outcome::{EventError, IntoOutcome, Reply};
pub use payload::Payload;

/// One event. The names of the attributes are those of CloudEvents 1.0, where not said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<T> {
    /// The same at every delivery of this event; unique together with `source`.
    pub id: String,
    /// Attribute `type`: `dev.dunlin.message`, `dev.dunlin.cron`, `dev.dunlin.kv.put` or `dev.dunlin.kv.delete`; of a message
    /// that was a CloudEvent already, what its sender gave.
    pub event_type: String,
    /// Where it comes from, such as `/streams/ORDERS`.
    pub source: String,
    /// What it is about: the subject of the message, the key that changed.
    pub subject: Option<String>,
    /// When it happened, as RFC 3339 writes it.
    pub time: Option<String>,
    /// The media type of the payload, if it was given.
    pub content_type: Option<String>,
    /// 1 at the first delivery, one more after each that failed.
    pub attempt: u32,
    /// The id of the trigger that fired, as `dunlin show` lists it.
    pub trigger: String,
    /// The subject on NATS, also where `subject` says something else.
    pub nats_subject: Option<String>,
    /// Where a reply goes: somebody waits for what the handler returns. Not an attribute of CloudEvents.
    pub reply_to: Option<String>,
    /// The headers of the message on NATS in their order, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Further attributes that the sender of a CloudEvent gave, without the prefix `ce-`.
    pub extensions: Vec<(String, String)>,
    /// The payload.
    pub data: T,
}

impl<T: Payload> Event<T> {
    /// The event that `request` carries. Its payload is read whole; its size is bounded by `limits.request_body`.
    ///
    /// # Errors
    /// 400 when it is no event, an attribute is missing, or the payload is not a `T`: it says which and where.
    pub fn from_request(request: Request) -> Result<Self, Error> {
        if !request.is_event() {
            return Err(Error::bad_request("this is no event: a POST with ce-specversion and ce-dunlintrigger is one"));
        }
        let entries = request.raw_headers();
        Self::new(entries, request.bytes(usize::MAX)?).map_err(Error::bad_request)
    }

    fn new(entries: Vec<(String, Vec<u8>)>, payload: Vec<u8>) -> Result<Self, String> {
        let event = attributes(entries)?;
        let data = T::from_payload(payload)
            .map_err(|why| format!("the payload of event {} from {}: {why}", event.id, event.source))?;
        Ok(event.with(data))
    }
}

impl<T> Event<T> {
    /// The first value of a header of the message on NATS, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }
}

/// All but the payload.
fn attributes(entries: Vec<(String, Vec<u8>)>) -> Result<Event<()>, String> {
    let mut event = Event { attempt: 1, ..Event::default() };
    for (name, value) in entries {
        let value = String::from_utf8_lossy(&value).into_owned();
        if let Some(name) = name.strip_prefix("nats-") {
            event.headers.push((name.to_owned(), value));
            continue;
        }
        if let Some(attribute) = name.strip_prefix("ce-") {
            // CloudEvents HTTP binding 1.0.2, §3.1.3.2: what a header cannot carry is percent-encoded.
            event.set(attribute, uri::decode(&value, false))?;
            continue;
        }
        match &*name {
            "content-type" => event.content_type = Some(value),
            "dunlin-subject" => event.nats_subject = Some(value),
            "dunlin-reply-to" => event.reply_to = Some(value),
            _ => {}
        }
    }
    for (name, value) in [("id", &event.id), ("type", &event.event_type), ("source", &event.source)] {
        if value.is_empty() {
            return Err(format!("the event lacks the attribute `{name}`"));
        }
    }
    Ok(event)
}

impl Event<()> {
    fn with<T>(self, data: T) -> Event<T> {
        Event {
            id: self.id,
            event_type: self.event_type,
            source: self.source,
            subject: self.subject,
            time: self.time,
            content_type: self.content_type,
            attempt: self.attempt,
            trigger: self.trigger,
            nats_subject: self.nats_subject,
            reply_to: self.reply_to,
            headers: self.headers,
            extensions: self.extensions,
            data,
        }
    }

    fn set(&mut self, attribute: &str, value: String) -> Result<(), String> {
        match attribute {
            "id" => self.id = value,
            "type" => self.event_type = value,
            "source" => self.source = value,
            "subject" => self.subject = Some(value),
            "time" => self.time = Some(value),
            "dunlintrigger" => self.trigger = value,
            "dunlinattempt" => {
                self.attempt = value.parse().map_err(|_| format!("the attempt is not a number: {value:?}"))?;
            }
            "specversion" if value.starts_with("1.") => {}
            "specversion" => return Err(format!("CloudEvents {value:?} is not known here: 1.0 is")),
            _ => self.extensions.push((attribute.to_owned(), value)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[(&str, &str)] = &[
        ("ce-specversion", "1.0"),
        ("ce-id", "ORDERS/7"),
        ("ce-source", "/streams/ORDERS"),
        ("ce-type", "dev.dunlin.message"),
        ("ce-subject", "orders.placed.%C3%A4%20b"),
        ("ce-time", "2026-11-22T08:00:00Z"),
        ("ce-dunlinattempt", "3"),
        ("ce-dunlintrigger", "stream-01234567"),
        ("ce-traceparent", "00-1"),
        ("content-type", "application/json"),
        ("dunlin-subject", "orders.placed.ä b"),
        ("nats-trace", "100%25"),
        ("nats-trace", "second"),
        ("user-agent", "x"),
    ];

    fn entries(but: &str) -> Vec<(String, Vec<u8>)> {
        let kept = STREAM.iter().filter(|(name, _)| *name != but);
        kept.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn reads_every_attribute() {
        let event = Event::<String>::new(entries(""), b"{}".to_vec()).unwrap();
        assert_eq!(
            (&*event.id, &*event.source, &*event.event_type),
            ("ORDERS/7", "/streams/ORDERS", "dev.dunlin.message")
        );
        assert_eq!(event.subject.as_deref(), Some("orders.placed.ä b"));
        assert_eq!(event.nats_subject.as_deref(), Some("orders.placed.ä b"));
        assert_eq!(event.time.as_deref(), Some("2026-11-22T08:00:00Z"));
        assert_eq!(event.content_type.as_deref(), Some("application/json"));
        assert_eq!((event.attempt, &*event.trigger, event.reply_to), (3, "stream-01234567", None));
        assert_eq!(event.extensions, [("traceparent".to_owned(), "00-1".to_owned())]);
        assert_eq!(event.data, "{}");
    }

    #[test]
    fn headers_of_the_message_lose_their_prefix_and_nothing_else() {
        let event = Event::<()>::new(entries(""), Vec::new()).unwrap();
        assert_eq!(event.header("Trace"), Some("100%25"));
        assert_eq!(event.header("user-agent"), None);
        assert_eq!(event.headers.len(), 2);
    }

    #[test]
    fn an_event_without_a_required_attribute_says_which() {
        for name in ["id", "type", "source"] {
            let error = Event::<()>::new(entries(&format!("ce-{name}")), Vec::new()).unwrap_err();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
        assert_eq!(Event::<()>::new(entries("ce-dunlinattempt"), Vec::new()).unwrap().attempt, 1);
    }

    #[test]
    fn wrong_attributes_are_refused() {
        for (name, value) in [("ce-dunlinattempt", "many"), ("ce-specversion", "2.0")] {
            let mut wrong = entries(name);
            wrong.push((name.into(), value.into()));
            let error = Event::<()>::new(wrong, Vec::new()).unwrap_err();
            assert!(error.contains(value), "{error}");
        }
    }

    #[test]
    fn a_payload_of_another_type_says_where() {
        let error = Event::<String>::new(entries(""), vec![b'a', 0xff]).unwrap_err();
        assert!(error.contains("ORDERS/7") && error.contains("index 1"), "{error}");
    }
}
