//! [`Streams`] of a node that stands alone: consumers over the database of messages and the changes of key-value stores.
//!
//! Where a consumer stands is on the disk as what it has still to settle; which deliveries are out is in memory, so after a
//! crash they come again. Bounds: [`crate::store::events::MAX_PENDING`] deliveries out for each consumer, and those of the
//! queue module.

use dunlin_api::{
    BoxFuture, Message, StoreError,
    subject::check_listenable,
    trigger::{ChangeSource, Order, Start},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    queue::{self, Op, Queue, Reading, To},
    records::{Records, follow, follow::Following},
    unavailable,
};
use crate::store::events::{Consumer, ConsumerSpec, Own, Source, Stored, Streams, Waiting};
use consumer::{Hold, Shared};

mod consumer;
mod flight;
pub(super) mod log;

/// The streams of a node that stands alone.
pub struct EmbeddedStreams {
    queue: Arc<Queue>,
    keyvalue: Arc<Records>,
    consumers: Arc<Mutex<Consumers>>,
}

/// By name. Those of queues leave when nobody holds them and their queue is empty.
type Consumers = HashMap<String, Arc<Shared>>;

fn lock(consumers: &Mutex<Consumers>) -> MutexGuard<'_, Consumers> {
    consumers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EmbeddedStreams {
    pub(super) fn new(queue: Arc<Queue>, keyvalue: Arc<Records>) -> Self {
        Self { queue, keyvalue, consumers: Arc::default() }
    }

    /// The consumer, if it exists: those of queues do only in memory.
    fn existing(&self, spec: &ConsumerSpec) -> Result<Option<Arc<Shared>>, StoreError> {
        if let Some(shared) = lock(&self.consumers).get(&spec.name) {
            return Ok(Some(shared.clone()));
        }
        Ok(match &spec.source {
            Source::Queue(_) => None,
            Source::Stream { stream, .. } => {
                let row = self.queue.consumer(&queue::stream(stream), &spec.name)?;
                row.map(|(subject, after)| self.of_stream(spec, stream, subject, after))
            }
            Source::Changes { source, .. } => {
                let store = store(source)?;
                let following = self.following(store, spec);
                following.pattern()?.is_some().then(|| self.share(spec, following, &follow::log(store)))
            }
        })
    }

    fn of_stream(&self, spec: &ConsumerSpec, stream: &str, subject: String, after: u64) -> Arc<Shared> {
        self.of_log(spec, stream, queue::stream(stream), Some(subject), after)
    }

    fn of_log(&self, spec: &ConsumerSpec, name: &str, log: String, subject: Option<String>, after: u64) -> Arc<Shared> {
        let reading = Reading {
            queue: self.queue.clone(),
            name: name.to_owned(),
            log: log.clone(),
            consumer: spec.name.clone(),
            subject,
            after,
        };
        self.share(spec, reading, &log)
    }

    fn following(&self, store: &str, spec: &ConsumerSpec) -> Following {
        Following::new(self.keyvalue.clone(), store, &spec.name)
    }

    fn share(&self, spec: &ConsumerSpec, log: impl log::Log + 'static, wake: &str) -> Arc<Shared> {
        let mut consumers = lock(&self.consumers);
        let made = || Arc::new(Shared::new(Box::new(log), self.queue.wakes.of(wake)));
        let shared = consumers.entry(spec.name.clone()).or_insert_with(made).clone();
        shared.set_ordered(spec.order != Order::None);
        shared
    }

    /// Forgets what is in memory of a consumer: who pulls it learns that it is gone.
    fn close(&self, name: &str) {
        let closed = lock(&self.consumers).remove(name);
        if let Some(shared) = closed {
            shared.close();
        }
    }

    async fn make(&self, spec: &ConsumerSpec) -> Result<Arc<Shared>, StoreError> {
        let (consumer, start) = (spec.name.clone(), spec.start);
        match &spec.source {
            Source::Queue(queue) => {
                if let Some(shared) = self.existing(spec)? {
                    return Ok(shared);
                }
                Ok(self.of_log(spec, "work", queue::work(queue), None, 0))
            }
            Source::Stream { stream, subject } => {
                let log = queue::stream(stream);
                let known = self.queue.consumer(&log, &consumer)?;
                if known.is_none_or(|(known, _)| known != *subject) {
                    let (stream, subject) = (stream.clone(), subject.clone());
                    self.queue.write(Op::Ensure { stream, consumer, subject, start }).await?;
                    self.close(&spec.name);
                }
                self.existing(spec)?.ok_or_else(|| absent(spec))
            }
            Source::Changes { source, keys } => {
                let all = match start {
                    Start::All => true,
                    Start::New => false,
                    Start::Time(_) => {
                        let reason = "changes of keys begin with `all` or `new`: a store does not keep earlier values";
                        return Err(StoreError::Invalid(reason.into()));
                    }
                };
                let following = self.following(store(source)?, spec);
                if following.pattern()?.is_none_or(|known| known != *keys) {
                    following.change(follow::Change::Ensure { keys: keys.clone(), all }).await?;
                }
                self.existing(spec)?.ok_or_else(|| absent(spec))
            }
        }
    }

    /// What happens when a hold is gone.
    fn left(&self, spec: &ConsumerSpec, shared: &Arc<Shared>) -> Box<dyn Fn() + Send + Sync> {
        let Source::Queue(queue) = &spec.source else { return Box::new(|| {}) };
        let (consumers, shared) = (Arc::downgrade(&self.consumers), Arc::downgrade(shared));
        let (name, queue, database) = (spec.name.clone(), queue::work(queue), Arc::downgrade(&self.queue));
        Box::new(move || {
            let held = (consumers.upgrade(), shared.upgrade(), database.upgrade());
            let (Some(consumers), Some(shared), Some(database)) = held else { return };
            let mut consumers = lock(&consumers);
            // The map, this function's own handle, and the hold that is leaving.
            let is_last = Arc::strong_count(&shared) <= 3;
            if is_last && shared.is_idle() && database.is_empty(&queue).unwrap_or(false) {
                consumers.remove(&name);
            }
        })
    }
}

