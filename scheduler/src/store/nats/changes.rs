//! Changes of keys, read from the streams behind key-value buckets (ADR-8) and object buckets (ADR-20).
//!
//! A bucket keeps what was last written to a key, so a consumer that is behind skips what came in between. Keys of the
//! guests' stores are hex in their subjects, names of objects base64. A pattern with a star is matched here, not by the server.

use base64::{Engine, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use dunlin_api::{ClusterName, Message, StoreError, trigger::ChangeSource};
use std::fmt::Write;

use super::{keys, record::sets_its_key, spec};
use crate::store::events::{CHANGED, OPERATION, VERSION, key_matches};

/// The stream that has the changes of `source`.
pub(super) fn stream(cluster: &ClusterName, source: &ChangeSource) -> Result<String, StoreError> {
    match source {
        ChangeSource::Store(_) => Ok(format!("KV_dl-{cluster}-kv")),
        ChangeSource::Bucket(name) | ChangeSource::Objects(name) if name.starts_with("dl-") => {
            Err(StoreError::Invalid(format!("the bucket `{name}` is one that a cluster uses itself")))
        }
        ChangeSource::Bucket(name) => spec::check_stream(name).map(|()| format!("KV_{name}")),
        ChangeSource::Objects(name) => spec::check_stream(name).map(|()| format!("OBJ_{name}")),
    }
}

/// The subjects of keys that may match `keys`.
pub(super) fn filter(cluster: &ClusterName, source: &ChangeSource, keys: &str) -> String {
    let one = (!keys.contains('*')).then_some(keys);
    match source {
        ChangeSource::Store(store) => {
            let mut filter = format!("$KV.dl-{cluster}-kv.{store}.");
            match one {
                Some(key) => key.bytes().try_for_each(|b| write!(filter, "{b:02x}")).expect("a string takes any text"),
                None => filter.push('*'),
            }
            filter
        }
        ChangeSource::Bucket(name) => format!("$KV.{name}.{}", one.unwrap_or(">")),
        ChangeSource::Objects(name) => {
            format!("$O.{name}.M.{}", one.map_or_else(|| "*".into(), |key| URL_SAFE.encode(key)))
        }
    }
}

/// The key that a message is about, if it matches `keys`.
pub(super) fn key(source: &ChangeSource, keys: &str, subject: &str) -> Option<String> {
    let key = match source {
        ChangeSource::Store(_) => keys::decode(subject.rsplit('.').next()?)?,
        ChangeSource::Bucket(_) => subject.splitn(3, '.').nth(2)?.to_owned(),
        ChangeSource::Objects(_) => {
            let decoded = URL_SAFE.decode(subject.rsplit('.').next()?).ok()?;
            String::from_utf8(decoded).ok()?
        }
    };
    key_matches(keys, &key).then_some(key)
}

/// The change that `message` is: of the key, with the new value.
pub(super) fn change(source: &ChangeSource, key: String, message: &async_nats::Message, sequence: u64) -> Message {
    let objects = matches!(source, ChangeSource::Objects(_));
    let deleted = if objects {
        serde_json::from_slice::<serde_json::Value>(&message.payload).is_ok_and(|info| info["deleted"] == true)
    } else {
        // A marker that the server left has no operation, but a reason.
        let reason = message.headers.as_ref().and_then(|headers| headers.get("Nats-Marker-Reason"));
        reason.is_some() || !sets_its_key(message.headers.as_ref())
    };
    let payload = if objects || deleted { Bytes::new() } else { message.payload.clone() };
    Message::new(key, payload)
        .with(OPERATION, if deleted { "delete" } else { "put" })
        .with(CHANGED, source.to_string())
        .with(VERSION, sequence.to_string())
}
