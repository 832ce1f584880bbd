//! The stores of events in memory, for tests in which time stands still until it is moved: a store on a disk or behind a
//! network cannot be used there. It keeps what is appended, fails on demand, and pulls nothing.

use bytes::Bytes;
use dunlin_api::{BoxFuture, Message, Publish, Published, StoreError, Version, trigger::ChangeSource};
use dunlin_scheduler::store::{
    ByteStream, CatalogStore, PutError, Record, Watch,
    events::{
        Blobs, Bus, Consumer, ConsumerSpec, DUPLICATES, EventStores, Own, Source, Stored, Streams, Subscription,
        Waiting,
    },
};
use futures::StreamExt;
use std::{
    collections::{BTreeMap, HashMap},
    future::ready,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

#[derive(Default)]
pub(crate) struct Memory(Mutex<State>);

#[derive(Default)]
pub(crate) struct State {
    /// Whether everything fails.
    pub(crate) down: bool,
    /// Every attempt to append, stored or not.
    pub(crate) attempts: usize,
    pub(crate) work: BTreeMap<u64, Message>,
    pub(crate) signals: Vec<String>,
    pub(crate) consumers: BTreeMap<String, ConsumerSpec>,
    /// What waits for a consumer.
    pub(crate) waiting: HashMap<String, Waiting>,
    appended: HashMap<String, (u64, Instant)>,
    records: BTreeMap<String, (Bytes, Version)>,
    last: u64,
}

impl Memory {
    pub(crate) fn stores(self: &Arc<Self>) -> EventStores {
        EventStores { streams: self.clone(), bus: self.clone(), blobs: self.clone(), records: self.clone() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The `ce-id`s of the items in their order.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.state().work.values().map(|item| item.header("ce-id").unwrap().to_owned()).collect()
    }

    fn with<'a, T: Send + 'a>(
        &'a self,
        act: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        let mut state = self.state();
        let done = if state.down { Err(StoreError::Unavailable("the test says so".into())) } else { act(&mut state) };
        // A turn for others, so that writers do get into each other's way.
        Box::pin(async move {
            tokio::task::yield_now().await;
            done
        })
    }
}

impl Streams for Memory {
    fn append<'a>(&'a self, _: Own, message: Message, id: Option<&'a str>) -> BoxFuture<'a, Result<u64, StoreError>> {
        self.with(|state| {
            state.attempts += 1;
            let (id, now) = (id.unwrap().to_owned(), Instant::now());
            if let Some((sequence, at)) = state.appended.get(&id).filter(|(_, at)| now - *at < DUPLICATES) {
                assert!(*at <= now);
                return Ok(*sequence);
            }
            state.last += 1;
            let sequence = state.last;
            state.work.insert(sequence, message);
            state.appended.insert(id, (sequence, now));
            Ok(sequence)
        })
    }

    fn queues(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>, StoreError>> {
        self.with(|state| {
            let mut queues = BTreeMap::new();
            for item in state.work.values() {
                *queues.entry(item.subject.clone()).or_default() += 1;
            }
            Ok(queues)
        })
    }

    fn list<'a>(
        &'a self,
        _: Own,
        filter: Option<&'a str>,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, StoreError>> {
        let fits = |subject: &str| filter.is_none_or(|filter| dunlin_api::subject::covers(filter, subject));
        self.with(|state| {
            let items = state.work.range(after + 1..).filter(|(_, item)| fits(&item.subject)).take(limit);
            Ok(items
                .map(|(sequence, item)| Stored { sequence: *sequence, time_ms: 0, message: item.clone() })
                .collect())
        })
    }

    fn read(&self, _: Own, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, StoreError>> {
        self.with(|state| {
            Ok(state.work.get(&sequence).cloned().map(|message| Stored { sequence, time_ms: 0, message }))
        })
    }

    fn delete(&self, _: Own, sequence: u64) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.with(|state| Ok(state.work.remove(&sequence).is_some()))
    }

    fn resolve<'a>(&'a self, stream: Option<&'a str>, subject: &'a str) -> BoxFuture<'a, Result<String, StoreError>> {
        self.with(|_| match stream {
            Some("ORDERS") => Ok("ORDERS".into()),
            Some(other) => Err(StoreError::NotFound(format!("the stream {other}"))),
            None if subject == "split.>" => Err(StoreError::Invalid("two streams take parts of `split.>`".into())),
            None => Ok("made".into()),
        })
    }

    fn check_source<'a>(&'a self, source: &'a ChangeSource) -> BoxFuture<'a, Result<(), StoreError>> {
        self.with(|_| match source {
            ChangeSource::Store(_) => Ok(()),
            other => Err(StoreError::NotFound(other.to_string())),
        })
    }

    fn ensure<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        self.with(|state| {
            if matches!(&spec.source, Source::Stream { subject, .. } if subject == "denied.>") {
                return Err(StoreError::Invalid("the stream takes no more consumers".into()));
            }
            state.consumers.insert(spec.name.clone(), spec.clone());
            state.waiting.entry(spec.name.clone()).or_default();
            Ok(())
        })
    }

    fn open<'a>(&'a self, _: &'a ConsumerSpec) -> BoxFuture<'a, Result<Box<dyn Consumer>, StoreError>> {
        Box::pin(ready(Err(StoreError::Invalid("nothing is pulled here".into()))))
    }

    fn waiting<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<Option<Waiting>, StoreError>> {
        self.with(|state| Ok(state.waiting.get(&spec.name).copied()))
    }

    fn remove<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        self.with(|state| {
            state.consumers.remove(&spec.name);
            state.waiting.remove(&spec.name);
            Ok(())
        })
    }
}

