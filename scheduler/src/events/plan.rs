//! What this node listens to: pure, from what is deployed, where this node is, and which queues hold work.
//!
//! A function's triggers are those of its serving revision with the largest weight; only nodes that it may run on run them.

use dunlin_api::{
    FunctionName, Revision, Settings,
    trigger::{AsyncCalls, ChangeSource, Order, Overlap, RetryPolicy, Start, TriggerId},
};
use serde::{Deserialize, de::IntoDeserializer};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use super::{EventsConfig, item};
use crate::snapshot::Snapshot;

/// Names one source: a trigger, or the queue of a trigger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub function: FunctionName,
    pub trigger: TriggerId,
    pub queue: bool,
}

/// What a source listens to. A source whose listening changes begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    Subject(String),
    Stream { stream: Option<String>, subject: String, from: Start, order: Order },
    Changes { source: ChangeSource, keys: String },
    Queue { name: String, order: Order },
}

impl Listening {
    /// Which of its events wait for each other.
    pub(super) fn order(&self) -> Order {
        match self {
            Self::Stream { order, .. } | Self::Queue { order, .. } => *order,
            Self::Subject(_) | Self::Changes { .. } => Order::None,
        }
    }

    /// The queue, if it is one.
    pub(super) fn queue(&self) -> Option<&String> {
        if let Self::Queue { name, .. } = self { Some(name) } else { None }
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(subject) => write!(f, "subject {subject}"),
            Self::Stream { stream: Some(stream), subject, .. } => write!(f, "stream {stream}, subject {subject}"),
            Self::Stream { subject, .. } => write!(f, "stream of subject {subject}"),
            Self::Changes { source, keys } => write!(f, "{source}, keys {keys}"),
            Self::Queue { name, .. } => write!(f, "queue {name}"),
        }
    }
}

/// How events of a source are run. They may change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub max_deliver: u32,
    pub backoff: Vec<Duration>,
    /// Events of it that run at once here.
    pub concurrency: u32,
    /// `limits.timeout` of the function.
    pub timeout: Duration,
    /// Whether there is a function to run them.
    pub deployed: bool,
}

impl Terms {
    fn new(retry: RetryPolicy<'_>, concurrency: u32, settings: &Settings) -> Self {
        let concurrency = concurrency.min(settings.limits.concurrency.unwrap_or(u32::MAX)).max(1);
        let RetryPolicy { max_deliver, backoff } = retry;
        Self { max_deliver, backoff: backoff.into(), concurrency, timeout: settings.limits.timeout, deployed: true }
    }

    pub(super) fn retry(&self) -> RetryPolicy<'_> {
        RetryPolicy { max_deliver: self.max_deliver, backoff: &self.backoff }
    }
}

/// A source that this node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub listening: Listening,
    pub terms: Terms,
}

/// Every source that this node should have. `queues` are those that hold work.
pub(super) fn plan(snapshot: &Snapshot, config: &EventsConfig, queues: &BTreeSet<String>) -> BTreeMap<Key, Wanted> {
    let mut wanted = BTreeMap::new();
    for deployed in snapshot.functions.values() {
        if let Some(revision) = deployed.triggering().filter(|revision| fits(revision, config)) {
            triggers(revision, config.slots, &mut wanted);
        }
    }
    for name in queues {
        let Some((function, trigger)) = item::owner(name) else { continue };
        let Some(trigger) = trigger_id(trigger) else { continue };
        let terms_and_order = match snapshot.functions.get(&function) {
            Some(deployed) => match deployed.triggering().filter(|revision| fits(revision, config)) {
                Some(revision) => queue(&revision.settings, &trigger, config.slots),
                // Other nodes run it.
                None => continue,
            },
            None => {
                let (terms, order) = queue(&Settings::default(), &trigger, config.slots);
                (Terms { deployed: false, ..terms }, order)
            }
        };
        let (terms, order) = terms_and_order;
        let listening = Listening::Queue { name: name.clone(), order };
        wanted.insert(Key { function, trigger, queue: true }, Wanted { listening, terms });
    }
    wanted
}

/// A trigger's id from its text, if it could be one.
pub(crate) fn trigger_id(text: &str) -> Option<TriggerId> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let fits = !text.is_empty() && text.bytes().all(allowed);
    let id = fits.then(|| TriggerId::deserialize(text.into_deserializer()));
    id?.map_err(|_: serde::de::value::Error| ()).ok()
}

fn fits(revision: &Revision, config: &EventsConfig) -> bool {
    revision.settings.place.fits(&config.labels, config.zone.as_deref())
}

fn triggers(revision: &Revision, slots: u32, wanted: &mut BTreeMap<Key, Wanted>) {
    let settings = &revision.settings;
    let key = |trigger| Key { function: revision.function.clone(), trigger, queue: false };
    for trigger in &settings.nats {
        // Its events are tried once.
        let terms = Terms::new(settings.calls.retry(), trigger.concurrency, settings);
        wanted.insert(key(trigger.id()), Wanted { listening: Listening::Subject(trigger.subject.clone()), terms });
    }
    for trigger in &settings.stream {
        let (stream, subject) = (trigger.stream.clone(), trigger.subject.clone());
        let listening = Listening::Stream { stream, subject, from: trigger.from, order: trigger.order };
        let terms = Terms::new(trigger.retry(), trigger.concurrency.unwrap_or(slots).min(slots), settings);
        wanted.insert(key(trigger.id()), Wanted { listening, terms });
    }
    for trigger in &settings.changes {
        // A deploy checked that there is exactly one.
        let Ok(source) = trigger.source() else { continue };
        let listening = Listening::Changes { source, keys: trigger.keys.clone() };
        let terms = Terms::new(trigger.retry(), trigger.concurrency.unwrap_or(slots).min(slots), settings);
        wanted.insert(key(trigger.id()), Wanted { listening, terms });
    }
}

/// How items of the queue of `trigger` are run: by its own policy, or as calls if it is none that tries again or is gone.
fn queue(settings: &Settings, trigger: &TriggerId, slots: u32) -> (Terms, Order) {
    let streams = settings.stream.iter().map(|t| (t.id(), t.retry(), Order::None));
    let changes = settings.changes.iter().map(|t| (t.id(), t.retry(), Order::None));
    let cron = settings
        .cron
        .iter()
        .map(|t| (t.id(), t.retry(), if t.overlap == Overlap::Queue { Order::All } else { Order::None }));
    let found = streams.chain(changes).chain(cron).find(|(id, _, _)| id == trigger);
    let default = AsyncCalls::default();
    let calls = if *trigger == TriggerId::calls() { &settings.calls } else { &default };
    let (_, retry, order) = found.unwrap_or_else(|| (trigger.clone(), calls.retry(), Order::None));
    (Terms::new(retry, slots, settings), order)
}
