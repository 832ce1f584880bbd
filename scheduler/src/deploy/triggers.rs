//! What a function leaves in the stores for its triggers: consumers on streams and changes, queues, marks of schedules.
//!
//! A deploy makes them before traffic moves, so that what is published after it answered is never missed. The record
//! `triggers/<function>` names every consumer that was ever made, written before it is made. A redeploy with other triggers keeps
//! the old ones, so that a rollback goes on where it stopped; only removing the function deletes them, and not while
//! events wait. Bound: [`MAX_CONSUMERS`] of a function.

use dunlin_api::{FunctionName, Revision, Settings, StoreError, Version, trigger::TriggerId};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::{ATTEMPTS, DeployError};
use crate::{
    cron,
    events::{item, spec},
    snapshot::Deployed,
    store::{
        CatalogStore,
        events::{ConsumerSpec, EventStores, Own, Source, Streams, Waiting},
    },
};

/// Consumers of one function, those of earlier revisions among them: four times the triggers of one revision.
pub(crate) const MAX_CONSUMERS: usize = 256;
/// Messages that are deleted from one listing.
const PAGE: usize = 1_000;
/// Questions to the store at once.
const AT_ONCE: usize = 16;

/// Makes what the triggers of `revision` listen to, where `deployed` is what serves now.
///
/// # Errors
/// Names the trigger, and says what is wrong and what to do.
pub(super) async fn prepare(
    events: Option<&EventStores>,
    deployed: Option<&Deployed>,
    revision: &Revision,
) -> Result<(), DeployError> {
    let (function, settings) = (&revision.function, &revision.settings);
    let Some(first) = listed(settings).into_iter().next() else { return Ok(()) };
    let Some(events) = events else {
        let reason = "this node has no store for events: it can only run functions that HTTP requests fire";
        return Err(first.refused(StoreError::Invalid(reason.into())));
    };
    let mut consumers = Vec::new();
    for listed in listed(settings) {
        if let Some(spec) = resolve(&*events.streams, function, settings, &listed).await? {
            consumers.push((listed, spec));
        }
    }
    record(&*events.records, function, consumers.iter().map(|(_, spec)| spec)).await?;
    for (listed, spec) in consumers {
        events.streams.ensure(&spec).await.map_err(|error| listed.refused(error))?;
    }
    for trigger in &settings.cron {
        let id = trigger.id();
        // One that serves already goes on from its last tick.
        if !deployed.is_some_and(|deployed| serves(deployed, &id)) {
            cron::begin(&*events.records, function, &id, Timestamp::now()).await?;
        }
    }
    Ok(())
}

fn serves(deployed: &Deployed, id: &TriggerId) -> bool {
    deployed.triggering().is_some_and(|revision| revision.settings.cron.iter().any(|trigger| trigger.id() == *id))
}

/// The consumer of a trigger, whose source exists then; none for those that need none.
async fn resolve(
    streams: &dyn Streams,
    function: &FunctionName,
    settings: &Settings,
    listed: &Listed,
) -> Result<Option<ConsumerSpec>, DeployError> {
    if let Some(trigger) = settings.stream.iter().find(|trigger| trigger.id() == listed.id) {
        let stream = streams.resolve(trigger.stream.as_deref(), &trigger.subject).await;
        let stream = stream.map_err(|error| listed.refused(error))?;
        return Ok(Some(spec::stream_spec(function, trigger, stream)));
    }
    if let Some(trigger) = settings.changes.iter().find(|trigger| trigger.id() == listed.id) {
        let source = trigger.source().map_err(DeployError::Settings)?;
        streams.check_source(&source).await.map_err(|error| listed.refused(error))?;
        return Ok(Some(spec::change_spec(function, trigger, source)));
    }
    if let Some(trigger) = settings.cron.iter().find(|trigger| trigger.id() == listed.id) {
        let schedule = cron::Schedule::of(trigger).map_err(DeployError::Settings)?;
        if schedule.next(Timestamp::now()).is_none() {
            return Err(
                listed.refused(StoreError::Invalid("no date fits this schedule, so it would never fire".into()))
            );
        }
    }
    Ok(None)
}

/// A trigger beside HTTP, for people.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) id: TriggerId,
    /// `nats`, `stream`, `cron` or `kv`.
    pub(crate) kind: &'static str,
    /// The subject, the schedule, or the keys.
    pub(crate) listens: String,
}

impl Listed {
    fn refused(&self, source: StoreError) -> DeployError {
        let listens = format!("{} `{}`", self.kind, self.listens);
        DeployError::Trigger { trigger: self.id.clone(), listens, source }
    }
}

