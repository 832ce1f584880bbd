//! [`Publish`] on NATS: with an acknowledgement where a stream takes the subject, and requests.
//!
//! Whether a stream takes a subject is asked once in [`KNOWN`], so a stream made meanwhile keeps the message but is not
//! named. Bounds: [`SUBJECTS`] remembered; the attempts of the stores, but a publication whose fate is unknown is not
//! repeated unless it has a `Nats-Msg-Id`. Requests have an inbox of their own that ends with them: those of async-nats
//! stay in memory when nobody answers.

use async_nats::{Client, HeaderMap, StatusCode};
use bytes::Bytes;
use dunlin_api::{
    Message, Published, StoreError,
    subject::{check_not_reserved, check_subject, is_inbox},
};
use futures::StreamExt;
use quick_cache::sync::Cache;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

use super::{
    api::{self, Action},
    attempt::{ATTEMPT, Failure, attempts},
    bucket::{self, connected, too_large},
    message::{self, headers},
    resolve::taking,
};
use crate::nats::Nats;

/// How long it is known which stream takes a subject.
const KNOWN: Duration = Duration::from_secs(10);
/// Subjects of which it is known.
const SUBJECTS: usize = 4_096;
/// How long a message may take to the connection and back.
const SENT: Duration = Duration::from_secs(5);

/// Publishes as guests and people do.
pub(super) struct Publisher {
    nats: Nats,
    streams: Cache<String, (Instant, Option<Arc<str>>)>,
}

impl Publisher {
    pub(super) fn new(nats: Nats) -> Self {
        Self { nats, streams: Cache::new(SUBJECTS) }
    }

    pub(super) async fn publish(&self, message: Message) -> Result<Published, StoreError> {
        if is_inbox(&message.subject) {
            let headers = check(&self.nats.bulk, &message)?;
            send(&self.nats.bulk, &message, headers).await?;
            return Ok(Published::default());
        }
        check_not_reserved(&message.subject).map_err(StoreError::Invalid)?;
        let headers = check(&self.nats.bulk, &message)?;
        let known = self.streams.get(&message.subject).filter(|(since, _)| since.elapsed() < KNOWN);
        let (new, stream) = match known {
            Some((_, stream)) => (false, stream),
            None => (true, self.stream(&message.subject).await?),
        };
        if stream.is_some() {
            return self.keep(&message, headers.unwrap_or_default()).await;
        }
        let sent = async {
            send(&self.nats.bulk, &message, headers).await?;
            // Once in a while: a message that NATS denies is lost without a word.
            if new { round_trip(&self.nats.bulk).await } else { Ok(()) }
        };
        let complaints = self.nats.complaints();
        api::unless_denied(complaints, Action::Publish, &message.subject, sent).await?;
        self.remember(&message.subject, None);
        Ok(Published { stored: None })
    }

    async fn stream(&self, subject: &str) -> Result<Option<Arc<str>>, StoreError> {
        let stream = taking(&self.nats, subject).await?.first().map(|name| Arc::from(&**name));
        if stream.is_some() {
            self.remember(subject, stream.clone());
        }
        Ok(stream)
    }

    fn remember(&self, subject: &str, stream: Option<Arc<str>>) {
        let known = self.streams.get(subject).is_some_and(|(since, _)| since.elapsed() < KNOWN);
        if !known {
            self.streams.insert(subject.to_owned(), (Instant::now(), stream));
        }
    }

    /// Publishes to the stream that takes the subject.
    async fn keep(&self, message: &Message, headers: HeaderMap) -> Result<Published, StoreError> {
        let (subject, client) = (&*message.subject, self.nats.jetstream.client());
        let again = message.header("Nats-Msg-Id").is_some();
        let kept = attempts("publishing", async |_| {
            // The stream may be gone since.
            let Some(stream) = self.stream_now(subject).await? else {
                return Err(Failure::Final(StoreError::Unavailable(format!(
                    "publishing to `{subject}`: the stream that took it is gone: publish again"
                ))));
            };
            let sent = bucket::publish(&client, &stream, subject, headers.clone(), message.payload.clone());
            match timeout(ATTEMPT, sent).await {
                Ok(Ok(Some(ack))) => Ok((ack.stream, ack.sequence)),
                Ok(Ok(None)) => Err(Failure::Final(StoreError::Conflict(format!("`{subject}`")))),
                Ok(Err(Failure::NotDone(reason))) => {
                    self.streams.remove(subject);
                    Err(Failure::NotDone(reason))
                }
                Ok(Err(Failure::Unknown(reason))) if !again => Err(unknown(subject, &reason)),
                Err(_) if !again => Err(unknown(subject, "no answer")),
                Ok(Err(failure)) => Err(failure),
                Err(_) => Err(Failure::Unknown("no answer".into())),
            }
        });
        let stored = api::unless_denied(self.nats.complaints(), Action::Publish, subject, kept).await?;
        Ok(Published { stored: Some(stored) })
    }

