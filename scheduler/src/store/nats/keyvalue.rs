//! [`KeyValue`] as one JetStream bucket for all guests: key `k` of the store `s` is `$KV.<bucket>.s.<k in hex>`.
//!
//! Hex makes any text a subject token and keeps the order of keys. One bucket, because each is a Raft group of its own
//! and a server carries few of them. A deletion leaves a marker for a day, so that those who follow changes learn of it;
//! versions, the sequences of the stream, never come again. Bounds: those of the store module; two listings at once on a node, each of which makes a consumer.

use bytes::Bytes;
use dunlin_api::{BoxFuture, KeyValue, StoreError, Version};
use std::{fmt::Write, time::Duration};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{
    attempt::{attempts_of, jitter},
    bucket::{Bucket, Outcome},
    keys,
};
use crate::store::{check_key, check_value};

/// Listings under way at once on this node: a guest that lists all day costs the cluster no more than this.
const LISTINGS: usize = 2;
/// How long one may take: some millions of keys.
const LISTING: Duration = Duration::from_secs(20);
/// How long a write competes with others for a key.
const CONTEST: Duration = Duration::from_secs(10);
/// How long who follows changes may be away and still learn of a deletion.
const MARKER: Duration = Duration::from_secs(86_400);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// The guests' stores of a cluster.
pub struct NatsKeyValue {
    bucket: Bucket,
    listings: Semaphore,
}

impl NatsKeyValue {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, listings: Semaphore::new(LISTINGS) }
    }

    fn subject(&self, store: &str, key: &str) -> Result<String, StoreError> {
        check_key(store, key)?;
        let mut subject = format!("{}{store}.", self.bucket.prefix);
        key.bytes().try_for_each(|byte| write!(subject, "{byte:02x}")).expect("a string takes any text");
        Ok(subject)
    }

    async fn swap(&self, store: &str, key: &str, expected: Option<Version>, value: Bytes) -> Result<(), StoreError> {
        let subject = self.subject(store, key)?;
        check_value(&value)?;
        match self.bucket.swap("writing a key", &subject, value, expected).await? {
            Outcome::Written(_) => Ok(()),
            Outcome::Clash => Err(StoreError::Conflict(format!("`{}`", key.escape_debug()))),
        }
    }

    /// Leaves a marker, which tells the consumers of changes, for [`MARKER`]. By compare-and-set, as [`set`](Self::set).
    async fn delete(&self, store: &str, key: &str) -> Result<(), StoreError> {
        let (what, subject) = ("deleting a key", self.subject(store, key)?);
        let (end, mut pause) = (Instant::now() + CONTEST, FIRST_PAUSE);
        while Instant::now() < end {
            let Some((_, version)) = self.bucket.live(what, &subject).await? else { return Ok(()) };
            if let Outcome::Written(_) = self.bucket.mark_deleted(what, &subject, version, Some(MARKER)).await? {
                return Ok(());
            }
            sleep(jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(contested(what))
    }

    /// By compare-and-set although the caller expects nothing: what async-nats still holds of a write whose caller has given
    /// up is sent when the connection is back, and must not undo what others wrote since.
    async fn set(&self, store: &str, key: &str, value: Bytes) -> Result<(), StoreError> {
        let subject = self.subject(store, key)?;
        check_value(&value)?;
        self.change("writing a key", &subject, |_| Ok((value.clone(), ()))).await
    }

    async fn increment(&self, store: &str, key: &str, delta: i64) -> Result<i64, StoreError> {
        let subject = self.subject(store, key)?;
        let invalid = |reason| StoreError::Invalid(format!("`{}` {reason}", key.escape_debug()));
        let sum = |old: Option<&Bytes>| {
            let sum = old.map_or(Ok(delta), |old| add(old, delta)).map_err(invalid)?;
            Ok((Bytes::from(sum.to_string()), sum))
        };
        self.change("adding to a key", &subject, sum).await
    }

    /// Replaces a value by what `new` makes of it, again and again until nobody else wrote in between.
    async fn change<T>(
        &self,
        what: &str,
        subject: &str,
        new: impl Fn(Option<&Bytes>) -> Result<(Bytes, T), StoreError>,
    ) -> Result<T, StoreError> {
        let (end, mut pause) = (Instant::now() + CONTEST, FIRST_PAUSE);
        while Instant::now() < end {
            let found = self.bucket.live(what, subject).await?;
            let (value, result) = new(found.as_ref().map(|(value, _)| value))?;
            let version = found.map(|(_, version)| version);
            if let Outcome::Written(_) = self.bucket.swap(what, subject, value, version).await? {
                return Ok(result);
            }
            sleep(jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(contested(what))
    }

    async fn keys(&self, store: &str, after: Option<&str>) -> Result<Vec<String>, StoreError> {
        // Any text is a fine place to go on from; only the store's name is checked.
        check_key(store, "-")?;
        let _place = self.listings.acquire().await.map_err(|e| StoreError::Unavailable(e.to_string()))?;
        attempts_of("listing keys", LISTING, |_| keys::page(&self.bucket, store, after)).await
    }
}

fn contested(what: &str) -> StoreError {
    StoreError::Unavailable(format!("{what}: others wrote it first for {} s", CONTEST.as_secs()))
}

fn add(value: &[u8], delta: i64) -> Result<i64, &'static str> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
    number.ok_or("does not hold a decimal integer")?.checked_add(delta).ok_or("would overflow 64 bits")
}

impl KeyValue for NatsKeyValue {
    fn get<'a>(&'a self, store: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<(Bytes, Version)>, StoreError>> {
        Box::pin(async move { self.bucket.live("reading a key", &self.subject(store, key)?).await })
    }

    fn set<'a>(&'a self, store: &'a str, key: &'a str, value: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.set(store, key, value))
    }

    fn delete<'a>(&'a self, store: &'a str, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.delete(store, key))
    }

    fn swap<'a>(
        &'a self,
        store: &'a str,
        key: &'a str,
        expected: Option<Version>,
        value: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.swap(store, key, expected, value))
    }

    fn increment<'a>(&'a self, store: &'a str, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, StoreError>> {
        Box::pin(self.increment(store, key, delta))
    }

    fn keys<'a>(&'a self, store: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        Box::pin(self.keys(store, after))
    }
}
