//! The records of a key-value bucket: compare-and-set over messages, with deletions that leave a marker or nothing.

use async_nats::{HeaderMap, jetstream::message::StreamMessage};
use bytes::Bytes;
use dunlin_api::{StoreError, Version};
use std::time::Duration;

use super::bucket::{Bucket, OPERATION, Outcome};

/// Tries to create over markers that others write and remove meanwhile.
const CREATES: usize = 4;

/// Whether a message sets its key: it does not if it is the marker of a deletion.
pub(super) fn is_live(message: &StreamMessage) -> bool {
    sets_its_key(Some(&message.headers))
}

/// See [`is_live`].
pub(super) fn sets_its_key(headers: Option<&HeaderMap>) -> bool {
    headers.and_then(|headers| headers.get(OPERATION)).is_none_or(|operation| operation.as_str() == "PUT")
}

impl Bucket {
    /// The value at `subject`.
    pub(super) async fn live(&self, what: &str, subject: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        let found = self.last(what, subject).await?;
        Ok(found.filter(is_live).map(|m| (m.payload, m.sequence)))
    }

    /// Sets `subject` if its version still is `expected` (none = it must not exist).
    pub(super) async fn swap(
        &self,
        what: &str,
        subject: &str,
        value: Bytes,
        expected: Option<Version>,
    ) -> Result<Outcome, StoreError> {
        match expected {
            Some(0) => Ok(Outcome::Clash),
            Some(version) => self.write(what, subject, HeaderMap::new(), value, Some(version)).await,
            None => self.create(what, subject, value).await,
        }
    }

    async fn create(&self, what: &str, subject: &str, value: Bytes) -> Result<Outcome, StoreError> {
        let mut absent = 0;
        for _ in 0..CREATES {
            let outcome = self.write(what, subject, HeaderMap::new(), value.clone(), Some(absent)).await?;
            if let Outcome::Written(_) = outcome {
                return Ok(outcome);
            }
            absent = match self.last(what, subject).await? {
                Some(found) if is_live(&found) => break,
                Some(marker) => marker.sequence,
                None => 0,
            };
        }
        Ok(Outcome::Clash)
    }

    /// Writes the marker of a deletion if the version of `subject` still is `expected`; it goes by itself after `ttl`.
    pub(super) async fn mark_deleted(
        &self,
        what: &str,
        subject: &str,
        expected: Version,
        ttl: Option<Duration>,
    ) -> Result<Outcome, StoreError> {
        if expected == 0 {
            return Ok(Outcome::Clash);
        }
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        if let Some(ttl) = ttl {
            headers.insert("Nats-TTL", format!("{}s", ttl.as_secs()));
        }
        self.write(what, subject, headers, Bytes::new(), Some(expected)).await
    }
}
