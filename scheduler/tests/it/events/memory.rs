//! The stores of events in memory: for tests of what becomes of an event, under a paused clock. What real stores promise is
//! tested with real ones.

use bytes::Bytes;
use dunlin_api::{
    BoxFuture, ByteSize, Message, Publish, Published, StoreError, subject::covers, trigger::ChangeSource,
};
use dunlin_scheduler::store::{
    ByteStream, PutError,
    events::{
        ACK_WAIT, Blobs, Bus, Consumer, ConsumerSpec, Delivery, EventStores, MAX_MESSAGE_BYTES, Own, Received, Settle,
        Source, Stored, Streams, Subscription, Waiting,
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::BroadcastStream;

/// How a delivery was settled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum How {
    Ack,
    Retry(Duration, u32),
    GiveUp(String),
}

#[derive(Default)]
struct Log {
    next: u64,
    messages: BTreeMap<u64, Message>,
    ids: HashMap<String, u64>,
}

#[derive(Default, Clone)]
struct Place {
    settled: bool,
    due: Option<Instant>,
    delivered: u64,
    failed: u32,
}

#[derive(Default)]
struct State {
    logs: HashMap<String, Log>,
    places: HashMap<String, BTreeMap<u64, Place>>,
    settled: Vec<(String, How)>,
    blobs: BTreeMap<String, Bytes>,
    largest_pull: usize,
    appends_fail: u32,
}

/// The stores.
pub(crate) struct Memory {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    bus: broadcast::Sender<Received>,
}

const STREAM: &str = "ORDERS";

fn name(of: Own) -> &'static str {
    if of == Own::Work { "work" } else { "dead" }
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(0), bus: broadcast::channel(4_096).0 })
    }

    pub(crate) fn stores(self: &Arc<Self>, records: Arc<dyn dunlin_scheduler::store::CatalogStore>) -> EventStores {
        EventStores {
            streams: Arc::new(Handle(self.clone())),
            bus: Arc::new(Handle(self.clone())),
            blobs: Arc::new(Handle(self.clone())),
            records,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Stores a message in the stream that all triggers of these tests read.
    pub(crate) fn put(&self, message: Message) -> u64 {
        self.store(STREAM, message, None)
    }

    fn store(&self, log: &str, message: Message, id: Option<&str>) -> u64 {
        self.change(|state| {
            let log = state.logs.entry(log.into()).or_default();
            if let Some(known) = id.and_then(|id| log.ids.get(id)) {
                return *known;
            }
            log.next += 1;
            log.messages.insert(log.next, message);
            if let Some(id) = id {
                log.ids.insert(id.into(), log.next);
            }
            log.next
        })
    }

    /// How deliveries were settled, in order, with the first bytes of their payloads.
    pub(crate) fn settled(&self) -> Vec<(String, How)> {
        self.state.lock().unwrap().settled.clone()
    }

    /// How many deliveries were settled like this.
    pub(crate) fn count(&self, like: impl Fn(&str, &How) -> bool) -> usize {
        self.state.lock().unwrap().settled.iter().filter(|(text, how)| like(text, how)).count()
    }

    pub(crate) fn dead(&self) -> usize {
        self.state.lock().unwrap().logs.get("dead").map_or(0, |log| log.messages.len())
    }

    pub(crate) fn blobs(&self) -> Vec<String> {
        self.state.lock().unwrap().blobs.keys().cloned().collect()
    }

    pub(crate) fn largest_pull(&self) -> usize {
        self.state.lock().unwrap().largest_pull
    }

    /// The next appends to dead letters fail.
    pub(crate) fn fail_appends(&self, times: u32) {
        self.state.lock().unwrap().appends_fail = times;
    }

    /// Waits until `done` is true, which it asks after each change.
    pub(crate) async fn until(&self, done: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        // Of the paused clock: a test that waits for what never comes ends.
        let patience = Instant::now() + Duration::from_secs(7 * 24 * 3_600);
        while !done(self) {
            tokio::time::timeout_at(patience, changed.changed()).await.expect("it happens").unwrap();
        }
    }

    /// Sends a message to those who listen now.
    pub(crate) fn say(&self, message: Message, reply: Option<&str>) {
        // An error means that nobody listens.
        let _ = self.bus.send(Received { message, reply: reply.map(Into::into) });
    }

    fn tell(&self, message: Message) -> Result<(), StoreError> {
        self.say(message, None);
        Ok(())
    }
}

struct Handle(Arc<Memory>);

impl Streams for Handle {
    fn append<'a>(&'a self, to: Own, message: Message, id: Option<&'a str>) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(async move {
            assert!(message.size() <= MAX_MESSAGE_BYTES);
            let fails = |state: &mut State| {
                let fails = to == Own::Dead && state.appends_fail > 0;
                state.appends_fail -= u32::from(fails);
                fails
            };
            if self.0.change(fails) {
                return Err(StoreError::Unavailable("as the test wants".into()));
            }
            Ok(self.0.store(name(to), message, id))
        })
    }

    fn queues(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>, StoreError>> {
        Box::pin(async {
            let state = self.0.state.lock().unwrap();
            let mut queues = BTreeMap::new();
            for message in state.logs.get("work").iter().flat_map(|log| log.messages.values()) {
                *queues.entry(message.subject.clone()).or_default() += 1;
            }
            Ok(queues)
        })
    }

    fn list<'a>(
        &'a self,
        of: Own,
        filter: Option<&'a str>,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, StoreError>> {
        Box::pin(async move {
            let state = self.0.state.lock().unwrap();
            let messages = state.logs.get(name(of)).into_iter().flat_map(|log| log.messages.range(after + 1..));
            let messages = messages.filter(|(_, message)| filter.is_none_or(|filter| covers(filter, &message.subject)));
            Ok(messages.take(limit).map(|(n, message)| stored(*n, message)).collect())
        })
    }

    fn read(&self, of: Own, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, StoreError>> {
        Box::pin(async move {
            let state = self.0.state.lock().unwrap();
            let message = state.logs.get(name(of)).and_then(|log| log.messages.get(&sequence));
            Ok(message.map(|message| stored(sequence, message)))
        })
    }

    fn delete(&self, of: Own, sequence: u64) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let delete = |state: &mut State| state.logs.get_mut(name(of))?.messages.remove(&sequence);
            Ok(self.0.change(delete).is_some())
        })
    }

    fn resolve<'a>(&'a self, _: Option<&'a str>, _: &'a str) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async { Ok(STREAM.into()) })
    }

    fn check_source<'a>(&'a self, _: &'a ChangeSource) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn ensure<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async {
            self.0.change(|state| {
                state.places.entry(spec.name.clone()).or_default();
            });
            Ok(())
        })
    }

    fn open<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<Box<dyn Consumer>, StoreError>> {
        Box::pin(async { Ok(Box::new(Pulling(self.0.clone(), spec.clone())) as Box<dyn Consumer>) })
    }

    fn waiting<'a>(&'a self, _: &'a ConsumerSpec) -> BoxFuture<'a, Result<Option<Waiting>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    fn remove<'a>(&'a self, _: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

