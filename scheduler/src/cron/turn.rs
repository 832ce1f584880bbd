//! Fires the ticks of one trigger that are due: appends them to its queue, then moves its mark.

use dunlin_api::{Message, StoreError, trigger::Overlap};
use jiff::Timestamp;
use serde_json::json;
use std::sync::atomic::Ordering::Relaxed;

use super::{
    Cron,
    board::Entry,
    mark::{self, Mark},
    schedule::Tick,
};
use crate::{events::item, store::events::Own};

impl Cron {
    /// Deals with the ticks of a trigger up to `until` and returns up to where that is done. Those up to `since` came
    /// while no node ran. A store that fails leaves the rest to the next turn.
    pub(super) async fn turn(
        &self,
        entry: &Entry,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<Timestamp, StoreError> {
        let (records, key) = (&*self.stores.records, mark::key(&entry.function, &entry.id));
        let mut mark = match Mark::read(records, &key).await? {
            Some(mark) => mark,
            // The deploy writes it: this one lost it. There is nothing to catch up from.
            None => Mark::advance(records, &key, None, until).await?,
        };
        let plan = entry.schedule.plan(entry.trigger.missed, mark.tick, since, until);
        for tick in plan.fire {
            // Another node may have got further meanwhile.
            if tick.at > mark.tick {
                self.fire(entry, tick).await?;
                mark = Mark::advance(records, &key, Some(mark), tick.at).await?;
            }
        }
        mark = Mark::advance(records, &key, Some(mark), plan.position).await?;
        Ok(mark.tick.max(since.min(until)))
    }

    async fn fire(&self, entry: &Entry, tick: Tick) -> Result<(), StoreError> {
        let queue = item::queue(&entry.function, &entry.id);
        let id = format!("cron:{}:{}:{}", entry.function, entry.id, tick.at.as_millisecond());
        if entry.trigger.overlap == Overlap::Skip && !tick.caught_up {
            let first = self.stores.streams.list(Own::Work, Some(&queue), 0, 1).await?.into_iter().next();
            if let Some(before) = first {
                // Its own item is there if the node that appended it was lost before it moved the mark.
                if before.message.header("ce-id") != Some(&*id) {
                    self.left_out.fetch_add(1, Relaxed);
                    let (function, at) = (&entry.function, tick.at);
                    tracing::warn!(%function, trigger = %entry.id, tick = %at, "an earlier run has not ended: this tick is left out");
                }
                return Ok(());
            }
        }
        self.stores.streams.append(Own::Work, message(entry, tick, queue.clone(), &id), Some(&id)).await?;
        self.fired.fetch_add(1, Relaxed);
        tracing::debug!(function = %entry.function, trigger = %entry.id, tick = %tick.at, "a tick fired");
        // Nodes look at the queues by themselves too; a signal that is lost costs them some seconds.
        if let Err(error) = self.stores.bus.signal(&format!("{}.{queue}", item::QUEUE_TOPIC), bytes::Bytes::new()).await
        {
            tracing::debug!(%error, queue, "no node was told of a tick");
        }
        Ok(())
    }
}

fn message(entry: &Entry, tick: Tick, queue: String, id: &str) -> Message {
    let Entry { trigger, schedule, .. } = entry;
    // What separates the fields may be anything blank; a header is one line.
    let pattern = trigger.schedule.split_whitespace().collect::<Vec<_>>().join(" ");
    let payload = json!({
        "tick": schedule.show(tick.at),
        "schedule": pattern,
        "timezone": trigger.timezone,
        "missed": tick.missed,
    });
    Message::new(queue, payload.to_string())
        .with(item::KIND, item::KIND_EVENT)
        .with("ce-specversion", "1.0")
        .with("ce-id", id)
        .with("ce-source", format!("/cron/{}", entry.id))
        .with("ce-type", "dev.dunlin.cron")
        .with("ce-time", tick.at.to_string())
        .with("ce-subject", pattern)
        .with("content-type", "application/json")
}
