//! Follows all keys of a bucket: a consumer that JetStream pushes to us, without the values.
//!
//! Made by [`super::NatsCatalog`], read by whoever follows the catalog. Every message carries the consumer's and the
//! stream's sequence, and a heartbeat tells the consumer's last one; so whatever is missed (a lost connection, a server
//! that ended, a key that was written more often than the bucket remembers) is seen as a gap or as silence, and the
//! reader is told to reload. Bounds: flow control lets the server send no more than some megabytes ahead of the reader.

use async_nats::{
    Message, StatusCode, Subscriber,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, push},
        stream::Info,
    },
};
use bytes::Bytes;
use dunlin_api::StoreError;
use futures::{StreamExt, stream};
use std::time::Duration;
use tokio::time::{sleep, timeout};

use super::{
    attempt::{Failure, attempts, jitter},
    bucket::Bucket,
};
use crate::store::{Change, Watch};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which the consumer counts as lost.
const SILENCE: Duration = Duration::from_secs(3);
/// How long the server keeps a consumer whose reader is gone.
const INACTIVE: Duration = Duration::from_secs(10);
/// Between attempts to follow again: many nodes lose their consumers at the same moment.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A consumer and how far it was read.
struct Live {
    messages: Subscriber,
    consumer_sequence: u64,
    stream_sequence: u64,
}

/// Something was missed.
struct Lost;

struct Follower {
    bucket: Bucket,
    live: Option<Live>,
    pause: Duration,
}

/// Begins to watch.
pub(super) async fn start(bucket: Bucket) -> Result<Watch, StoreError> {
    let live = attempts("watching the catalog", |_| open(&bucket)).await?;
    let follower = Follower { bucket, live: Some(live), pause: FIRST_PAUSE };
    Ok(stream::unfold(follower, |mut follower| async move { Some((follower.next().await, follower)) }).boxed())
}

async fn open(bucket: &Bucket) -> Result<Live, Failure> {
    let client = bucket.client();
    // Counted from the leader's last message: the consumer may live beside a replica that is behind.
    let info: Info = bucket.api("STREAM.INFO", &()).await?;
    let stream_sequence = info.state.last_sequence;
    // Subscribed first: the server sends from the moment that the consumer is there.
    let deliver_subject = client.new_inbox();
    let messages = client.subscribe(deliver_subject.clone()).await.map_err(|e| Failure::NotDone(e.to_string()))?;
    let config = push::Config {
        deliver_subject,
        name: Some(nuid::next().to_string()),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: stream_sequence + 1 },
        ack_policy: AckPolicy::None,
        headers_only: true,
        flow_control: true,
        idle_heartbeat: HEARTBEAT,
        inactive_threshold: INACTIVE,
        memory_storage: true,
        num_replicas: 1,
        ..push::Config::default()
    };
    let created = bucket.context.create_consumer_on_stream(config, &bucket.name).await;
    created.map_err(|e| Failure::NotDone(e.to_string()))?;
    Ok(Live { messages, consumer_sequence: 0, stream_sequence })
}

impl Follower {
    async fn next(&mut self) -> Change {
        while let Some(live) = &mut self.live {
            let read = match timeout(SILENCE, live.messages.next()).await {
                Ok(Some(message)) => live.take(message, &self.bucket).await,
                Ok(None) | Err(_) => Err(Lost),
            };
            match read {
                Ok(Some(key)) => {
                    self.pause = FIRST_PAUSE;
                    return Change::Key(key);
                }
                Ok(None) => {}
                Err(Lost) => self.live = None,
            }
        }
        self.reopen().await;
        Change::Reload
    }

    async fn reopen(&mut self) {
        while self.live.is_none() {
            sleep(jitter(self.pause)).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            match timeout(LONGEST_PAUSE, open(&self.bucket)).await {
                Ok(Ok(live)) => self.live = Some(live),
                Ok(Err(error)) => tracing::debug!(?error, "the catalog cannot be watched yet"),
                Err(_) => tracing::debug!("the catalog cannot be watched yet: no answer"),
            }
        }
        tracing::info!(bucket = self.bucket.name, "watching the catalog again");
    }
}

impl Live {
    /// The key that `message` is about; none for heartbeats and flow control.
    async fn take(&mut self, message: Message, bucket: &Bucket) -> Result<Option<String>, Lost> {
        if message.status == Some(StatusCode::IDLE_HEARTBEAT) {
            return self.idle(message, bucket).await.map(|()| None);
        }
        let subject = message.subject.clone();
        let message = jetstream::Message { message, context: bucket.context.clone() };
        let info = message.info().map_err(|_| Lost)?;
        let next = (self.consumer_sequence + 1, self.stream_sequence + 1);
        if (info.consumer_sequence, info.stream_sequence) != next {
            return Err(Lost);
        }
        (self.consumer_sequence, self.stream_sequence) = next;
        Ok(subject.strip_prefix(&*bucket.prefix).map(|key| key.replace('.', "/")))
    }

    /// Answers a request of flow control; or checks what a heartbeat says was sent before it.
    async fn idle(&mut self, message: Message, bucket: &Bucket) -> Result<(), Lost> {
        if let Some(reply) = message.reply {
            let answered = timeout(SILENCE, bucket.client().publish(reply, Bytes::new())).await;
            return answered.map_err(|_| Lost)?.map_err(|_| Lost);
        }
        let sent = message.headers.as_ref().and_then(|headers| headers.get("Nats-Last-Consumer"));
        match sent.and_then(|value| value.as_str().parse::<u64>().ok()) {
            Some(sent) if sent != self.consumer_sequence => Err(Lost),
            _ => Ok(()),
        }
    }
}
