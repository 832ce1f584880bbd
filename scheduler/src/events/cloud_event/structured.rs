//! CloudEvents in structured mode: an envelope of JSON (CloudEvents JSON event format 1.0.2 §3).

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use dunlin_api::Message;
use serde_json::{Value, value::RawValue};
use std::collections::BTreeMap;

use super::{Attributes, Event, is_attribute};

const PREFIX: &str = "application/cloudevents";

/// Whether `message` says that it is one (NATS protocol binding §3).
pub(super) fn is(message: &Message) -> bool {
    let starts = |value: &str| value.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    message.header("content-type").is_some_and(starts)
}

/// The event in the envelope; its required attributes are not checked yet.
pub(super) fn read(message: &Message) -> Result<Event, String> {
    let format = message.header("content-type").and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !format.eq_ignore_ascii_case("application/cloudevents+json") {
        let shown: String = format.escape_debug().take(60).collect();
        return Err(format!("malformed CloudEvent: `{shown}` is not read, only `application/cloudevents+json`"));
    }
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(&message.payload).map_err(|error| format!("malformed CloudEvent: {error}"))?;
    let mut attributes = Attributes::new();
    let (mut content_type, mut data, mut base64) = (None, None, None);
    for (name, raw) in members {
        match name.as_str() {
            "data" => data = Some(raw),
            "data_base64" => base64 = text(&name, raw)?,
            "datacontenttype" => content_type = text(&name, raw)?,
            name if is_attribute(name) => {
                if let Some(value) = text(name, raw)? {
                    attributes.insert(name.to_owned(), value);
                }
            }
            _ => {}
        }
    }
    let data = match (data, base64) {
        (Some(_), Some(_)) => return Err("malformed CloudEvent: it has `data` and `data_base64`".into()),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text).map_err(|error| format!("malformed CloudEvent: data_base64: {error}"))?;
            Bytes::from(bytes)
        }
        (Some(raw), None) => content(raw, content_type.get_or_insert_with(|| "application/json".into())),
        (None, None) => Bytes::new(),
    };
    Ok(Event { attributes, content_type, data })
}

/// An attribute as text: strings, numbers and truth values have one; null is as if it were not there.
fn text(name: &str, raw: &RawValue) -> Result<Option<String>, String> {
    match serde_json::from_str(raw.get()) {
        Ok(Value::String(text)) => Ok(Some(text)),
        Ok(Value::Null) => Ok(None),
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => Ok(Some(value.to_string())),
        _ => {
            let shown: String = name.escape_debug().take(60).collect();
            Err(format!("malformed CloudEvent: its attribute `{shown}` is neither text, number nor truth value"))
        }
    }
}

/// The data: JSON as it was written, or a string's text if its type is not JSON.
fn content(raw: &RawValue, content_type: &str) -> Bytes {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = media.ends_with("/json") || media.ends_with("+json");
    match serde_json::from_str::<String>(raw.get()) {
        Ok(text) if !json => text.into(),
        _ => raw.get().to_owned().into(),
    }
}
