//! One durable source on this node: pulls what this node has room for and runs it.
//!
//! Started by [`super::supervise`] for each trigger and for each queue that holds work. It pulls while slots are free, so that
//! load spreads over nodes by what they can take; a source that is idle asks for one message and holds no slot. Bounds:
//! its concurrency, the slots of the node, and for ordered sources [`ORDERED`] deliveries that wait for each other.

use dunlin_api::{
    FunctionName, StoreError,
    trigger::{Order, Start, TriggerId},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared, Work, item,
    lanes::Lanes,
    plan::{Key, Listening, Terms},
    spec::spec,
    stats::Counters,
    task::Task,
};
use crate::store::events::{ACK_WAIT, Consumer, ConsumerSpec, Delivery, Source as From};

/// Deliveries that an ordered source has at once: those that wait behind one that is tried again must not keep other
/// lanes from running. Of a mebibyte each at most.
const ORDERED: usize = 256;
/// After so long without a message a source asks for one at a time, so that a burst spreads over the nodes.
const IDLE: Duration = Duration::from_secs(1);
/// After so long without a message a queue is left; whoever appends to it says so.
const EMPTY: Duration = Duration::from_secs(60);
/// Before a source that failed is opened again; doubled up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// [`Terms`] in force, with the places for events that run at once. A changed concurrency holds for what starts afterwards.
pub(super) struct InForce {
    pub terms: Terms,
    pub places: Arc<Semaphore>,
}

pub(super) struct Source {
    pub shared: Arc<Shared>,
    pub key: Key,
    pub listening: Listening,
    pub terms: watch::Receiver<Arc<InForce>>,
    /// The trigger is gone, or the node stops.
    pub stop: CancellationToken,
    pub counters: Arc<Counters>,
    pub events: Arc<dyn Work>,
}

/// Why a source pulls no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Closed,
    /// A delivery of an ordered source was lost: what came after it must not overtake it.
    Broken,
    Empty,
}

impl Source {
    pub(super) fn function(&self) -> &FunctionName {
        &self.key.function
    }

    pub(super) fn trigger(&self) -> &TriggerId {
        &self.key.trigger
    }

    pub(super) fn ordered(&self) -> bool {
        self.listening.order() != Order::None
    }

    /// Works until it is stopped, or until its queue was empty for a while.
    pub(super) async fn run(self: Arc<Self>) {
        let mut open = self.shared.open.subscribe();
        loop {
            let opened = async { open.wait_for(|open| *open).await.is_ok() };
            if self.stop.run_until_cancelled(opened).await != Some(true) {
                return;
            }
            match self.session().await {
                End::Closed => {}
                End::Broken => drop(self.stop.run_until_cancelled(sleep(ACK_WAIT)).await),
                End::Stopped | End::Empty => return,
            }
        }
    }

    /// Pulls and runs until there is a reason not to, and until what was begun has ended.
    async fn session(self: &Arc<Self>) -> End {
        let mut feed = Feed::new(self);
        let mut tasks = JoinSet::new();
        let mut lanes = Lanes::default();
        let (halt, broken) = (CancellationToken::new(), CancellationToken::new());
        let mut open = self.shared.open.subscribe();
        let end = loop {
            let room = self.room(tasks.len());
            tokio::select! {
                () = self.stop.cancelled() => break End::Stopped,
                _ = async { open.wait_for(|open| !open).await.is_ok() } => break End::Closed,
                () = broken.cancelled() => break End::Broken,
                Some(ended) = tasks.join_next() => self.ended(ended),
                deliveries = feed.next(room), if room > 0 => match deliveries {
                    None if tasks.is_empty() && self.key.queue => break End::Empty,
                    None => {}
                    Some(deliveries) => for delivery in deliveries {
                        let delivery = self.own(delivery);
                        let key = self.listening.order().key(&delivery.stored.message.subject);
                        let turn = key.map(|key| lanes.enter(key));
                        let (halt, broken) = (halt.clone(), broken.clone());
                        tasks.spawn(Task { source: self.clone(), delivery, turn, halt, broken }.run());
                    }
                }
            }
        };
        // It gives back what it was sent before others are told of what waits here.
        drop(feed);
        if end != End::Broken {
            halt.cancel();
        }
        while let Some(ended) = tasks.join_next().await {
            self.ended(ended);
        }
        end
    }

