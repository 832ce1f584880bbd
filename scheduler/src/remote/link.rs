//! Sending on the connections, never for longer than [`STUCK`]; and the subscriptions, which are proven before use.
//!
//! While NATS is away its client takes some thousand messages and then blocks for ever: hence the bound on each publish.
//! Where nothing can be awaited (a body is polled, a call is dropped) frames go through the [`Outbox`].

use async_nats::{Client, Message, Subject, Subscriber};
use bytes::Bytes;
use dunlin_api::{ByteSize, InvocationId};
use futures::StreamExt;
use std::{
    collections::VecDeque,
    sync::{Mutex, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    RemoteError,
    frame::{Key, Ping, encode},
};

/// A publish that waits this long is given up.
const STUCK: Duration = Duration::from_secs(1);
/// Room for a full head beside the inline body, with as much again to spare.
const LEAST_PAYLOAD: usize = 512 << 10;
/// Room for refusals and pongs in an outbox.
const SPARE: usize = 1_024;
/// How long a new subscription may take until it receives.
const PROOF: Duration = Duration::from_secs(5);

/// Publishes `payload`.
///
/// # Errors
/// A sentence that says why it was not sent.
pub(super) async fn publish(
    client: &Client,
    to: Subject,
    reply: Option<Subject>,
    payload: Bytes,
) -> Result<(), String> {
    let sent = async {
        match reply {
            Some(reply) => client.publish_with_reply(to, reply, payload).await,
            None => client.publish(to, payload).await,
        }
    };
    match timeout(STUCK, sent).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err(format!("NATS took nothing for {STUCK:?}")),
    }
}

/// Frames that are sent by whoever cannot wait.
#[derive(Clone)]
pub(super) struct Outbox(mpsc::Sender<(Subject, Bytes)>);

/// The other end of an [`Outbox`].
pub(super) type Posted = mpsc::Receiver<(Subject, Bytes)>;

impl Outbox {
    /// Has room for a cancellation and a credit for every call at once.
    pub(super) fn new(calls: u32) -> (Self, Posted) {
        let (sender, posted) = mpsc::channel(2 * calls as usize + SPARE);
        (Self(sender), posted)
    }

    /// Sends `frame` soon; false if the outbox is full.
    pub(super) fn post(&self, to: Subject, frame: Bytes) -> bool {
        self.0.try_send((to, frame)).is_ok()
    }
}

/// Publishes what is posted, until what was posted before `end` is sent.
pub(super) async fn deliver(mut posted: Posted, client: Client, end: CancellationToken) {
    let mut ending = false;
    loop {
        let next = if ending {
            posted.recv().await
        } else {
            match end.run_until_cancelled(posted.recv()).await {
                Some(next) => next,
                None => {
                    ending = true;
                    posted.close();
                    continue;
                }
            }
        };
        let Some((to, frame)) = next else { return };
        if let Err(error) = publish(&client, to, None, frame).await {
            tracing::debug!(error, "a frame was not sent");
        }
    }
}

/// A subscription that is known to receive.
pub(super) struct Inbox {
    /// What came before the proof.
    early: VecDeque<Message>,
    subscriber: Subscriber,
}

impl Inbox {
    /// Subscribes to `subject` and waits until a message to `itself`, which it matches, has come back: a flush is not a
    /// round trip, and a subscription that is not permitted fails silently.
    pub(super) async fn open(client: &Client, subject: String, itself: String) -> Result<Self, RemoteError> {
        let failed = |error: String| RemoteError::Subscribe { subject: subject.clone(), error };
        let mut subscriber = client.subscribe(subject.clone()).await.map_err(|e| failed(e.to_string()))?;
        let proof = encode(Key { id: InvocationId::new().as_u128(), attempt: 0 }, &Ping);
        publish(client, itself.into(), None, proof.clone()).await.map_err(failed)?;
        let mut early = VecDeque::new();
        let proven = timeout(PROOF, async {
            while let Some(message) = subscriber.next().await {
                if message.payload == proof {
                    return true;
                }
                early.push_back(message);
            }
            false
        });
        match proven.await {
            Ok(true) => Ok(Self { early, subscriber }),
            _ => Err(failed(format!("nothing came back within {PROOF:?}; is this user permitted to use it?"))),
        }
    }

    /// The next message; none after [`close`](Self::close) once all were read.
    pub(super) async fn next(&mut self) -> Option<Message> {
        match self.early.pop_front() {
            Some(message) => Some(message),
            None => self.subscriber.next().await,
        }
    }

    /// Ends the subscription.
    pub(super) async fn close(&mut self) {
        let _ = timeout(STUCK, self.subscriber.drain()).await;
    }
}

/// A value that one task takes when it begins.
pub(super) struct Once<T>(Mutex<Option<T>>);

impl<T> Once<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(Some(value)))
    }

    pub(super) fn take(&self) -> Option<T> {
        lock(&self.0).take()
    }
}

/// Locks; a panic elsewhere leaves these plain tables whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How often a client has connected.
pub(super) fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

/// Checks that a first frame fits into a message.
pub(super) fn check_payload(client: &Client) -> Result<(), RemoteError> {
    let limit = client.max_payload();
    let limit_size = ByteSize(limit as u64);
    if limit < LEAST_PAYLOAD { Err(RemoteError::MaxPayload { limit: limit_size }) } else { Ok(()) }
}

/// Microseconds since the Unix epoch, by this node's clock.
pub(super) fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
