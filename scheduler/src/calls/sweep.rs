//! Removes what nobody can ask for any more: records after their time, their keys and bodies, and blobs that nothing names.
//!
//! Every node sweeps, one of [`SHARDS`] shards after another, so that a pass takes [`PASS`] and holds a small part of all
//! records; removing what another node has just removed is no error. Dead letters keep the bodies of their requests.

use dunlin_api::{Invoke, StoreError};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

use super::{
    Calls, State, idempotency,
    record::{Entry, SHARDS, shard},
};
use crate::{dead_letters::blobs_of, deploy::now_ms, events::item::BLOB, store::events::Own};

/// From one look at a record to the next.
const PASS: Duration = Duration::from_secs(3_600);
/// Younger blobs may belong to a call that is being accepted.
const SPARED: Duration = Duration::from_secs(3_600);
/// A call that has not ended by then was lost with its queue; as long as dead letters are kept.
const ABANDONED: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Messages that are read at once when looking for names of blobs.
const PAGE: usize = 256;

impl<I: Invoke> Calls<I> {
    /// Sweeps until `stop`.
    pub async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        // Nodes that start together need not sweep together.
        for step in (0..SHARDS).cycle().skip(rand::random_range(0..SHARDS)) {
            let swept = async {
                self.sweep_shard(step, now_ms()).await?;
                if step == 0 { self.sweep_blobs(now_ms()).await } else { Ok(()) }
            };
            let rest = async {
                if let Err(error) = swept.await {
                    tracing::warn!(%error, "sweeping calls failed: it is tried again later");
                }
                tokio::time::sleep(PASS / SHARDS as u32).await;
            };
            if stop.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }

    /// Removes everything of which the time is over at `now` (milliseconds since the Unix epoch), in one pass.
    ///
    /// # Errors
    /// When a store fails; what was removed by then is gone.
    pub async fn sweep_all(&self, now: u64) -> Result<(), StoreError> {
        for step in 0..SHARDS {
            self.sweep_shard(step, now).await?;
        }
        self.sweep_blobs(now).await
    }

    async fn sweep_shard(&self, step: usize, now: u64) -> Result<(), StoreError> {
        let records = &self.stores.records;
        for record in records.list(&shard("call", step)).await? {
            let entry = match Entry::decode(&record.key, &record.value) {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::error!(%error, "a record of a call cannot be read");
                    continue;
                }
            };
            if expires_ms(&entry) > now {
                continue;
            }
            // Else a message or a dead letter may still name the body: it goes when nothing does any more.
            let request = entry.blob.filter(|_| matches!(entry.call.state, State::Done | State::Cancelled));
            for name in request.iter().chain(&entry.response_blob) {
                self.stores.blobs.delete(name).await?;
            }
            if let Some(key) = &entry.idempotency
                && let Some((_, version)) = records.get(key).await?
            {
                gone(records.delete(key, version).await)?;
            }
            gone(records.delete(&record.key, record.version).await)?;
        }
        for record in records.list(&shard("idem", step)).await? {
            let reserved = idempotency::decode(&record.key, &record.value)?;
            let over = reserved.created_ms.saturating_add(reserved.keep_ms).saturating_add(millis(SPARED)) <= now;
            if over && self.records.get(reserved.id).await?.is_none() {
                gone(records.delete(&record.key, record.version).await)?;
            }
        }
        Ok(())
    }

    async fn sweep_blobs(&self, now: u64) -> Result<(), StoreError> {
        let old = |stored: u64| stored.saturating_add(millis(SPARED)) <= now;
        let mut orphans = HashSet::new();
        for (name, stored) in self.stores.blobs.list().await? {
            if old(stored) && !self.is_recorded(&name).await? {
                orphans.insert(name);
            }
        }
        // What moves from one to the other meanwhile is seen in one of them.
        for own in [Own::Dead, Own::Work, Own::Dead] {
            let mut after = 0;
            // Most often there is nothing to look for.
            while !orphans.is_empty() {
                let page = self.stores.streams.list(own, None, after, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = last.sequence;
                for stored in page {
                    let named = match own {
                        Own::Work => stored.message.header(BLOB).map(ToOwned::to_owned).into_iter().collect(),
                        Own::Dead => blobs_of(stored),
                    };
                    for name in &named {
                        orphans.remove(name);
                    }
                }
            }
        }
        for name in &orphans {
            self.stores.blobs.delete(name).await?;
        }
        Ok(())
    }

    /// Whether the record of a call names this blob. The names of a call's blobs begin with its id.
    async fn is_recorded(&self, name: &str) -> Result<bool, StoreError> {
        let Some(Ok(id)) = name.split('.').next().map(str::parse) else { return Ok(false) };
        let entry = self.records.get(id).await?;
        Ok(entry.is_some_and(|entry| [&entry.blob, &entry.response_blob].into_iter().flatten().any(|n| n == name)))
    }
}

fn expires_ms(entry: &Entry) -> u64 {
    match entry.call.ended_ms {
        Some(ended) => ended.saturating_add(entry.keep_ms),
        None => entry.call.submitted_ms.saturating_add(entry.keep_ms).saturating_add(millis(ABANDONED)),
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// What was changed or removed meanwhile is looked at again in the next pass.
fn gone(result: Result<(), StoreError>) -> Result<(), StoreError> {
    match result {
        Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => Ok(()),
        other => other,
    }
}