    fn room(&self, held: usize) -> usize {
        let most = if self.ordered() { ORDERED } else { self.terms.borrow().terms.concurrency as usize };
        most.saturating_sub(held)
    }

    /// A panic costs one delivery, which comes again.
    fn ended(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(error) = ended {
            tracing::error!(function = %self.function(), trigger = %self.trigger(), %error, "an event was not handled");
        }
    }

    /// The delivery, without headers that only we set: in our own queues they are ours.
    fn own(&self, mut delivery: Delivery) -> Delivery {
        if matches!(self.listening, Listening::Stream { .. }) {
            delivery.stored.message.headers.retain(|(name, _)| !item::is_ours(name));
        }
        delivery
    }

    async fn open(&self) -> Result<Box<dyn Consumer>, StoreError> {
        let spec = self.spec().await?;
        self.shared.stores.streams.ensure(&spec).await?;
        self.shared.stores.streams.open(&spec).await
    }

    async fn spec(&self) -> Result<ConsumerSpec, StoreError> {
        let (source, start) = match &self.listening {
            Listening::Stream { stream, subject, from, .. } => {
                let stream = self.shared.stores.streams.resolve(stream.as_deref(), subject).await?;
                (From::Stream { stream, subject: subject.clone() }, *from)
            }
            Listening::Changes { source, keys } => {
                (From::Changes { source: source.clone(), keys: keys.clone() }, Start::New)
            }
            Listening::Queue { name, .. } => (From::Queue(name.clone()), Start::All),
            Listening::Subject(subject) => {
                return Err(StoreError::Invalid(format!("the subject `{subject}` has no consumer")));
            }
        };
        Ok(spec(self.function(), self.trigger(), source, start, self.listening.order()))
    }
}

/// Where a source's deliveries come from: its consumer, opened again when it fails.
struct Feed<'a> {
    source: &'a Source,
    consumer: Option<Box<dyn Consumer>>,
    not_before: Instant,
    pause: Duration,
    /// Until then it asks for as many as there is room for.
    eager_until: Instant,
}

impl<'a> Feed<'a> {
    fn new(source: &'a Source) -> Self {
        let now = Instant::now();
        Self { source, consumer: None, not_before: now, pause: AGAIN.0, eager_until: now }
    }

    /// What comes next, `room` at most; none after a while without a message. Cancel safe.
    async fn next(&mut self, room: usize) -> Option<Vec<Delivery>> {
        loop {
            let Some(consumer) = &mut self.consumer else {
                sleep_until(self.not_before).await;
                match self.source.open().await {
                    Ok(consumer) => self.consumer = Some(consumer),
                    Err(error) => self.failed(&error),
                }
                continue;
            };
            // No slot is kept while nothing comes. Only one node has an ordered source: there is nobody to leave it to.
            let free = if self.source.ordered() { room } else { self.source.shared.free_slots().await };
            let eager = Instant::now() < self.eager_until;
            let (max, wait) = if eager { (room.min(free).max(1), IDLE) } else { (1, EMPTY) };
            match timeout(wait, consumer.pull(max)).await {
                Ok(Ok(deliveries)) => {
                    self.pause = AGAIN.0;
                    self.eager_until = Instant::now() + IDLE;
                    return Some(deliveries);
                }
                Ok(Err(error)) => self.failed(&error),
                Err(_) if eager => {}
                Err(_) => return None,
            }
        }
    }

    fn failed(&mut self, error: &StoreError) {
        self.consumer = None;
        self.not_before = Instant::now() + self.pause.mul_f64(rand::random_range(0.5..1.0));
        self.pause = (self.pause * 2).min(AGAIN.1);
        let Source { key: Key { function, trigger, .. }, counters, listening, .. } = self.source;
        if counters.error(error.to_string()) {
            tracing::warn!(%function, %trigger, %listening, %error, "the trigger cannot listen: it is tried again");
        }
    }
}
