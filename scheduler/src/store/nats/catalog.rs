//! [`CatalogStore`] as a JetStream key-value bucket: `fn/a` is the subject `$KV.<bucket>.fn.a`.
//!
//! A deletion leaves a marker, because watchers must learn of it; listing removes markers that are older than an hour.

use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use dunlin_api::{BoxFuture, StoreError, Version};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};
use tokio::time::timeout;

use super::{
    attempt::ATTEMPT,
    bucket::{Bucket, Outcome},
    record::is_live,
    watch,
};
use crate::store::{CatalogStore, MAX_RECORD_BYTES, Record, Watch};

const MARKER_AGE: Duration = Duration::from_secs(3_600);

/// The catalog of a cluster.
pub struct NatsCatalog {
    bucket: Bucket,
    /// Whether old markers are removed: not where purging is denied, as it is to workers.
    tidies: AtomicBool,
    /// Every watcher has seen a marker by then, or is told to reload when it comes back.
    pub(super) marker_age: Duration,
}

impl NatsCatalog {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, tidies: AtomicBool::new(true), marker_age: MARKER_AGE }
    }

    fn subject(&self, key: &str) -> Result<String, StoreError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if key.split('/').all(|token| !token.is_empty() && token.bytes().all(fits)) {
            Ok(format!("{}{}", self.bucket.prefix, key.replace('/', ".")))
        } else {
            Err(StoreError::Invalid(format!("`{}` is not the key of a record", key.escape_debug())))
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Record>, StoreError> {
        let filter = format!("{}.>", self.subject(prefix.trim_end_matches('/'))?);
        let mut records = Vec::new();
        for message in self.bucket.newest("listing records", &filter).await? {
            if is_live(&message) {
                records.push(self.record(message));
            } else {
                self.forget(&message).await;
            }
        }
        records.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(records)
    }

    fn record(&self, message: StreamMessage) -> Record {
        let key = message.subject.strip_prefix(&*self.bucket.prefix).unwrap_or_default().replace('.', "/");
        Record { key, value: message.payload, version: message.sequence }
    }

    /// Removes a marker that is old, with what it covers. Whoever wrote since is not touched: purging ends at the marker.
    async fn forget(&self, marker: &StreamMessage) {
        let age = SystemTime::now().duration_since(marker.time.into()).unwrap_or_default();
        if age > self.marker_age && self.tidies.load(Ordering::Relaxed) {
            let purged = timeout(ATTEMPT, self.bucket.purge_once(&marker.subject, Some(marker.sequence))).await;
            if !matches!(purged, Ok(Ok(()))) {
                tracing::debug!(?purged, subject = %marker.subject, "markers of deletions stay until this node starts again");
                self.tidies.store(false, Ordering::Relaxed);
            }
        }
    }
}

impl CatalogStore for NatsCatalog {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<(Bytes, Version)>, StoreError>> {
        Box::pin(async move { self.bucket.live("reading a record", &self.subject(key)?).await })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Option<Version>,
    ) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move {
            if value.len() > MAX_RECORD_BYTES {
                let size = value.len();
                let reason = format!("the record `{key}` has {size} bytes: it may have at most {MAX_RECORD_BYTES}");
                return Err(StoreError::Invalid(reason));
            }
            match self.bucket.swap("writing a record", &self.subject(key)?, value, expected).await? {
                Outcome::Written(version) => Ok(version),
                Outcome::Clash => Err(StoreError::Conflict(format!("`{key}`"))),
            }
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            match self.bucket.mark_deleted("deleting a record", &self.subject(key)?, expected, None).await? {
                Outcome::Written(_) => Ok(()),
                Outcome::Clash => Err(StoreError::Conflict(format!("`{key}`"))),
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Record>, StoreError>> {
        Box::pin(self.list(prefix))
    }

    fn watch(&self) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(watch::start(self.bucket.clone()))
    }
}