fn absent(spec: &ConsumerSpec) -> StoreError {
    StoreError::NotFound(format!("the consumer {}", spec.name))
}

fn store(source: &ChangeSource) -> Result<&str, StoreError> {
    match source {
        ChangeSource::Store(name) => crate::store::check_key(name, "-").map(|()| &**name),
        ChangeSource::Bucket(_) | ChangeSource::Objects(_) => Err(StoreError::Invalid(format!(
            "this node stands alone, and {source} needs a NATS cluster: start the nodes with --nats, or follow a `store`"
        ))),
    }
}

impl Streams for EmbeddedStreams {
    fn append<'a>(&'a self, to: Own, message: Message, id: Option<&'a str>) -> BoxFuture<'a, Result<u64, StoreError>> {
        let to = match to {
            Own::Work => To::Work,
            Own::Dead => To::Dead,
        };
        Box::pin(self.queue.append(to, message, id))
    }

    fn queues(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>, StoreError>> {
        Box::pin(std::future::ready(self.queue.queues()))
    }

    fn list<'a>(
        &'a self,
        of: Own,
        filter: Option<&'a str>,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, StoreError>> {
        let (queue, filter) = (self.queue.clone(), filter.map(str::to_owned));
        Box::pin(blocking(move || queue.list(of, filter.as_deref(), after, limit)))
    }

    fn read(&self, of: Own, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, StoreError>> {
        Box::pin(std::future::ready(self.queue.message(of, sequence)))
    }

    fn delete(&self, of: Own, sequence: u64) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(self.queue.delete(of, sequence))
    }

    fn resolve<'a>(&'a self, stream: Option<&'a str>, subject: &'a str) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async move {
            check_listenable(subject).map_err(StoreError::Invalid)?;
            let op = Op::Resolve { stream: stream.map(str::to_owned), subject: subject.to_owned() };
            Ok(self.queue.write(op).await?.stream)
        })
    }

    fn check_source<'a>(&'a self, source: &'a ChangeSource) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(std::future::ready(store(source).map(|_| ())))
    }

    fn ensure<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.make(spec).await?.set_ordered(spec.order != Order::None);
            Ok(())
        })
    }

    fn open<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<Box<dyn Consumer>, StoreError>> {
        Box::pin(async move {
            let shared = match (&spec.source, self.existing(spec)?) {
                (_, Some(shared)) => shared,
                (Source::Queue(_), None) => self.make(spec).await?,
                (_, None) => return Err(absent(spec)),
            };
            let left = self.left(spec, &shared);
            Ok(Box::new(Hold::new(shared, left)) as Box<dyn Consumer>)
        })
    }

    fn waiting<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<Option<Waiting>, StoreError>> {
        Box::pin(async move {
            let Some(shared) = self.existing(spec)? else { return Ok(None) };
            blocking(move || shared.waiting().map(Some)).await
        })
    }

    fn remove<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            match &spec.source {
                Source::Queue(_) => {}
                Source::Stream { stream, .. } => {
                    let (stream, consumer) = (stream.clone(), spec.name.clone());
                    self.queue.write(Op::Remove { stream, consumer }).await?;
                }
                Source::Changes { source, .. } => {
                    self.following(store(source)?, spec).change(follow::Change::Remove).await?;
                }
            }
            self.close(&spec.name);
            Ok(())
        })
    }
}

/// Runs a scan where it may take a while.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| unavailable("reading messages", e))?
}
