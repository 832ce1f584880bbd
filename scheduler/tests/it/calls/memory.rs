//! The stores of events in memory, which do one thing after another and let a test in between.

use bytes::Bytes;
use dunlin_api::{
    BodyError, BoxFuture, ByteSize, Message, Publish, Published, StoreError, Version, trigger::ChangeSource,
};
use dunlin_scheduler::store::{
    ByteStream, CatalogStore, PutError, Record, Watch,
    events::{
        Blobs, Bus, Consumer, ConsumerSpec, Delivery, EventStores, Own, Received, Settle, Source, Stored, Streams,
        Subscription, Waiting,
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, broadcast},
    task::yield_now,
};

struct Waits {
    own: Own,
    stored: Stored,
    delivered: u64,
    out: bool,
}

pub(crate) struct Memory {
    me: Weak<Self>,
    arrived: Notify,
    messages: Mutex<Vec<Waits>>,
    appended: Mutex<BTreeMap<String, u64>>,
    pub(crate) blobs: Mutex<BTreeMap<String, (u64, Bytes)>>,
    pub(crate) records: Mutex<BTreeMap<String, (Bytes, Version)>>,
    signals: broadcast::Sender<Message>,
    count: AtomicU64,
    /// Appending fails.
    pub(crate) full: AtomicBool,
    /// Writing records fails.
    pub(crate) forgetful: AtomicBool,
    /// Signals get lost.
    pub(crate) deaf: AtomicBool,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        let (signals, _) = broadcast::channel(100);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            arrived: Notify::new(),
            messages: Mutex::default(),
            appended: Mutex::default(),
            blobs: Mutex::default(),
            records: Mutex::default(),
            signals,
            count: AtomicU64::new(1),
            full: AtomicBool::new(false),
            forgetful: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
        })
    }

    pub(crate) fn stores(self: &Arc<Self>) -> EventStores {
        EventStores { streams: self.clone(), bus: self.clone(), blobs: self.clone(), records: self.clone() }
    }

    /// Messages that wait or are out.
    pub(crate) fn queued(&self) -> usize {
        self.messages.lock().unwrap().iter().filter(|waits| waits.own == Own::Work).count()
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, SeqCst)
    }
}

fn failed<T>(what: &str) -> Result<T, StoreError> {
    Err(StoreError::Unavailable(format!("{what}, as the test wants")))
}

impl Streams for Memory {
    fn append<'a>(&'a self, own: Own, message: Message, id: Option<&'a str>) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            yield_now().await;
            if self.full.load(SeqCst) {
                return failed("full");
            }
            if message.size() > dunlin_scheduler::store::events::MAX_MESSAGE_BYTES {
                return Err(StoreError::Invalid("the message is too large".into()));
            }
            let sequence = self.next();
            if let Some(id) = id {
                let first = *self.appended.lock().unwrap().entry(id.into()).or_insert(sequence);
                if first != sequence {
                    return Ok(first);
                }
            }
            let stored = Stored { sequence, time_ms: 0, message };
            self.messages.lock().unwrap().push(Waits { own, stored, delivered: 0, out: false });
            self.arrived.notify_one();
            Ok(sequence)
        })
    }

    fn queues(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>, StoreError>> {
        Box::pin(async { failed("not asked") })
    }

    fn list<'a>(
        &'a self,
        of: Own,
        _: Option<&'a str>,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, StoreError>> {
        Box::pin(async move {
            let messages = self.messages.lock().unwrap();
            let found = messages.iter().filter(|waits| waits.own == of && waits.stored.sequence > after);
            Ok(found.take(limit).map(|waits| waits.stored.clone()).collect())
        })
    }

    fn read(&self, _: Own, _: u64) -> BoxFuture<'_, Result<Option<Stored>, StoreError>> {
        Box::pin(async { failed("not asked") })
    }

    fn delete(&self, _: Own, sequence: u64) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.messages.lock().unwrap().retain(|waits| waits.stored.sequence != sequence);
        Box::pin(async { Ok(true) })
    }

    fn resolve<'a>(&'a self, _: Option<&'a str>, _: &'a str) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async { failed("not asked") })
    }

    fn check_source<'a>(&'a self, _: &'a ChangeSource) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { failed("not asked") })
    }

    fn ensure<'a>(&'a self, _: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn open<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<Box<dyn Consumer>, StoreError>> {
        let hands = Hands(self.me.upgrade().unwrap(), spec.source.clone());
        Box::pin(async { Ok(Box::new(hands) as Box<dyn Consumer>) })
    }

    fn waiting<'a>(&'a self, _: &'a ConsumerSpec) -> BoxFuture<'a, Result<Option<Waiting>, StoreError>> {
        Box::pin(async { failed("not asked") })
    }

    fn remove<'a>(&'a self, _: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { failed("not asked") })
    }
}

/// Hands out the messages of one queue.
struct Hands(Arc<Memory>, Source);

impl Consumer for Hands {
    fn pull(&mut self, _: usize) -> BoxFuture<'_, Result<Vec<Delivery>, StoreError>> {
        Box::pin(async {
            loop {
                if let Some(delivery) = self.take() {
                    return Ok(vec![delivery]);
                }
                self.0.arrived.notified().await;
            }
        })
    }
}

