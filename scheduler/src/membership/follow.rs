//! Follows the records of all nodes, this one's among them, over every failure of JetStream.
//!
//! A watch does not outlive a reconnection: it is made anew, with growing pauses, and what was removed meanwhile is
//! noticed. It ends only when the record of this node names another process.

use async_nats::jetstream::kv::{Entry, Watch};
use dunlin_api::{NodeName, StoreError};
use futures::StreamExt;
use std::{collections::HashSet, sync::atomic::Ordering};
use tokio::time::Instant;

use super::{
    Membership, lock,
    records::{Record, Records, parse, pause},
    roster::Changed,
};

/// Why a watch is not followed any more.
enum Followed {
    Reconnected,
    Superseded,
}

/// What a record led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    Taken,
    /// It names another process, which should be asked for a heartbeat.
    Ask(NodeName),
    Superseded,
}

impl Membership {
    /// Returns when this node is superseded. Begins with `watch`.
    pub(super) async fn follow(&self, watch: Watch) {
        let mut watch = Some(watch);
        let mut failures = 0_u32;
        loop {
            match self.follow_once(watch.take(), &mut failures).await {
                Ok(Followed::Superseded) => return,
                Ok(Followed::Reconnected) => {}
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "the records of the nodes cannot be followed; trying again");
                    }
                    failures = failures.saturating_add(1);
                }
            }
            tokio::time::sleep(pause(failures)).await;
        }
    }

    async fn follow_once(&self, held: Option<Watch>, failures: &mut u32) -> Result<Followed, StoreError> {
        let mut connection = self.nats.connection();
        connection.mark_unchanged();
        let records = Records::open(&self.nats).await?;
        if !self.owns_its_name(&records).await? {
            return Ok(Followed::Superseded);
        }
        let mut watch = match held {
            Some(watch) => watch,
            None => {
                let (entries, watch) = records.watch().await?;
                for entry in &entries {
                    if self.take(entry).await {
                        return Ok(Followed::Superseded);
                    }
                }
                let kept: HashSet<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
                lock(&self.roster).keep(|node| kept.contains(node.as_str()), Instant::now());
                watch
            }
        };
        *failures = 0;
        loop {
            tokio::select! {
                entry = watch.next() => {
                    let ended = || StoreError::Unavailable("the watch ended".into());
                    let entry = entry.ok_or_else(ended)?.map_err(|e| StoreError::Unavailable(e.to_string()))?;
                    if self.take(&entry).await {
                        return Ok(Followed::Superseded);
                    }
                }
                () = self.recheck.notified() => {
                    if !self.owns_its_name(&records).await? {
                        return Ok(Followed::Superseded);
                    }
                }
                Ok(()) = connection.changed() => {
                    if *connection.borrow_and_update() {
                        return Ok(Followed::Reconnected);
                    }
                }
            }
        }
    }

    /// True if this node is superseded.
    async fn take(&self, entry: &Entry) -> bool {
        match self.recorded(entry) {
            Recorded::Taken => false,
            Recorded::Ask(node) => {
                self.ask(self.nats.subjects.membership(&node)).await;
                false
            }
            Recorded::Superseded => true,
        }
    }

    /// Takes one record into the view.
    pub(super) fn recorded(&self, entry: &Entry) -> Recorded {
        let (Ok(node), Ok(record)) = (entry.key.parse::<NodeName>(), parse(entry)) else {
            tracing::warn!(key = entry.key, "a record of the nodes' bucket is not one: it is ignored");
            return Recorded::Taken;
        };
        let ask = lock(&self.roster).record(&node, record.as_ref(), Instant::now());
        self.publish_from(Changed::Now);
        if node != self.me.node {
            return if ask { Recorded::Ask(node) } else { Recorded::Taken };
        }
        match record {
            // Someone removed it: it is written again.
            None => self.recheck.notify_one(),
            Some(record) if !self.is_superseded(&record, entry.revision) => {
                self.drain_wanted.send_if_modified(|on| std::mem::replace(on, record.drained) != record.drained);
            }
            Some(_) => return Recorded::Superseded,
        }
        Recorded::Taken
    }

    /// Whether this node's record, as it is at `revision`, names a later process. An older one proves nothing: any
    /// replica may serve it.
    fn is_superseded(&self, record: &Record, revision: u64) -> bool {
        if record.info.boot == self.me.boot {
            self.revision.fetch_max(revision, Ordering::Relaxed);
            return false;
        }
        revision > self.revision.load(Ordering::Relaxed)
    }

    async fn owns_its_name(&self, records: &Records) -> Result<bool, StoreError> {
        if let Some((record, revision)) = records.get(&self.me.node).await? {
            return Ok(!self.is_superseded(&record, revision));
        }
        tracing::warn!("the record of this node is gone: it is written again");
        let drained = *self.drain_wanted.borrow();
        let record = Record { info: self.me.clone(), drained, slots: None, left: false };
        self.revision.store(records.put(&record, None).await?, Ordering::Relaxed);
        Ok(true)
    }
}
