//! What fires a function beside HTTP, and how much waits for it.

use dunlin_api::{FunctionName, Settings, StoreError, trigger::TriggerId};
use futures::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use crate::{
    cron::Schedule,
    deploy::triggers::{Listed, listed, recorded, stream_of},
    events::{Counts, TriggerStats, item},
    snapshot::Deployed,
    store::events::{ConsumerSpec, EventStores, Waiting},
};

/// Numbers that the store does not tell by then are left out.
const WITHIN: Duration = Duration::from_secs(2);

/// A trigger beside HTTP.
#[derive(Serialize, ToSchema)]
pub(super) struct Trigger {
    /// Its id, by which its consumer, its queue and its dead letters are named.
    #[schema(value_type = String)]
    id: TriggerId,
    /// `nats`, `stream`, `cron` or `kv`.
    kind: &'static str,
    /// The subject, the schedule with its time zone, or where which keys change.
    listens: String,
    /// The stream that it reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    /// Events that were not delivered yet. Absent if the store did not tell in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<u64>,
    /// Events that run or wait for their next try.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsettled: Option<u64>,
    /// The next tick of a schedule (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// What became of its events on this node. Absent if this node does not run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<Counts>,
}

/// The triggers of a function; `stats` are those of this node. Answers within two seconds, whatever the stores do.
pub(super) async fn of(deployed: &Deployed, events: Option<&EventStores>, stats: &[TriggerStats]) -> Vec<Trigger> {
    let Some(revision) = deployed.triggering() else { return Vec::new() };
    let shown = listed(&revision.settings).into_iter().map(|Listed { id, kind, listens }| {
        let next = next_tick(&revision.settings, &id);
        let own = stats.iter().filter(|one| one.function == revision.function && one.trigger == id);
        let here = own.fold(None, |sum: Option<Counts>, one| Some(sum.unwrap_or_default().and(&one.counts)));
        Trigger { id, kind, listens, stream: None, pending: None, unsettled: None, next, here }
    });
    let mut triggers: Vec<_> = shown.collect();
    if let Some(events) = events.filter(|_| !triggers.is_empty()) {
        count(&mut triggers, &revision.function, events).await;
    }
    triggers
}

/// Adds what the stores know.
async fn count(triggers: &mut [Trigger], function: &FunctionName, events: &EventStores) {
    let by = Instant::now() + WITHIN;
    let asked = timeout_at(by, async {
        let (consumers, _) = recorded(&*events.records, function).await?;
        let queues = events.streams.queues().await?;
        Ok::<_, StoreError>((consumers, queues))
    });
    let Ok(Ok((consumers, queues))) = asked.await else { return };
    let ask = triggers.iter_mut().map(|trigger| {
        let name = item::consumer(function, &trigger.id);
        let consumer = consumers.iter().rfind(|spec| spec.name == name);
        let queued = queues.get(&item::queue(function, &trigger.id)).copied().unwrap_or(0);
        async move {
            if trigger.kind == "cron" {
                trigger.pending = Some(queued);
            }
            let Some(consumer) = consumer else { return };
            trigger.stream = stream_of(consumer).map(str::to_owned);
            if let Some(Waiting { pending, unsettled }) = waiting(events, consumer, by).await {
                (trigger.pending, trigger.unsettled) = (Some(pending + queued), Some(unsettled));
            }
        }
    });
    join_all(ask).await;
}

async fn waiting(events: &EventStores, consumer: &ConsumerSpec, by: Instant) -> Option<Waiting> {
    timeout_at(by, events.streams.waiting(consumer)).await.ok()?.ok()?
}

fn next_tick(settings: &Settings, id: &TriggerId) -> Option<String> {
    let trigger = settings.cron.iter().find(|trigger| trigger.id() == *id)?;
    let schedule = Schedule::of(trigger).ok()?;
    schedule.next(Timestamp::now()).map(|tick| schedule.show(tick))
}
