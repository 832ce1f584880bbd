//! Settles deliveries, and counts how often a message failed.
//!
//! An acknowledgement is a message to the reply subject of the delivery; one that gets lost means one more delivery, so
//! its arrival is not awaited, except that of giving up. The number of failures is a record of its own in a bucket, durable
//! before the message is given back, and read only for messages that came before. Bounds: [`SENT`] for each message, and
//! the age of the bucket for what is left behind.

use async_nats::{Client, HeaderMap, Request, Subject};
use bytes::Bytes;
use dunlin_api::{BoxFuture, StoreError};
use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, timeout};

use super::{
    api::{self, Action},
    attempt::{ATTEMPT, Failure, attempts},
    bucket::{Bucket, Outcome, connected},
    spec::Plan,
};
use crate::{
    nats::Nats,
    store::events::{ACK_WAIT, Settle},
};

/// How long a message may take to the connection.
const SENT: Duration = Duration::from_secs(5);
/// JetStream ends a delivery at once without a delay.
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest reason that the server is told.
const REASON_CHARS: usize = 200;

/// What the deliveries of one consumer share.
pub(super) struct Settling {
    client: Client,
    nats: Nats,
    attempts: Bucket,
    stream: String,
    name: String,
    /// Handed out, not settled, and when they last showed life; kept only for consumers with an order.
    out: Option<Mutex<HashMap<u64, Instant>>>,
}

/// How often a message failed, and the record that says so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    pub(super) count: u32,
    record: Option<u64>,
}

impl Settling {
    pub(super) fn new(client: Client, nats: Nats, attempts: Bucket, plan: &Plan) -> Self {
        let out = plan.pinned.then(Mutex::default);
        Self { client, nats, attempts, stream: plan.stream.clone(), name: plan.name.clone(), out }
    }

    fn key(&self, sequence: impl Display) -> String {
        format!("{}{}.{sequence}.{}", self.attempts.prefix, self.stream, self.name)
    }

    /// The messages that failed so far and were not settled.
    pub(super) async fn failed(&self) -> Result<HashSet<u64>, StoreError> {
        let found = self.attempts.subjects("reading which messages failed", &self.key("*")).await?;
        Ok(found.iter().filter_map(|key| key.rsplit('.').nth(1)?.parse().ok()).collect())
    }

    /// How often the message failed so far.
    pub(super) async fn failures(&self, sequence: u64) -> Result<Failures, StoreError> {
        let found = self.attempts.last("reading how often a message failed", &self.key(sequence)).await?;
        let count = |payload: &Bytes| std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        Ok(found.map_or_else(Failures::default, |found| Failures {
            count: count(&found.payload).unwrap_or_default(),
            record: Some(found.sequence),
        }))
    }

    fn out(&self) -> Option<MutexGuard<'_, HashMap<u64, Instant>>> {
        self.out.as_ref().map(|out| out.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a message is with its function.
    pub(super) fn hand_out(&self, sequence: u64) {
        if let Some(mut out) = self.out() {
            out.insert(sequence, Instant::now());
        }
    }

    /// How many messages this node has, `held` and handed out together.
    pub(super) fn mine(&self, held: impl Iterator<Item = u64>) -> usize {
        let Some(mut out) = self.out() else { return 0 };
        out.retain(|_, seen| seen.elapsed() < ACK_WAIT);
        out.len() + held.filter(|sequence| !out.contains_key(sequence)).count()
    }

    fn settled(&self, sequence: u64) {
        if let Some(mut out) = self.out() {
            out.remove(&sequence);
        }
    }

    pub(super) async fn send(&self, reply: &Subject, payload: Bytes) -> Result<(), StoreError> {
        let lost = |reason: &str| StoreError::Unavailable(format!("settling a message of `{}`: {reason}", self.stream));
        if connected(&self.client).is_err() {
            return Err(lost("there is no connection to NATS"));
        }
        let sent = timeout(SENT, self.client.publish(reply.clone(), payload)).await;
        sent.map_err(|_| lost("the connection to NATS does not take it"))?.map_err(|error| lost(&error.to_string()))
    }

    /// Gives a message back that nobody saw, without waiting.
    pub(super) fn give_back(&self, reply: Subject) {
        let sent = futures::FutureExt::now_or_never(self.client.publish(reply, nak(SHORTEST)));
        if !matches!(sent, Some(Ok(()))) {
            tracing::debug!(stream = self.stream, "a message that was not handed out comes again later");
        }
    }

    /// Forgets how often a message failed. What stays goes by its age.
    async fn forget(&self, failures: Failures) {
        if let Some(record) = failures.record {
            let request = serde_json::json!({ "seq": record, "no_erase": true });
            let removed = self.attempts.api::<serde_json::Value>("STREAM.MSG.DELETE", &request);
            if !matches!(timeout(ATTEMPT, removed).await, Ok(Ok(_))) {
                tracing::debug!(stream = self.stream, "a number of failures stays until it is old");
            }
        }
    }
}

fn nak(delay: Duration) -> Bytes {
    format!("-NAK {{\"delay\": {}}}", delay.max(SHORTEST).as_nanos()).into()
}

/// One delivery.
pub(super) struct Ticket {
    pub(super) settling: Arc<Settling>,
    pub(super) reply: Subject,
    pub(super) sequence: u64,
    pub(super) failures: Mutex<Failures>,
}

impl Ticket {
    fn failures(&self) -> Failures {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn retry(&self, delay: Duration, failed: u32) -> Result<(), StoreError> {
        let known = self.failures();
        if failed > known.count {
            let (what, key) = ("counting a failure", self.settling.key(self.sequence));
            let count = Bytes::from(failed.to_string());
            let written = self.settling.attempts.write(what, &key, HeaderMap::new(), count, None).await?;
            let record = if let Outcome::Written(record) = written { Some(record) } else { known.record };
            *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = Failures { count: failed, record };
        }
        self.settling.send(&self.reply, nak(delay)).await?;
        self.settling.settled(self.sequence);
        Ok(())
    }

    async fn give_up(&self, reason: &str) -> Result<(), StoreError> {
        let words: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS).collect();
        let (client, payload) = (&self.settling.client, Bytes::from(format!("+TERM {words}")));
        let told = attempts("giving up a message", |_| async {
            connected(client)?;
            let request = Request::new().payload(payload.clone()).timeout(Some(ATTEMPT));
            client.send_request(self.reply.clone(), request).await.map_err(|e| Failure::Unknown(e.to_string()))
        });
        api::unless_denied(self.settling.nats.complaints(), Action::Publish, &self.reply, told).await?;
        self.settling.settled(self.sequence);
        self.settling.forget(self.failures()).await;
        Ok(())
    }
}

impl Settle for Ticket {
    fn ack(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.settling.send(&self.reply, Bytes::from_static(b"+ACK")).await?;
            self.settling.settled(self.sequence);
            self.settling.forget(self.failures()).await;
            Ok(())
        })
    }

    fn progress(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.settling.send(&self.reply, Bytes::from_static(b"+WPI")).await?;
            self.settling.hand_out(self.sequence);
            Ok(())
        })
    }

    fn retry(&self, delay: Duration, failed: u32) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.retry(delay, failed))
    }

    fn give_up<'a>(&'a self, reason: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.give_up(reason))
    }
}