    async fn stream_now(&self, subject: &str) -> Result<Option<Arc<str>>, Failure> {
        match self.streams.get(subject) {
            Some((_, stream)) => Ok(stream),
            None => self.stream(subject).await.map_err(|error| Failure::NotDone(error.to_string())),
        }
    }

    pub(super) async fn request(&self, message: Message, wait: Duration) -> Result<Message, StoreError> {
        check_not_reserved(&message.subject).map_err(StoreError::Invalid)?;
        let (client, subject) = (&self.nats.bulk, message.subject.clone());
        let headers = check(client, &message)?;
        let asked = async {
            ready(client)?;
            let inbox = client.new_inbox();
            let mut replies = client.subscribe(inbox.clone()).await.map_err(|e| failed(&e))?;
            let (payload, to) = (message.payload, message.subject);
            let sent = async {
                match headers {
                    Some(headers) => client.publish_with_reply_and_headers(to, inbox, headers, payload).await,
                    None => client.publish_with_reply(to, inbox, payload).await,
                }
            };
            sent.await.map_err(|e| failed(&e))?;
            let reply = replies.next().await.ok_or_else(|| failed(&"the connection is closed"))?;
            if reply.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(StoreError::NotFound(format!("a listener on `{subject}`")));
            }
            Ok(message::received(reply))
        };
        let asked = api::unless_denied(self.nats.complaints(), Action::Publish, &subject, asked);
        timeout(wait, asked).await.unwrap_or_else(|_| {
            let words = format!("no reply came from `{subject}` within {}", humantime::format_duration(wait));
            Err(StoreError::Unavailable(words))
        })
    }
}

fn unknown(subject: &str, reason: &str) -> Failure {
    Failure::Final(StoreError::Unavailable(format!("publishing to `{subject}`: {reason}: it may have happened or not")))
}

/// Checks subject and size of a message; its headers.
pub(super) fn check(client: &Client, message: &Message) -> Result<Option<HeaderMap>, StoreError> {
    check_subject(&message.subject).map_err(StoreError::Invalid)?;
    let size = message.size();
    if size > client.max_payload() {
        return Err(too_large(client, size));
    }
    headers(message)
}

/// Sends a message that was checked, to those who listen now.
pub(super) async fn send(client: &Client, message: &Message, headers: Option<HeaderMap>) -> Result<(), StoreError> {
    ready(client)?;
    let (subject, payload) = (message.subject.clone(), message.payload.clone());
    let sent = async {
        match headers {
            Some(headers) => client.publish_with_headers(subject, headers, payload).await.map_err(|e| failed(&e))?,
            None => client.publish(subject, payload).await.map_err(|e| failed(&e))?,
        }
        client.flush().await.map_err(|e| failed(&e))
    };
    timeout(SENT, sent).await.unwrap_or_else(|_| Err(failed(&"the connection takes nothing")))
}

/// Waits until the server has seen all that was sent on this connection, by a message to ourselves.
pub(super) async fn round_trip(client: &Client) -> Result<(), StoreError> {
    let trip = async {
        let inbox = client.new_inbox();
        let mut own = client.subscribe(inbox.clone()).await.map_err(|e| failed(&e))?;
        client.publish(inbox, Bytes::new()).await.map_err(|e| failed(&e))?;
        own.next().await.map(|_| ()).ok_or_else(|| failed(&"the connection is closed"))
    };
    timeout(SENT, trip).await.unwrap_or_else(|_| Err(failed(&"no answer")))
}

/// Nothing is sent without a connection: it would be sent much later.
pub(super) fn ready(client: &Client) -> Result<(), StoreError> {
    connected(client).map_err(|_| failed(&"there is no connection"))
}

pub(super) fn failed(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("sending over NATS: {error}"))
}
