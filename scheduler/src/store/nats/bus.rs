//! [`Bus`] on core NATS: messages of users on the connection for bodies, signals between nodes on that for small frames.
//!
//! A subscription that NATS denies yields nothing and says nothing, so each is proven by a message to ourselves behind it
//! on the same connection, and by the complaints of the server until then. Bounds: [`SUBSCRIPTION`] messages wait for each
//! subscriber, then those that come are lost and counted.

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use dunlin_api::{
    BoxFuture, Message, Publish, Published, StoreError,
    subject::{check_listenable, check_pattern},
};
use futures::StreamExt;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    api::{self, Action},
    message,
    publish::{Publisher, check, failed, ready, round_trip, send},
};
use crate::{
    nats::Nats,
    store::events::{Bus, Received, SUBSCRIPTION, Subscription},
};

/// How long a subscription may take.
const SUBSCRIBED: Duration = Duration::from_secs(5);
/// A complaint comes before the proof, but by a task of its own.
const COMPLAINTS: Duration = Duration::from_millis(50);

/// The subjects of a cluster, and those beside it.
pub struct NatsBus {
    nats: Nats,
    publisher: Publisher,
    dropped: Arc<AtomicU64>,
    /// One for each subscription: takes its messages from the connection.
    pumps: Mutex<JoinSet<()>>,
}

impl NatsBus {
    pub(super) fn new(nats: Nats) -> Self {
        Self { publisher: Publisher::new(nats.clone()), nats, dropped: Arc::default(), pumps: Mutex::default() }
    }

    async fn listen(
        &self,
        client: &Client,
        pattern: String,
        group: Option<String>,
        cut: usize,
    ) -> Result<Subscription, StoreError> {
        let complaints = self.nats.complaints();
        let subscribed = async {
            ready(client)?;
            let subscribe = async {
                match group {
                    Some(group) => client.queue_subscribe(pattern.clone(), group).await,
                    None => client.subscribe(pattern.clone()).await,
                }
            };
            let subscribed =
                timeout(SUBSCRIBED, subscribe).await.map_err(|_| failed(&"the connection takes nothing"))?;
            let subscriber = subscribed.map_err(|e| failed(&e))?;
            round_trip(client).await?;
            sleep(COMPLAINTS).await;
            Ok(subscriber)
        };
        let subscriber = api::unless_denied(complaints, Action::Subscribe, &pattern, subscribed).await?;
        let (sender, receiver) = mpsc::channel(SUBSCRIPTION);
        let mut pumps = self.pumps.lock().unwrap_or_else(PoisonError::into_inner);
        while pumps.try_join_next().is_some() {}
        pumps.spawn(pump(subscriber, sender, self.dropped.clone(), cut));
        Ok(ReceiverStream::new(receiver).boxed())
    }
}

/// Moves messages from the connection to a subscriber until that is gone; `cut` is left out of their subjects' beginnings.
async fn pump(mut from: Subscriber, to: mpsc::Sender<Received>, dropped: Arc<AtomicU64>, cut: usize) {
    loop {
        let message = tokio::select! {
            message = from.next() => message,
            () = to.closed() => return,
        };
        let Some(message) = message else { return };
        let reply = message.reply.as_ref().map(|reply| reply.to_string());
        let mut message = message::received(message);
        message.subject.drain(..cut);
        if let Err(mpsc::error::TrySendError::Full(_)) = to.try_send(Received { message, reply }) {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Publish for NatsBus {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<Published, StoreError>> {
        Box::pin(self.publisher.publish(message))
    }

    fn request(&self, message: Message, timeout: Duration) -> BoxFuture<'_, Result<Message, StoreError>> {
        Box::pin(self.publisher.request(message, timeout))
    }
}

impl Bus for NatsBus {
    fn subscribe<'a>(
        &'a self,
        pattern: &'a str,
        group: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        Box::pin(async move {
            check_listenable(pattern).map_err(StoreError::Invalid)?;
            // Another cluster on the same NATS has members of its own.
            let group = group.map(|group| format!("dl-{}-{group}", self.nats.cluster));
            self.listen(&self.nats.bulk, pattern.to_owned(), group, 0).await
        })
    }

    fn send(&self, message: Message) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let headers = check(&self.nats.bulk, &message)?;
            send(&self.nats.bulk, &message, headers).await
        })
    }

    fn signal<'a>(&'a self, topic: &'a str, payload: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let message = Message::new(self.nats.subjects.signal(topic), payload);
            check(&self.nats.control, &message)?;
            send(&self.nats.control, &message, None).await
        })
    }

    fn signals<'a>(&'a self, pattern: &'a str) -> BoxFuture<'a, Result<Subscription, StoreError>> {
        Box::pin(async move {
            check_pattern(pattern).map_err(StoreError::Invalid)?;
            let subject = self.nats.subjects.signal(pattern);
            let cut = subject.len() - pattern.len();
            self.listen(&self.nats.control, subject, None, cut).await
        })
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
