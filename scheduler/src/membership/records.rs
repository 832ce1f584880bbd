//! The durable half of membership: one record per node in the bucket `dl-<cluster>-nodes` of JetStream.
//!
//! Written only when a node joins or leaves and when an operator changes something, always by compare-and-set: liveness
//! never waits for it. Watched by every node. Bounds: [`MAX_BYTES`] in all, one revision per node.

use async_nats::jetstream::kv::{CreateErrorKind, Entry, Operation, Store, UpdateErrorKind, Watch};
use bytes::Bytes;
use dunlin_api::{BoxFuture, NodeName, StoreError};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::{fmt::Display, future::IntoFuture, sync::Arc, time::Duration};

use super::view::NodeInfo;
use crate::nats::Nats;

/// 10,000 records of the longest kind fit.
const MAX_BYTES: i64 = 64 << 20;
const MAX_RECORD_BYTES: i32 = 8 << 10;
/// One step against the bucket. A leader change takes longer; whoever waits for one tries again.
const STEP: Duration = Duration::from_secs(3);
/// How long the mark of a removed record is kept, for those who watch; marks without an end would fill the bucket.
const MARKER: Duration = Duration::from_secs(24 * 60 * 60);
/// Attempts to change a record that others change too.
const ATTEMPTS: u32 = 8;

/// What the bucket holds of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The process that owns the name.
    pub(super) info: Arc<NodeInfo>,
    /// An operator wants it drained.
    #[serde(default)]
    pub(super) drained: bool,
    /// An operator's weight instead of its own.
    #[serde(default)]
    pub(super) slots: Option<u32>,
    /// It said goodbye.
    #[serde(default)]
    pub(super) left: bool,
}

/// The bucket.
#[derive(Clone)]
pub(super) struct Records {
    store: Store,
}

impl Records {
    /// The bucket's name in the cluster of `nats`.
    pub(super) fn bucket(nats: &Nats) -> String {
        format!("dl-{}-nodes", nats.cluster)
    }

    /// Finds the bucket or makes it.
    pub(super) async fn open(nats: &Nats) -> Result<Self, StoreError> {
        let bucket = Self::bucket(nats);
        let jetstream = &nats.jetstream;
        let mut failure = match step(jetstream.get_key_value(&bucket)).await {
            Ok(store) => return Ok(Self { store }),
            Err(error) => error,
        };
        let clustered = nats.control.server_info().cluster.is_some();
        for num_replicas in if clustered { &[3, 1][..] } else { &[1] } {
            let config = async_nats::jetstream::kv::Config {
                bucket: bucket.clone(),
                description: "The nodes of a Dunlin cluster".into(),
                max_value_size: MAX_RECORD_BYTES,
                max_bytes: MAX_BYTES,
                history: 1,
                num_replicas: *num_replicas,
                limit_markers: Some(MARKER),
                ..Default::default()
            };
            match step(jetstream.create_key_value(config)).await {
                Ok(store) => return Ok(Self { store }),
                Err(error) => failure = error,
            }
        }
        // Another node may have made it meanwhile.
        step(jetstream.get_key_value(&bucket)).await.map(|store| Self { store }).map_err(|_| failure)
    }

    /// The record of `node` with its revision. May be a moment old: only a compare-and-set tells.
    pub(super) async fn get(&self, node: &NodeName) -> Result<Option<(Record, u64)>, StoreError> {
        let Some(entry) = step(self.store.entry(node.as_str())).await? else { return Ok(None) };
        Ok(parse(&entry)?.map(|record| (record, entry.revision)))
    }

