//! Keeps the sources of this node those that [`plan`] wants: starts, tells of changes, and ends them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    EventsConfig, Shared, TriggerStats,
    discover::discover,
    item,
    plan::{Key, Listening, Terms, Wanted, plan},
    source::{InForce, Source},
    stats::Counters,
    subject::Subject,
    work::EventWork,
};
use crate::snapshot::Snapshot;

/// Queues that were found and not looked at yet.
const FOUND: usize = 256;

/// Counters of all sources, by what they listen to.
#[derive(Default)]
pub(super) struct Known(BTreeMap<Key, (String, Arc<Counters>)>);

impl Known {
    pub(super) fn stats(&self) -> Vec<TriggerStats> {
        self.0
            .iter()
            .map(|(key, (listens, counters))| counters.stats(&key.function, &key.trigger, listens.clone()))
            .collect()
    }
}

/// A source that was started and has not ended.
struct Started {
    task: Id,
    listening: Listening,
    terms: watch::Sender<Arc<InForce>>,
    stop: CancellationToken,
}

struct Supervisor {
    config: EventsConfig,
    shared: Arc<Shared>,
    known: Arc<Mutex<Known>>,
    started: BTreeMap<Key, Started>,
    queues: BTreeSet<String>,
    /// Each ends with its key.
    tasks: JoinSet<Key>,
    stop: CancellationToken,
}

/// Works until `stop` and until all sources have ended.
pub(super) async fn supervise(
    config: EventsConfig,
    shared: Arc<Shared>,
    known: Arc<Mutex<Known>>,
    mut served: watch::Receiver<Arc<Snapshot>>,
    stop: CancellationToken,
) {
    let (find, mut found) = mpsc::channel(FOUND);
    let mut finding = std::pin::pin!(discover(shared.stores.clone(), find));
    let (started, queues, tasks) = (BTreeMap::new(), BTreeSet::new(), JoinSet::new());
    let mut all = Supervisor { config, shared, known, started, queues, tasks, stop: stop.clone() };
    let (mut following, mut news) = (true, true);
    loop {
        if news {
            let snapshot = served.borrow_and_update().clone();
            all.reconcile(&snapshot);
        }
        news = tokio::select! {
            () = stop.cancelled() => break,
            changed = served.changed(), if following => {
                following = changed.is_ok();
                following
            }
            Some(ended) = all.tasks.join_next() => all.ended(ended),
            Some(queue) = found.recv() => all.found(queue, &mut found),
            // It ends when nobody listens any more.
            () = &mut finding => break,
        };
    }
    while all.tasks.join_next().await.is_some() {}
}

impl Supervisor {
    fn reconcile(&mut self, snapshot: &Snapshot) {
        let wanted = plan(snapshot, &self.config, &self.queues);
        for (key, started) in &self.started {
            match wanted.get(key) {
                Some(Wanted { listening, terms }) if *listening == started.listening => started.tell(terms),
                // It begins anew when this one has ended.
                _ => started.stop.cancel(),
            }
        }
        // The others are of no function, or of one that other nodes run: they are found again when that changes.
        let ours: BTreeSet<_> = wanted.values().filter_map(|wanted| wanted.listening.queue()).cloned().collect();
        self.queues.retain(|queue| ours.contains(queue));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.0.retain(|key, _| snapshot.functions.contains_key(&key.function) || self.started.contains_key(key));
        drop(known);
        for (key, wanted) in wanted {
            if !self.started.contains_key(&key) {
                self.start(key, wanted);
            }
        }
    }

    fn start(&mut self, key: Key, Wanted { listening, terms }: Wanted) {
        let counters = self.counters(&key, &listening);
        let places = Arc::new(Semaphore::new(terms.concurrency as usize));
        let (tell, terms) = watch::channel(Arc::new(InForce { terms, places }));
        let (stop, shared) = (self.stop.child_token(), self.shared.clone());
        let (name, listens, halt) = (key.clone(), listening.clone(), stop.clone());
        let handle = if let Listening::Subject(pattern) = listening {
            let subject = Arc::new(Subject { shared, key, pattern, terms, stop, counters });
            self.spawn(name.clone(), subject.run())
        } else {
            let (function, trigger) = (key.function.clone(), key.trigger.clone());
            let work = EventWork { fire: shared.fire.clone(), function, trigger, marks: shared.marks.clone() };
            let source = Arc::new(Source { shared, key, listening, terms, stop, counters, events: Arc::new(work) });
            self.spawn(name.clone(), source.run())
        };
        self.started.insert(name, Started { task: handle.id(), listening: listens, terms: tell, stop: halt });
    }

    fn spawn(&mut self, key: Key, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.tasks.spawn(async move {
            task.await;
            key
        })
    }

    fn counters(&self, key: &Key, listening: &Listening) -> Arc<Counters> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (listens, counters) = known.0.entry(key.clone()).or_default();
        *listens = listening.to_string();
        counters.clone()
    }

    /// Forgets a source that ended; it begins again if it is wanted.
    fn ended(&mut self, ended: Result<Key, JoinError>) -> bool {
        match ended {
            Ok(key) => {
                self.started.remove(&key);
                if key.queue {
                    self.queues.remove(&item::queue(&key.function, &key.trigger));
                }
            }
            Err(error) => {
                tracing::error!(%error, "a trigger's task failed: it begins again");
                self.started.retain(|_, started| started.task != error.id());
            }
        }
        true
    }

    /// Notes a queue, and all that were found meanwhile; whether one of them is new.
    fn found(&mut self, queue: String, more: &mut mpsc::Receiver<String>) -> bool {
        let mut news = self.queues.insert(queue);
        while let Ok(queue) = more.try_recv() {
            news |= self.queues.insert(queue);
        }
        news
    }
}

impl Started {
    /// Tells a source of changed terms.
    fn tell(&self, terms: &Terms) {
        self.terms.send_if_modified(|now| {
            if now.terms == *terms {
                return false;
            }
            let same = now.terms.concurrency == terms.concurrency;
            let places = if same { now.places.clone() } else { Arc::new(Semaphore::new(terms.concurrency as usize)) };
            *now = Arc::new(InForce { terms: terms.clone(), places });
            true
        });
    }
}
