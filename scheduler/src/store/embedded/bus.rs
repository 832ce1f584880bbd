//! [`Bus`] of a node that stands alone: subjects inside one process, with the rules of NATS.
//!
//! A message goes first to the stream that takes its subject, then to those who listen. Bounds: [`SUBSCRIPTION`] messages
//! wait for each subscriber, more are dropped and counted; the size of a message as in the streams.

use bytes::Bytes;
use dunlin_api::{
    BoxFuture, Message, Publish, Published, StoreError,
    subject::{check_listenable, check_not_reserved, check_pattern, check_subject, covers, is_inbox},
};
use futures::StreamExt;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::queue::{Queue, To, check};
use crate::store::events::{Bus, Received, SUBSCRIPTION, Subscription};

/// The subjects of a node that stands alone.
pub struct EmbeddedBus {
    queue: Arc<Queue>,
    subjects: Listeners,
    signals: Listeners,
    dropped: AtomicU64,
}

impl EmbeddedBus {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self { queue, subjects: Listeners::default(), signals: Listeners::default(), dropped: AtomicU64::new(0) }
    }

    fn deliver(&self, to: &Listeners, received: &Received) -> bool {
        let (heard, dropped) = to.deliver(received);
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
        heard
    }
}

impl Publish for EmbeddedBus {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<Published, StoreError>> {
        Box::pin(async move {
            if is_inbox(&message.subject) {
                self.send(message).await?;
                return Ok(Published::default());
            }
            check_published(&message)?;
            let mut stored = None;
            if let Some(stream) = self.queue.taking(&message.subject) {
                // As JetStream does.
                let id = message.header("Nats-Msg-Id");
                let sequence = self.queue.append(To::Stream(stream.clone()), message.clone(), id).await?;
                stored = Some((stream, sequence));
            }
            self.deliver(&self.subjects, &Received { message, reply: None });
            Ok(Published { stored })
        })
    }

    fn request(&self, message: Message, timeout: Duration) -> BoxFuture<'_, Result<Message, StoreError>> {
        Box::pin(async move {
            check_published(&message)?;
            let subject = message.subject.clone();
            if let Some(stream) = self.queue.taking(&subject) {
                let reason =
                    format!("`{subject}` is taken by the stream {stream}, which gives no reply: publish to it");
                return Err(StoreError::Invalid(reason));
            }
            let inbox = format!("_INBOX.{}", nuid::next());
            let mut replies = self.subjects.listen(&inbox, None, 1);
            if !self.deliver(&self.subjects, &Received { message, reply: Some(inbox) }) {
                return Err(StoreError::NotFound(format!("someone who listens on `{subject}`")));
            }
            match tokio::time::timeout(timeout, replies.recv()).await {
                Ok(Some(reply)) => Ok(reply.message),
                _ => Err(StoreError::Unavailable(format!("no reply from `{subject}` within {timeout:?}"))),
            }
        })
    }
}

impl Bus for EmbeddedBus {
    fn subscribe<'a>(
        &'a self,
        pattern: &'a str,
        group: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        let checked = check_listenable(pattern).map_err(StoreError::Invalid);
        let listening = checked.map(|()| self.subjects.subscribe(pattern, group));
        Box::pin(std::future::ready(listening))
    }

    fn send(&self, message: Message) -> BoxFuture<'_, Result<(), StoreError>> {
        let sent = check(&message).map(|()| {
            self.deliver(&self.subjects, &Received { message, reply: None });
        });
        Box::pin(std::future::ready(sent))
    }

    fn signal<'a>(&'a self, topic: &'a str, payload: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        let sent = check_subject(topic).map_err(StoreError::Invalid).map(|()| {
            self.deliver(&self.signals, &Received { message: Message::new(topic, payload), reply: None });
        });
        Box::pin(std::future::ready(sent))
    }

    fn signals<'a>(&'a self, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        let checked = check_pattern(pattern).map_err(StoreError::Invalid);
        Box::pin(std::future::ready(checked.map(|()| self.signals.subscribe(pattern, None))))
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What guests and people may publish: what the cluster and NATS keep for themselves is refused here too, so that a
/// function may be moved to a cluster.
fn check_published(message: &Message) -> Result<(), StoreError> {
    check(message)?;
    check_not_reserved(&message.subject).map_err(StoreError::Invalid)
}

/// Those who listen. One who left is passed over, and forgotten when the next one comes.
#[derive(Default)]
struct Listeners(RwLock<Vec<Listener>>);

struct Listener {
    pattern: String,
    group: Option<String>,
    sender: mpsc::Sender<Received>,
}

impl Listeners {
    fn listen(&self, pattern: &str, group: Option<&str>, bound: usize) -> mpsc::Receiver<Received> {
        let (sender, receiver) = mpsc::channel(bound);
        let mut listeners = self.0.write().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| !listener.sender.is_closed());
        listeners.push(Listener { pattern: pattern.to_owned(), group: group.map(str::to_owned), sender });
        receiver
    }

    fn subscribe(&self, pattern: &str, group: Option<&str>) -> Subscription {
        ReceiverStream::new(self.listen(pattern, group, SUBSCRIPTION)).boxed()
    }

    /// Whether anybody listens to it, and how many lost it.
    fn deliver(&self, received: &Received) -> (bool, u64) {
        let listeners = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (mut heard, mut dropped) = (false, 0);
        let mut groups = BTreeMap::<&str, Vec<&Listener>>::new();
        let matching =
            |listener: &&Listener| covers(&listener.pattern, &received.message.subject) && !listener.sender.is_closed();
        for listener in listeners.iter().filter(matching) {
            heard = true;
            match &listener.group {
                Some(group) => groups.entry(group).or_default().push(listener),
                None => dropped += u64::from(listener.sender.try_send(received.clone()).is_err()),
            }
        }
        for members in groups.values() {
            // By chance, and the next one if that one is behind.
            let first = rand::random_range(0..members.len());
            let mut members = members[first..].iter().chain(&members[..first]);
            dropped += u64::from(!members.any(|member| member.sender.try_send(received.clone()).is_ok()));
        }
        (heard, dropped)
    }
}