fn stored(sequence: u64, message: &Message) -> Stored {
    Stored { sequence, time_ms: 1_000, message: message.clone() }
}

struct Pulling(Arc<Memory>, ConsumerSpec);

impl Pulling {
    fn log(&self) -> (&str, &str) {
        match &self.1.source {
            Source::Queue(queue) => ("work", queue),
            Source::Stream { subject, .. } => (STREAM, subject),
            Source::Changes { keys, .. } => ("changes", keys),
        }
    }

    /// What may be delivered now, or when to look again.
    fn take(&self, state: &mut State, max: usize) -> Result<Vec<Delivery>, Option<Instant>> {
        let (now, (log, filter)) = (Instant::now(), self.log());
        let State { logs, places, largest_pull, .. } = state;
        *largest_pull = max.max(*largest_pull);
        let places = places.entry(self.1.name.clone()).or_default();
        let (mut taken, mut next) = (Vec::new(), None::<Instant>);
        for (sequence, message) in logs.get(log).iter().flat_map(|log| &log.messages) {
            if log != "changes" && !covers(filter, &message.subject) {
                continue;
            }
            let place = places.entry(*sequence).or_default();
            if place.settled {
                continue;
            }
            if taken.len() == max {
                break;
            }
            if let Some(due) = place.due.filter(|due| *due > now) {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            place.due = Some(now + ACK_WAIT);
            place.delivered += 1;
            let settle = Arc::new(Settling { memory: self.0.clone(), spec: self.1.clone(), sequence: *sequence });
            let Place { delivered, failed, .. } = *place;
            taken.push(Delivery { stream: log.into(), stored: stored(*sequence, message), delivered, failed, settle });
        }
        if taken.is_empty() { Err(next) } else { Ok(taken) }
    }
}

impl Consumer for Pulling {
    fn pull(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, StoreError>> {
        Box::pin(async move {
            let mut changed = self.0.changed.subscribe();
            loop {
                let taken = self.take(&mut self.0.state.lock().unwrap(), max);
                let next = match taken {
                    Ok(taken) => return Ok(taken),
                    Err(next) => next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600)),
                };
                tokio::select! {
                    _ = changed.changed() => {}
                    () = sleep_until(next) => {}
                }
            }
        })
    }
}