/// The triggers of `settings` but HTTP.
pub(crate) fn listed(settings: &Settings) -> Vec<Listed> {
    let listed = |id, kind, listens| Listed { id, kind, listens };
    let nats = settings.nats.iter().map(|t| listed(t.id(), "nats", t.subject.clone()));
    let stream = settings.stream.iter().map(|t| listed(t.id(), "stream", t.subject.clone()));
    let cron = settings.cron.iter().map(|t| listed(t.id(), "cron", format!("{} {}", t.schedule, t.timezone)));
    let changes = settings.changes.iter().map(|t| {
        let source = t.source().map(|source| source.to_string()).unwrap_or_default();
        listed(t.id(), "kv", format!("{source} {}", t.keys))
    });
    nats.chain(stream).chain(cron).chain(changes).collect()
}

fn key(function: &FunctionName) -> String {
    format!("triggers/{function}")
}

/// The consumers that were ever made for `function`.
pub(crate) async fn recorded(
    records: &dyn CatalogStore,
    function: &FunctionName,
) -> Result<(Vec<ConsumerSpec>, Option<Version>), StoreError> {
    let key = key(function);
    let Some((value, version)) = records.get(&key).await? else { return Ok((Vec::new(), None)) };
    let specs = serde_json::from_slice(&value);
    let specs = specs.map_err(|e| StoreError::Corrupt(format!("the record `{key}`"), e.to_string()))?;
    Ok((specs, Some(version)))
}

/// Adds `specs` to the record of `function`.
async fn record(
    records: &dyn CatalogStore,
    function: &FunctionName,
    specs: impl Iterator<Item = &ConsumerSpec> + Clone,
) -> Result<(), DeployError> {
    for _ in 0..ATTEMPTS {
        let (mut known, version) = recorded(records, function).await?;
        let before = known.clone();
        for spec in specs.clone() {
            known.retain(|known| known.name != spec.name || known.source != spec.source);
            known.push(spec.clone());
        }
        known.sort_by(|a, b| a.name.cmp(&b.name));
        if known == before {
            return Ok(());
        }
        if known.len() > MAX_CONSUMERS {
            let (function, count) = (function.clone(), known.len());
            return Err(DeployError::Consumers { function, count, limit: MAX_CONSUMERS });
        }
        let value = serde_json::to_vec(&known).expect("specs are text");
        match records.put(&key(function), value.into(), version).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(DeployError::Contended(function.clone()))
}

/// What a function has in the stores.
pub(super) struct Remains<'a> {
    events: &'a EventStores,
    consumers: Vec<ConsumerSpec>,
    version: Option<Version>,
    /// Items in its queues.
    queued: u64,
}

impl<'a> Remains<'a> {
    pub(super) async fn find(events: &'a EventStores, function: &FunctionName) -> Result<Self, StoreError> {
        let (consumers, version) = recorded(&*events.records, function).await?;
        let queues = events.streams.queues().await?;
        let own = queues.iter().filter(|(queue, _)| item::owner(queue).is_some_and(|(owner, _)| owner == *function));
        Ok(Self { events, consumers, version, queued: own.map(|(_, count)| count).sum() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.version.is_none() && self.queued == 0
    }

    /// # Errors
    /// `EventsWait` if something does, or the store failed.
    pub(super) async fn check_nothing_waits(&self, function: &FunctionName) -> Result<(), DeployError> {
        let asked: Vec<_> = self.consumers.iter().map(|spec| self.events.streams.waiting(spec)).collect();
        let waiting: Vec<Option<Waiting>> = stream::iter(asked).buffer_unordered(AT_ONCE).try_collect().await?;
        let of_consumers: u64 = waiting.iter().flatten().map(|waiting| waiting.pending + waiting.unsettled).sum();
        match self.queued + of_consumers {
            0 => Ok(()),
            count => Err(DeployError::EventsWait { function: function.clone(), count }),
        }
    }

    /// Removes all of it; what is done already is no error, so that it can be tried again.
    pub(super) async fn remove(self, function: &FunctionName) -> Result<(), StoreError> {
        let EventStores { streams, records, .. } = self.events;
        for spec in &self.consumers {
            streams.remove(spec).await?;
        }
        let all = format!("{function}.>");
        let mut after = 0;
        loop {
            let page = streams.list(Own::Work, Some(&all), after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            for item in &page {
                streams.delete(Own::Work, item.sequence).await?;
            }
        }
        cron::forget(&**records, function).await?;
        match self.version {
            // A deploy that began meanwhile has written it anew, and what it made is its own.
            Some(version) => match records.delete(&key(function), version).await {
                Ok(()) | Err(StoreError::Conflict(_)) => Ok(()),
                Err(error) => Err(error),
            },
            None => Ok(()),
        }
    }
}

/// The stream of a consumer, if it reads one.
pub(crate) fn stream_of(spec: &ConsumerSpec) -> Option<&str> {
    match &spec.source {
        Source::Stream { stream, .. } => Some(stream),
        Source::Queue(_) | Source::Changes { .. } => None,
    }
}
