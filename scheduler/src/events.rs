//! Events fire functions: from an event to a request, from an answer to what becomes of the event.
//!
//! One path for every durable source: a [`Delivery`] is run by whoever implements [`Work`] for its kind, and the
//! [`Outcome`] decides whether it is acknowledged, delivered again after a while, or kept as a dead letter.
//!
//! The node makes one [`Events`] and runs it beside its other tasks. It promises that what a durable source delivered is done,
//! comes again, or is a dead letter. Bounds: [`EventsConfig::slots`] events at once on this node, the concurrency of each trigger,
//! 256 deliveries of an ordered trigger, as many waiting messages of a subject as may run.

pub(crate) mod answer;
pub(crate) mod cloud_event;
mod discover;
mod held;
pub mod item;
mod lanes;
pub(crate) mod plan;
mod source;
pub mod spec;
mod stats;
mod subject;
mod supervise;
mod task;
pub(crate) mod work;

pub use stats::{Counts, TriggerStats};

use dunlin_api::{BoxFuture, Invoke, LogLine, NodeName};
use std::{
    collections::BTreeMap,
    hash::RandomState,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    dead_letters::DeadLetters,
    log_hub::LogHub,
    router::Router,
    snapshot::Snapshot,
    store::events::{Delivery, EventStores},
};
use supervise::{Known, supervise};
use work::{Fire, Gun};

/// What became of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The function did it.
    Done,
    /// The function failed; counted, tried again after `after` or else by the trigger's backoff, until the tries are used up.
    Failed {
        /// A wait that the function asked for (`Retry-After`).
        after: Option<Duration>,
        /// What it said or did, for people; one line.
        reason: String,
    },
    /// It will never work: a dead letter at once.
    Rejected {
        /// Why, for people; one line.
        reason: String,
    },
    /// Nothing ran, or a node was lost: tried again, not counted.
    NotRun {
        /// Why, for people; one line.
        reason: String,
    },
}

/// Runs deliveries of one kind.
pub trait Work: Send + Sync + 'static {
    /// Runs one delivery; `attempt` is 1 for the first that counts. Dropping the future cancels the run.
    fn run<'a>(&'a self, delivery: &'a Delivery, attempt: u32) -> BoxFuture<'a, Outcome>;

    /// Told after the delivery was stored as a dead letter and before it is given up; may be told more than once.
    fn buried<'a>(&'a self, _delivery: &'a Delivery, _attempts: u32, _reason: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether one of the last tries of the delivery, of `attempts` in all, printed this line: it then goes into the dead letter.
    fn printed(&self, _delivery: &Delivery, _attempts: u32, _line: &LogLine) -> bool {
        false
    }
}

/// What the events of a node need to know about it.
#[derive(Clone, Debug)]
pub struct EventsConfig {
    /// The node.
    pub node: NodeName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Events that run at once on this node: the slots of its executor by default.
    pub slots: u32,
    /// How long a stop waits for what runs.
    pub grace: Duration,
}

/// What all triggers of a node share.
struct Shared {
    stores: EventStores,
    slots: Semaphore,
    /// Whether new events are taken.
    open: watch::Sender<bool>,
    /// Events that run now.
    running: watch::Sender<u32>,
    dead: DeadLetters,
    logs: Arc<LogHub>,
    calls: Arc<dyn Work>,
    fire: Arc<dyn Fire>,
    /// The grace is over: what still runs is given back.
    force: CancellationToken,
    /// Names tries in the ids of their invocations.
    marks: RandomState,
}

impl Shared {
    /// Waits until a slot is free, takes none, and says how many are.
    async fn free_slots(&self) -> usize {
        drop(self.slots.acquire().await);
        self.slots.available_permits().max(1)
    }
}

/// The events of one node.
pub struct Events<I> {
    config: EventsConfig,
    shared: Arc<Shared>,
    router: Arc<Router<I>>,
    known: Arc<Mutex<Known>>,
}

impl<I: Invoke> Events<I> {
    /// The events of the node `config`, closed until [`set_open`](Self::set_open). `calls` runs the calls that nobody waits for.
    pub fn new(
        config: EventsConfig,
        stores: EventStores,
        router: Arc<Router<I>>,
        logs: Arc<LogHub>,
        calls: Arc<dyn Work>,
    ) -> Arc<Self> {
        let shared = Shared {
            slots: Semaphore::new(config.slots.max(1) as usize),
            open: watch::Sender::new(false),
            running: watch::Sender::new(0),
            dead: DeadLetters::new(stores.clone()),
            logs,
            calls,
            fire: Arc::new(Gun { router: router.clone(), blobs: stores.blobs.clone() }),
            force: CancellationToken::new(),
            marks: RandomState::new(),
            stores,
        };
        Arc::new(Self { config, shared: Arc::new(shared), router, known: Arc::default() })
    }

    /// Takes new events, or none: then what runs goes on, and what waits here is given back.
    pub fn set_open(&self, open: bool) {
        self.shared.open.send_replace(open);
    }

    /// Works until `stop`; then takes nothing new, waits for what runs until the grace is over, and gives back the rest.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let served: watch::Receiver<Arc<Snapshot>> = self.router.served();
        let working = supervise(self.config.clone(), self.shared.clone(), self.known.clone(), served, stop.clone());
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(self.config.grace).await;
            self.shared.force.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = working => {}
            () = late => {}
        }
    }

    /// Waits until no event runs.
    pub async fn idle(&self) {
        // An error would mean that the sender is gone, which is ours.
        let _ = self.shared.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// What became of the events of each trigger on this node, in order of their functions.
    pub fn stats(&self) -> Vec<TriggerStats> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).stats()
    }
}
