//! What events stand on: durable streams with consumers, subjects, and large bodies.
//!
//! Called by [`crate::events`] and the parts around it; provided by [`super::embedded`] for a node that stands alone and by
//! [`super::nats`] for a cluster, in the shapes of JetStream and of core NATS. What was acknowledged to a publisher survives
//! `kill -9`; what was delivered and not settled comes again after [`ACK_WAIT`]. Delivery is at least once. Bounds: the constants below.

use bytes::Bytes;
use dunlin_api::{
    BoxFuture, ByteSize, Message, Publish, StoreError,
    trigger::{ChangeSource, Order, Start},
};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use super::{ByteStream, CatalogStore, PutError};

/// A delivery without a sign of life for this long is delivered again. Who works on one longer calls
/// [`Settle::progress`] several times within it.
pub const ACK_WAIT: Duration = Duration::from_secs(10);
/// The same id appended twice within this time is stored once.
pub const DUPLICATES: Duration = Duration::from_secs(120);
/// Largest message that is appended to the cluster's own streams, headers included: JetStream's default payload with room
/// for the protocol. Larger bodies go to [`Blobs`].
pub const MAX_MESSAGE_BYTES: usize = (1 << 20) - (8 << 10);
/// Deliveries of one consumer that may be out at once, in the whole cluster. Those that wait for their next try count.
pub const MAX_PENDING: usize = 10_000;

/// The header that names what happened to the key of a change: `put` or `delete`.
pub const OPERATION: &str = "Dunlin-Operation";
/// The header that names the store of a change, as [`ChangeSource`] displays it.
pub const CHANGED: &str = "Dunlin-Store";
/// The header that names the version of a changed key.
pub const VERSION: &str = "Dunlin-Version";

/// Everything that events need of the stores.
#[derive(Clone)]
pub struct EventStores {
    /// Durable messages.
    pub streams: Arc<dyn Streams>,
    /// Subjects.
    pub bus: Arc<dyn Bus>,
    /// Bodies that are too large for a message.
    pub blobs: Arc<dyn Blobs>,
    /// Outcomes of calls, and small marks: a store like the catalog's, beside it.
    pub records: Arc<dyn CatalogStore>,
}

/// The cluster's own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Own {
    /// Work to do: calls that nobody waits for, ticks of schedules, dead letters that are tried again. The subject of a
    /// message is its queue: `<function>.<trigger id>`. A message leaves when it is acknowledged.
    Work,
    /// Dead letters. The subject of a message is `<function>.<trigger id>`. It stays until it is deleted, 30 days at most.
    Dead,
}

/// Durable messages.
pub trait Streams: Send + Sync + 'static {
    /// Appends to one of the cluster's own streams; durable when it returns. With an `id` that was appended within
    /// [`DUPLICATES`] nothing is stored again. Returns the number of the message in its stream.
    ///
    /// # Errors
    /// `Invalid` over [`MAX_MESSAGE_BYTES`] or for a subject that is none, `Unavailable`.
    fn append<'a>(&'a self, to: Own, message: Message, id: Option<&'a str>) -> BoxFuture<'a, Result<u64, StoreError>>;

    /// The queues of [`Own::Work`] that hold messages, waiting or being worked on, with how many.
    fn queues(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>, StoreError>>;

    /// Messages of one of the cluster's own streams in order, at most `limit` of those after `after` (0 = from the first)
    /// whose subject matches the pattern `filter`.
    fn list<'a>(
        &'a self,
        of: Own,
        filter: Option<&'a str>,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, StoreError>>;

    /// One message of one of the cluster's own streams.
    fn read(&self, of: Own, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, StoreError>>;

    /// Deletes one message; whether it was there.
    fn delete(&self, of: Own, sequence: u64) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// The name of the stream that a trigger on `subject` reads: the named one, which must exist and take the subject (a
    /// node that stands alone makes it, for nobody else could); or the only one that takes all of it; or one that is made
    /// for it (messages stay until every consumer has them).
    /// Called when a function is deployed.
    ///
    /// # Errors
    /// `NotFound` for a named stream that does not exist, `Invalid` if several streams take parts of the subject or the
    /// named one takes none of it; `Unavailable`. The text says what to do.
    fn resolve<'a>(&'a self, stream: Option<&'a str>, subject: &'a str) -> BoxFuture<'a, Result<String, StoreError>>;

    /// Checks that changes of `source` can be followed.
    ///
    /// # Errors
    /// `NotFound` if the bucket does not exist, `Invalid` if this cluster has no such kind, `Unavailable`.
    fn check_source<'a>(&'a self, source: &'a ChangeSource) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Makes the consumer if it does not exist, or gives it what is new in `spec`; its position stays. What it has not
    /// delivered, or was not acknowledged, is kept for it from now on.
    ///
    /// # Errors
    /// `NotFound` if its stream does not exist, `Invalid` if the stream refuses it, `Unavailable`.
    fn ensure<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Opens the consumer for pulling, after [`ensure`](Self::ensure).
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    fn open<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<Box<dyn Consumer>, StoreError>>;

    /// How much waits for a consumer; none if it does not exist.
    fn waiting<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<Option<Waiting>, StoreError>>;

    /// Removes a consumer and its position; one that does not exist is no error.
    fn remove<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// A consumer: all nodes that open it share its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerSpec {
    /// Its name: letters, digits, `-` and `_`, unique in the cluster.
    pub name: String,
    /// What it reads.
    pub source: Source,
    /// Where it begins when it is made.
    pub start: Start,
    /// [`Order::None`]: every node that pulls gets messages. Else only one node gets them at a time, all that it has must
    /// be settled or [`ACK_WAIT`] old before another one gets any, and messages come in the order of the stream.
    pub order: Order,
}

