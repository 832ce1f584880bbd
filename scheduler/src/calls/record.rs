//! What is known of a call: kept from the moment it was accepted until its result expires.
//!
//! [`Records`] is the only place that reads and writes them; every change is a compare-and-set, so that a cancellation and
//! a result that come at the same moment leave one of the two, whole. A record is one line of JSON and, after it, the
//! bytes of the response's body where they are few. Bounds: [`TRIES`] for one change.

use bytes::Bytes;
use dunlin_api::{FunctionName, InvocationId, NodeName, StoreError, Version};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

use crate::store::CatalogStore;

/// Writers that may come between before a change is given up: a run, its cancellation, and a second run at most.
const TRIES: usize = 16;

/// Where a call is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It waits: for its first try, or for the next one.
    Queued,
    /// A node runs it.
    Running,
    /// The function did it.
    Done,
    /// It failed for good and is a dead letter.
    Dead,
    /// Somebody did not want it any more.
    Cancelled,
}

impl State {
    /// Whether nothing more will happen by itself.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled)
    }

    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A call as its caller sees it. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallRecord {
    /// Its id. Who knows it may read the result.
    #[schema(value_type = String)]
    pub id: InvocationId,
    /// The function.
    #[schema(value_type = String)]
    pub function: FunctionName,
    /// Where it is.
    pub state: State,
    /// When it was accepted.
    pub submitted_ms: u64,
    /// When it ran for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// How often it ran, as far as that counts.
    pub attempts: u32,
    /// The node that had it last.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Why the last try failed, or why it is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The host that it was sent to, if it came through the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The function's answer in the last try that had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<CallResponse>,
}

/// A function's answer without its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallResponse {
    /// The HTTP status.
    pub status: u16,
    /// Names and values; each character of a value is one byte (ISO 8859-1, as RFC 9110 §5.5 has it for old fields).
    #[schema(value_type = Vec<Vec<String>>)]
    pub headers: Vec<(String, String)>,
    /// The size of the body.
    pub bytes: u64,
}

/// A call as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    pub call: CallRecord,
    /// How long it is kept after its end.
    pub keep_ms: u64,
    /// The blob of the request's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<String>,
    /// The record of its idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<String>,
    /// The blob of the response's body, where it is not in the record itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_blob: Option<String>,
    /// The response's body, where it is not in a blob.
    #[serde(skip)]
    pub body: Bytes,
}

impl Entry {
    pub(super) fn encode(&self) -> Bytes {
        let mut value = serde_json::to_vec(self).expect("a record has only string keys");
        // JSON on one line has no line feed: the first one ends it.
        value.push(b'\n');
        value.extend_from_slice(&self.body);
        value.into()
    }

    pub(super) fn decode(key: &str, value: &Bytes) -> Result<Self, StoreError> {
        let corrupt = |why: String| StoreError::Corrupt(format!("the record `{key}`"), why);
        let end = value.iter().position(|byte| *byte == b'\n').ok_or_else(|| corrupt("it has no end".into()))?;
        let mut entry: Self = serde_json::from_slice(&value[..end]).map_err(|error| corrupt(error.to_string()))?;
        entry.body = value.slice(end + 1..);
        Ok(entry)
    }
}

/// The shards that keys are in, so that sweeping never holds all records at once.
pub(super) const SHARDS: usize = 256;

/// Where the records of a shard are.
pub(super) fn shard(of: &str, shard: usize) -> String {
    format!("{of}/{shard:02x}/")
}

fn key(id: InvocationId) -> String {
    // The end of an id is random, its beginning is the time.
    format!("{}{id}", shard("call", id.as_u128() as usize % SHARDS))
}

/// The records of calls.
#[derive(Clone)]
pub(super) struct Records(pub Arc<dyn CatalogStore>);

impl Records {
    pub(super) async fn get(&self, id: InvocationId) -> Result<Option<Entry>, StoreError> {
        Ok(self.read(&key(id)).await?.map(|(entry, _)| entry))
    }

    async fn read(&self, key: &str) -> Result<Option<(Entry, Version)>, StoreError> {
        let Some((value, version)) = self.0.get(key).await? else { return Ok(None) };
        Ok(Some((Entry::decode(key, &value)?, version)))
    }

    /// Makes the record if there is none.
    pub(super) async fn create(&self, entry: &Entry) -> Result<(), StoreError> {
        match self.0.put(&key(entry.call.id), entry.encode(), None).await {
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the record by what `change` makes of it; none if it made nothing, so that it stays as it was.
    pub(super) async fn change(
        &self,
        id: InvocationId,
        change: impl Fn(Option<Entry>) -> Option<Entry> + Send,
    ) -> Result<Option<Entry>, StoreError> {
        let key = key(id);
        for _ in 0..TRIES {
            let found = self.read(&key).await?;
            let version = found.as_ref().map(|(_, version)| *version);
            let Some(entry) = change(found.map(|(entry, _)| entry)) else { return Ok(None) };
            match self.0.put(&key, entry.encode(), version).await {
                Ok(_) => return Ok(Some(entry)),
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict(format!("the record `{key}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_with_its_body() {
        let id = InvocationId::new();
        let response = CallResponse { status: 201, headers: vec![("x".into(), "ü\t\"".into())], bytes: 4 };
        let call = CallRecord {
            id,
            function: "f".parse().unwrap(),
            state: State::Done,
            submitted_ms: 1,
            started_ms: Some(2),
            ended_ms: Some(3),
            attempts: 1,
            node: None,
            reason: Some("line\nbreak".into()),
            host: None,
            response: Some(response),
        };
        let body = Bytes::from_static(b"{}\n\n");
        let entry = Entry { call, keep_ms: 9, blob: None, idempotency: None, response_blob: None, body };
        assert_eq!(Entry::decode("k", &entry.encode()).unwrap(), entry);
        assert!(Entry::decode("k", &Bytes::from_static(b"{}")).is_err());
        let shown = serde_json::to_value(&entry.call).unwrap();
        let expected = serde_json::json!({
            "id": id, "function": "f", "state": "done", "submitted_ms": 1, "started_ms": 2, "ended_ms": 3, "attempts": 1,
            "reason": "line\nbreak",
            "response": {"status": 201, "headers": [["x", "ü\t\""]], "bytes": 4},
        });
        assert_eq!(shown, expected);
    }
}