    /// Writes `record` if that of its node still has the revision `expected` (none = there is none).
    ///
    /// # Errors
    /// `Conflict` if it has not, `Unavailable`.
    pub(super) async fn put(&self, record: &Record, expected: Option<u64>) -> Result<u64, StoreError> {
        let key = record.info.node.as_str();
        let value: Bytes = serde_json::to_vec(record).expect("records have only string keys").into();
        let conflict = || StoreError::Conflict(format!("the record of node `{key}`"));
        match expected {
            None => match tokio::time::timeout(STEP, self.store.create(key, value)).await {
                Err(_) => Err(timed_out()),
                Ok(Err(error)) if error.kind() == CreateErrorKind::AlreadyExists => Err(conflict()),
                Ok(written) => written.map_err(unavailable),
            },
            Some(revision) => match tokio::time::timeout(STEP, self.store.update(key, value, revision)).await {
                Err(_) => Err(timed_out()),
                Ok(Err(error)) if error.kind() == UpdateErrorKind::WrongLastRevision => Err(conflict()),
                Ok(written) => written.map_err(unavailable),
            },
        }
    }

    /// Changes the record of `node` by `change`, which returns whether there is anything to change.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Conflict` if others kept changing it, `Unavailable`.
    pub(super) async fn change(&self, node: &NodeName, change: impl Fn(&mut Record) -> bool) -> Result<(), StoreError> {
        for attempt in 1.. {
            let found = self.get(node).await?;
            let Some((mut record, revision)) = found else {
                return Err(StoreError::NotFound(format!("the record of node `{node}`")));
            };
            if !change(&mut record) {
                return Ok(());
            }
            match self.put(&record, Some(revision)).await {
                Err(StoreError::Conflict(_)) if attempt < ATTEMPTS => tokio::time::sleep(pause(attempt)).await,
                written => return written.map(drop),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Removes the record of `node` if it still has `revision`.
    pub(super) async fn remove(&self, node: &NodeName, revision: u64) -> Result<(), StoreError> {
        step(self.store.purge_expect_revision_with_ttl(node.as_str(), revision, MARKER)).await
    }

    /// Every record that there is, then those that change.
    pub(super) async fn watch(&self) -> Result<(Vec<Entry>, Watch), StoreError> {
        let mut watch = step(self.store.watch_with_history(">")).await?;
        let held = step(self.store.stream.get_info()).await?.state.messages;
        let mut entries: Vec<Entry> = Vec::new();
        // The watch of an empty bucket yields nothing, not even that it is empty.
        while held > 0 && entries.last().is_none_or(|last| last.delta > 0) {
            let entry = tokio::time::timeout(STEP, watch.next()).await.map_err(|_| timed_out())?;
            entries.push(entry.ok_or_else(timed_out)?.map_err(unavailable)?);
        }
        Ok((entries, watch))
    }
}

/// The record in `entry`, none if it was removed.
///
/// # Errors
/// `Corrupt`.
pub(super) fn parse(entry: &Entry) -> Result<Option<Record>, StoreError> {
    if entry.operation != Operation::Put {
        return Ok(None);
    }
    let corrupt = |error: String| StoreError::Corrupt(format!("the record of node `{}`", entry.key), error);
    let record: Record = serde_json::from_slice(&entry.value).map_err(|e| corrupt(e.to_string()))?;
    if record.info.node.as_str() == entry.key {
        Ok(Some(record))
    } else {
        Err(corrupt(format!("it is of node `{}`", record.info.node)))
    }
}

/// How long to wait after failure number `attempt`: doubles from 20 ms to 2 s, with half of it left to chance so that a
/// cluster does not come back in step.
pub(super) fn pause(attempt: u32) -> Duration {
    let full = Duration::from_millis(20 << attempt.min(7)).min(Duration::from_secs(2));
    full.mul_f64(rand::random_range(0.5..1.0))
}

/// On the heap: JetStream's futures take kilobytes, and whoever joins or watches waits for several.
fn step<'a, T, E: Display>(
    work: impl IntoFuture<Output = Result<T, E>, IntoFuture: Send + 'a>,
) -> BoxFuture<'a, Result<T, StoreError>> {
    let work = tokio::time::timeout(STEP, work);
    Box::pin(async move { work.await.map_err(|_| timed_out())?.map_err(unavailable) })
}

fn unavailable(error: impl Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn timed_out() -> StoreError {
    StoreError::Unavailable("JetStream did not answer in time".into())
}