/// What a consumer reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A queue of [`Own::Work`]. The consumer may vanish while nobody pulls it and the queue is empty.
    Queue(String),
    /// The messages on `subject` of a stream, as [`Streams::resolve`] named it.
    Stream {
        /// The stream.
        stream: String,
        /// Which of its messages.
        subject: String,
    },
    /// Changes of keys. A delivery has the key as its subject, the new value (empty after a deletion, and for objects) as its payload and
    /// the headers [`OPERATION`], [`CHANGED`] and [`VERSION`].
    Changes {
        /// Where.
        source: ChangeSource,
        /// Which keys: `*` stands for any text.
        keys: String,
    },
}

/// How much waits for a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Messages not delivered yet.
    pub pending: u64,
    /// Messages delivered and not settled, those that wait for their next try among them.
    pub unsettled: u64,
}

/// One node's hold on a consumer. Dropping it gives back what it was sent and has not handed out.
pub trait Consumer: Send + Sync {
    /// Waits until there is a message and returns up to `max` (at least 1) of those that are there. Cancel safe: what a
    /// cancelled call would have returned is returned by the next. One caller at a time.
    ///
    /// # Errors
    /// `NotFound` when the consumer or its stream is gone, `Unavailable`; the caller opens it again after a while.
    fn pull(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, StoreError>>;
}

/// A message as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number in the stream.
    pub sequence: u64,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The message.
    pub message: Message,
}

/// One delivery of a message.
pub struct Delivery {
    /// The stream; for queues and changes their own name for it.
    pub stream: String,
    /// The message.
    pub stored: Stored,
    /// How often it was handed to some node, this time included.
    pub delivered: u64,
    /// How often its function failed before, as told by [`Settle::retry`].
    pub failed: u32,
    /// Settles it.
    pub settle: Arc<dyn Settle>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, stored, delivered, failed, .. } = self;
        write!(f, "{stream}:{} ({}, delivered {delivered}, failed {failed})", stored.sequence, stored.message.subject)
    }
}

/// Settles one delivery. Without it the message comes again after [`ACK_WAIT`].
pub trait Settle: Send + Sync {
    /// It is done. An acknowledgement that gets lost means one more delivery.
    fn ack(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// It is still being worked on: [`ACK_WAIT`] begins anew.
    fn progress(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Deliver it again after `delay`, to any node, with `failed` as the number of failures so far.
    fn retry(&self, delay: Duration, failed: u32) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Never deliver it again, because of `reason`. Called after it was stored as a dead letter.
    fn give_up<'a>(&'a self, reason: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Subjects: publishing as guests and people do, listening, and signals between nodes.
pub trait Bus: Publish {
    /// Messages on `pattern` from now on. With a `group`, each message goes to one of its members in the whole cluster.
    /// A subscriber that falls behind by more than [`SUBSCRIPTION`] messages loses some, counted by [`Bus::dropped`].
    ///
    /// # Errors
    /// `Invalid` for what is no pattern or not allowed, `Unavailable`.
    fn subscribe<'a>(
        &'a self,
        pattern: &'a str,
        group: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Subscription, StoreError>>;

    /// Sends `message` to those who listen now, without waiting for a stream: replies.
    fn send(&self, message: Message) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Tells all nodes of the cluster, this one among them, `payload` about `topic` (tokens of a subject). Those who do
    /// not listen now do not learn of it: a signal only saves waiting.
    fn signal<'a>(&'a self, topic: &'a str, payload: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The signals about topics that match `pattern`; the subject of each message is its topic.
    fn signals<'a>(&'a self, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, StoreError>>;

    /// Messages that subscribers of this node lost because they fell behind.
    fn dropped(&self) -> u64;
}

/// Messages that one subscriber may be behind.
pub const SUBSCRIPTION: usize = 4_096;

/// A message that was received, and where its reply goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// The subject that the sender listens to for a reply.
    pub reply: Option<String>,
}

/// Messages as they come; ends when it is dropped, or when the bus is closed.
pub type Subscription = BoxStream<'static, Received>;

/// Bodies that are too large for a message, by names that their makers choose: 1 to 100 of letters, digits, `-`, `_` and `.`.
pub trait Blobs: Send + Sync + 'static {
    /// Keeps what `bytes` yields as `name`, if it is not larger than `max`; visible only when complete, durable when it
    /// returns. What was there is replaced. Returns the size in bytes.
    fn put<'a>(&'a self, name: &'a str, bytes: ByteStream<'a>, max: ByteSize) -> BoxFuture<'a, Result<u64, PutError>>;

    /// The size of a blob and its bytes, as a stream that ends with an error if they are damaged.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(u64, ByteStream<'static>)>, StoreError>>;

    /// Removes a blob; an absent one is no error.
    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Every blob with the time it was stored, in milliseconds since the Unix epoch, in no order.
    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>>;
}

/// Whether `key` matches `pattern`, in which `*` stands for any text, also none.
pub fn key_matches(pattern: &str, key: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = key.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::key_matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, key) in [
            ("*", ""),
            ("*", "a/b"),
            ("a*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "ac"),
            ("a*b*c", "a1b2c"),
            ("ab", "ab"),
        ] {
            assert!(key_matches(pattern, key), "{pattern} {key}");
        }
        for (pattern, key) in [("a", "ab"), ("a*", "b"), ("*c", "cd"), ("a*a", "a"), ("a*b*c", "acb")] {
            assert!(!key_matches(pattern, key), "{pattern} {key}");
        }
    }
}