impl Bus for Memory {
    fn subscribe<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        Box::pin(ready(Ok(futures::stream::pending().boxed())))
    }

    fn send(&self, _: Message) -> BoxFuture<'_, Result<(), StoreError>> {
        self.with(|_| Ok(()))
    }

    fn signal<'a>(&'a self, topic: &'a str, _: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.with(|state| {
            state.signals.push(topic.to_owned());
            Ok(())
        })
    }

    fn signals<'a>(&'a self, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        self.subscribe(pattern, None)
    }

    fn dropped(&self) -> u64 {
        0
    }
}

impl Publish for Memory {
    fn publish(&self, _: Message) -> BoxFuture<'_, Result<Published, StoreError>> {
        self.with(|_| Ok(Published::default()))
    }

    fn request(&self, message: Message, _: Duration) -> BoxFuture<'_, Result<Message, StoreError>> {
        self.with(|_| Err(StoreError::NotFound(format!("a listener on {}", message.subject))))
    }
}

impl Blobs for Memory {
    fn put<'a>(
        &'a self,
        _: &'a str,
        _: ByteStream<'a>,
        _: dunlin_api::ByteSize,
    ) -> BoxFuture<'a, Result<u64, PutError>> {
        Box::pin(ready(Ok(0)))
    }

    fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<(u64, ByteStream<'static>)>, StoreError>> {
        Box::pin(ready(Ok(None)))
    }

    fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.with(|_| Ok(()))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        self.with(|_| Ok(Vec::new()))
    }
}

impl CatalogStore for Memory {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<(Bytes, Version)>, StoreError>> {
        self.with(|state| Ok(state.records.get(key).cloned()))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Option<Version>,
    ) -> BoxFuture<'a, Result<Version, StoreError>> {
        self.with(|state| {
            if state.records.get(key).map(|(_, version)| *version) != expected {
                return Err(StoreError::Conflict(key.to_owned()));
            }
            state.last += 1;
            state.records.insert(key.to_owned(), (value, state.last));
            Ok(state.last)
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> BoxFuture<'a, Result<(), StoreError>> {
        self.with(|state| match state.records.get(key) {
            Some((_, version)) if *version == expected => {
                state.records.remove(key);
                Ok(())
            }
            _ => Err(StoreError::Conflict(key.to_owned())),
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Record>, StoreError>> {
        self.with(|state| {
            let records = state.records.iter().filter(|(key, _)| key.starts_with(prefix));
            let record = |(key, (value, version)): (&String, &(Bytes, Version))| Record {
                key: key.clone(),
                value: value.clone(),
                version: *version,
            };
            Ok(records.map(record).collect())
        })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(ready(Ok(futures::stream::pending().boxed())))
    }
}