struct Settling {
    memory: Arc<Memory>,
    spec: ConsumerSpec,
    sequence: u64,
}

impl Settling {
    fn settle(&self, how: Option<How>) -> Result<(), StoreError> {
        self.memory.change(|state| {
            let log = Pulling(self.memory.clone(), self.spec.clone()).log().0.to_owned();
            let place = state.places.entry(self.spec.name.clone()).or_default().entry(self.sequence).or_default();
            match &how {
                None => place.due = Some(Instant::now() + ACK_WAIT),
                Some(How::Retry(delay, failed)) => {
                    (place.due, place.failed) = (Some(Instant::now() + *delay), *failed);
                }
                Some(How::Ack | How::GiveUp(_)) => place.settled = true,
            }
            let over = place.settled && log == "work";
            let messages = &mut state.logs.get_mut(&log).unwrap().messages;
            let payload = messages[&self.sequence].payload.clone();
            if over {
                messages.remove(&self.sequence);
            }
            if let Some(how) = how {
                let shown = String::from_utf8_lossy(&payload[..payload.len().min(40)]).into_owned();
                state.settled.push((shown, how));
            }
        });
        Ok(())
    }
}

impl Settle for Settling {
    fn ack(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { self.settle(Some(How::Ack)) })
    }

    fn progress(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { self.settle(None) })
    }

    fn retry(&self, delay: Duration, failed: u32) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.settle(Some(How::Retry(delay, failed))) })
    }

    fn give_up<'a>(&'a self, reason: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { self.settle(Some(How::GiveUp(reason.into()))) })
    }
}

impl Publish for Handle {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<Published, StoreError>> {
        Box::pin(async move {
            let kept = message.subject.starts_with("orders.");
            self.0.say(message.clone(), None);
            Ok(Published { stored: kept.then(|| (STREAM.into(), self.0.put(message))) })
        })
    }

    fn request(&self, _: Message, _: Duration) -> BoxFuture<'_, Result<Message, StoreError>> {
        Box::pin(async { Err(StoreError::NotFound("a listener".into())) })
    }
}

impl Bus for Handle {
    fn subscribe<'a>(
        &'a self,
        pattern: &'a str,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        let (pattern, received) = (pattern.to_owned(), BroadcastStream::new(self.0.bus.subscribe()));
        let matching = received.filter_map(move |received| {
            let received = received.ok().filter(|received| covers(&pattern, &received.message.subject));
            std::future::ready(received)
        });
        Box::pin(async { Ok(matching.boxed()) })
    }

    fn send(&self, message: Message) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { self.0.tell(message) })
    }

    fn signal<'a>(&'a self, topic: &'a str, payload: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.0.tell(Message::new(format!("signal.{topic}"), payload)) })
    }

    fn signals<'a>(&'a self, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        Box::pin(async move {
            let all = self.subscribe(&format!("signal.{pattern}"), None).await?;
            let named = all.map(|mut received| {
                received.message.subject = received.message.subject["signal.".len()..].into();
                received
            });
            Ok(named.boxed())
        })
    }

    fn dropped(&self) -> u64 {
        0
    }
}

impl Blobs for Handle {
    fn put<'a>(&'a self, name: &'a str, bytes: ByteStream<'a>, _: ByteSize) -> BoxFuture<'a, Result<u64, PutError>> {
        Box::pin(async move {
            let parts: Vec<Bytes> = bytes.try_collect().await.map_err(PutError::Source)?;
            let bytes = Bytes::from(parts.concat());
            let size = bytes.len() as u64;
            self.0.change(|state| state.blobs.insert(name.into(), bytes));
            Ok(size)
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(u64, ByteStream<'static>)>, StoreError>> {
        Box::pin(async move {
            let found = self.0.state.lock().unwrap().blobs.get(name).cloned();
            Ok(found.map(|bytes| (bytes.len() as u64, stream::iter([Ok(bytes)]).boxed())))
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.0.change(|state| state.blobs.remove(name));
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