impl Hands {
    fn take(&self) -> Option<Delivery> {
        let Source::Queue(queue) = &self.1 else { return None };
        let mut messages = self.0.messages.lock().unwrap();
        let waits = messages.iter_mut().find(|w| w.own == Own::Work && !w.out && w.stored.message.subject == *queue)?;
        (waits.out, waits.delivered) = (true, waits.delivered + 1);
        let settle = Arc::new(Hand(self.0.clone(), waits.stored.sequence));
        let (stored, delivered) = (waits.stored.clone(), waits.delivered);
        Some(Delivery { stream: "work".into(), stored, delivered, failed: 0, settle })
    }
}

struct Hand(Arc<Memory>, u64);

impl Settle for Hand {
    fn ack(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            Streams::delete(&*self.0, Own::Work, self.1).await?;
            Ok(())
        })
    }

    fn progress(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn retry(&self, _: Duration, _: u32) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut messages = self.0.messages.lock().unwrap();
        messages.iter_mut().filter(|waits| waits.stored.sequence == self.1).for_each(|waits| waits.out = false);
        self.0.arrived.notify_one();
        Box::pin(async { Ok(()) })
    }

    fn give_up<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.ack()
    }
}

impl Publish for Memory {
    fn publish(&self, _: Message) -> BoxFuture<'_, Result<Published, StoreError>> {
        Box::pin(async { failed("not asked") })
    }

    fn request(&self, _: Message, _: Duration) -> BoxFuture<'_, Result<Message, StoreError>> {
        Box::pin(async { failed("not asked") })
    }
}

impl Bus for Memory {
    fn subscribe<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        Box::pin(async { failed("not asked") })
    }

    fn send(&self, _: Message) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { failed("not asked") })
    }

    fn signal<'a>(&'a self, topic: &'a str, payload: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            yield_now().await;
            if !self.deaf.load(SeqCst) {
                let _ = self.signals.send(Message::new(topic, payload));
            }
            Ok(())
        })
    }

    fn signals<'a>(&'a self, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        let (topic, signals) = (pattern.to_owned(), self.signals.subscribe());
        let heard = tokio_stream::wrappers::BroadcastStream::new(signals).filter_map(move |message| {
            let message = message.ok().filter(|message| message.subject == topic);
            std::future::ready(message.map(|message| Received { message, reply: None }))
        });
        Box::pin(async { Ok(heard.boxed()) })
    }

    fn dropped(&self) -> u64 {
        0
    }
}

impl Blobs for Memory {
    fn put<'a>(&'a self, name: &'a str, bytes: ByteStream<'a>, max: ByteSize) -> BoxFuture<'a, Result<u64, PutError>> {
        Box::pin(async move {
            let chunks: Result<Vec<Bytes>, BodyError> = bytes.try_collect().await;
            let all = chunks.map_err(PutError::Source)?.concat();
            if all.len() as u64 > max.bytes() {
                return Err(PutError::TooLarge { limit: max });
            }
            yield_now().await;
            let size = all.len() as u64;
            self.blobs.lock().unwrap().insert(name.into(), (0, all.into()));
            Ok(size)
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(u64, ByteStream<'static>)>, StoreError>> {
        let found = self.blobs.lock().unwrap().get(name).map(|(_, bytes)| bytes.clone());
        let found = found.map(|bytes| (bytes.len() as u64, stream::iter([Ok(bytes)]).boxed()));
        Box::pin(async { Ok(found) })
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.blobs.lock().unwrap().remove(name);
        Box::pin(async { Ok(()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        let names = self.blobs.lock().unwrap().iter().map(|(name, (time, _))| (name.clone(), *time)).collect();
        Box::pin(async { Ok(names) })
    }
}

impl CatalogStore for Memory {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<(Bytes, Version)>, StoreError>> {
        Box::pin(async move {
            yield_now().await;
            Ok(self.records.lock().unwrap().get(key).cloned())
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Option<Version>,
    ) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move {
            yield_now().await;
            if self.forgetful.load(SeqCst) {
                return failed("forgetful");
            }
            let mut records = self.records.lock().unwrap();
            if records.get(key).map(|(_, version)| *version) != expected {
                return Err(StoreError::Conflict(key.into()));
            }
            let version = self.next();
            records.insert(key.into(), (value, version));
            Ok(version)
        })
    }

    fn delete<'a>(&'a self, key: &'a str, _: Version) -> BoxFuture<'a, Result<(), StoreError>> {
        self.records.lock().unwrap().remove(key);
        Box::pin(async { Ok(()) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Record>, StoreError>> {
        let records = self.records.lock().unwrap();
        let found = records.iter().filter(|(key, _)| key.starts_with(prefix));
        let found =
            found.map(|(key, (value, version))| Record { key: key.clone(), value: value.clone(), version: *version });
        let found = found.collect();
        Box::pin(async { Ok(found) })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(async { failed("not asked") })
    }
}
