//! [`Consumer`] as a durable pull consumer of JetStream: one node's hold on it.
//!
//! Requests go out by hand, so that no more is asked for than the caller has room for and a pull returns as soon as one
//! message is there. The server answers a request for [`EXPIRES`], with a sign of life every [`HEARTBEAT`]; silence, a new
//! connection, or an end of the request that the server tells of makes a new one. What arrived while nobody pulled is given
//! back when half of its time is over.
//!
//! With an order the server gives messages to one node that it pinned (see [`super::spec`]). A node that was pinned now
//! hands nothing out until all unsettled deliveries are its own: what another node had was settled, or came again here,
//! before what is newer. Those that wait for their next try count as unsettled. So no message of such a consumer is run on
//! a node while an earlier one may be running on another, unless that one was without a sign of life for the wait for an
//! acknowledgement.
//!
//! Bounds: messages held are no more than the largest `max` of a pull. Ten seconds without an answer are an error.

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use dunlin_api::{BoxFuture, StoreError};
use futures::{FutureExt, StreamExt, future::try_join_all};
use serde_json::json;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::broadcast::{Receiver, error::TryRecvError},
    time::{Instant, timeout},
};

use super::{
    api::Action,
    bucket::connected,
    delivery::Shape,
    settle::{Failures, Settling, Ticket},
    spec::{self, GROUP, Plan},
};
use crate::{
    nats::Nats,
    store::events::{ACK_WAIT, Consumer, Delivery},
};

/// How long the server keeps a request.
const EXPIRES: Duration = Duration::from_secs(30);
/// The same where the server pins the node that asks: well below its patience.
const PINNED_EXPIRES: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which a request counts as lost.
const SILENCE: Duration = Duration::from_secs(5);
/// Between looks at the connection, and at who else has messages.
const TICK: Duration = Duration::from_millis(250);
/// Silence after which the caller is told.
const TROUBLE: Duration = Duration::from_secs(10);
/// Between requests that the server refuses.
const PAUSE: Duration = Duration::from_millis(200);

/// A message that was received and not handed out.
struct Held {
    message: Message,
    reply: Subject,
    sequence: u64,
    time_ms: u64,
    delivered: u64,
    /// It came after this.
    since: Instant,
    /// How often it failed; none = not read yet.
    failures: Option<Failures>,
}

/// One node's hold on a consumer.
pub(super) struct NatsConsumer {
    nats: Nats,
    plan: Plan,
    settling: Arc<Settling>,
    complaints: Receiver<Arc<str>>,
    inbox: String,
    messages: Subscriber,
    held: VecDeque<Held>,
    /// When everything that had come was held.
    drained: Instant,
    /// Messages the server may still send.
    outstanding: usize,
    /// Numbers the requests.
    requests: u64,
    /// When the last request has expired.
    expires: Instant,
    /// Not before this is anything asked for.
    pause: Instant,
    /// The connection that the requests were made on, by its number.
    connection: u64,
    /// The last sign of life, and since when there is none.
    heard: Instant,
    trouble: Option<Instant>,
    /// Whether the consumer may be gone.
    doubt: bool,
    /// Messages of a queue that failed under a consumer that is gone.
    failed: HashSet<u64>,
    /// The server's name for this node as the one that gets messages.
    pin: Option<String>,
    /// Whether all that is unsettled may not be ours.
    unsure: bool,
    /// Unsettled deliveries that are not ours: they may come here.
    foreign: usize,
}

impl NatsConsumer {
    pub(super) async fn open(nats: Nats, plan: Plan, settling: Arc<Settling>) -> Result<Self, StoreError> {
        let client = nats.jetstream.client();
        let inbox = client.new_inbox();
        let complaints = nats.complaints();
        let subscribed = timeout(TROUBLE, client.subscribe(format!("{inbox}.*"))).await;
        let messages = subscribed
            .map_err(|_| StoreError::Unavailable("the connection to NATS takes nothing".into()))?
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        // The consumer of a queue may be a new one, and count deliveries anew.
        let failed = match plan.shape {
            Shape::Queue { .. } => settling.failed().await?,
            _ => HashSet::new(),
        };
        let (now, unsure) = (Instant::now(), plan.pinned);
        Ok(Self {
            nats,
            plan,
            settling,
            complaints,
            inbox,
            messages,
            held: VecDeque::new(),
            drained: now,
            outstanding: 0,
            requests: 0,
            expires: now,
            pause: now,
            connection: 0,
            heard: now,
            trouble: None,
            doubt: false,
            failed,
            pin: None,
            unsure,
            foreign: 0,
        })
    }

    async fn pull(&mut self, max: usize) -> Result<Vec<Delivery>, StoreError> {
        let max = max.max(1);
        loop {
            while let Some(message) = self.messages.next().now_or_never() {
                self.take(message.ok_or_else(closed)?);
            }
            self.drained = Instant::now();
            self.look_for_the_consumer().await?;
            self.drop_the_old();
            if !self.held.is_empty() && self.is_alone().await? {
                self.read_failures(max).await?;
                // More is on its way while these are worked on.
                self.ask(max).await?;
                return Ok(self.hand_out(max));
            }
            self.ask(max).await?;
            if let Ok(message) = timeout(TICK, self.messages.next()).await {
                self.take(message.ok_or_else(closed)?);
            }
        }
    }

    /// Takes what the server sent: a message, or what becomes of a request.
    fn take(&mut self, message: Message) {
        let status = message.status.filter(|status| *status != StatusCode::OK);
        let Some(status) = status else { return self.hold(message) };
        let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str());
        let left = header("Nats-Pending-Messages").and_then(|value| value.parse().ok());
        if status != StatusCode::NO_RESPONDERS {
            self.alive();
        }
        let mut ended = || self.outstanding = self.outstanding.saturating_sub(left.unwrap_or(usize::MAX));
        match status {
            StatusCode::IDLE_HEARTBEAT => {}
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => ended(),
            StatusCode::PIN_ID_MISMATCH => {
                ended();
                self.pin = None;
            }
            // Its leader changed, too many wait, or it is gone.
            _ => {
                ended();
                let words = message.description.as_deref().unwrap_or_default();
                tracing::debug!(consumer = self.plan.name, %status, words, "a request for messages ended");
                self.pause = Instant::now() + PAUSE;
                self.doubt = true;
                if status == StatusCode::NO_RESPONDERS {
                    self.outstanding = 0;
                    self.trouble.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    fn hold(&mut self, message: Message) {
        self.alive();
        self.outstanding = self.outstanding.saturating_sub(1);
        let pin = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pin-Id"));
        if let Some(pin) = pin.filter(|_| self.plan.pinned).map(|pin| pin.to_string())
            && self.pin.as_ref() != Some(&pin)
        {
            (self.pin, self.unsure) = (Some(pin), true);
        }
        let Some(reply) = message.reply.clone() else { return };
        let Some(About { sequence, time_ms, delivered }) = About::of(&reply) else { return };
        if !self.plan.shape.takes(&message) {
            // It is none of ours, and never will be.
            let sent = self.nats.jetstream.client();
            drop(sent.publish(reply, Bytes::from_static(b"+ACK")).now_or_never());
            return;
        }
        if self.plan.pinned {
            // The later delivery counts.
            self.held.retain(|held| held.sequence != sequence);
        }
        let failures = (delivered <= 1 && !self.failed.remove(&sequence)).then(Failures::default);
        let since = self.drained;
        self.held.push_back(Held { message, reply, sequence, time_ms, delivered, since, failures });
    }

    fn alive(&mut self) {
        (self.heard, self.trouble) = (Instant::now(), None);
    }

    /// Asks the server whether the consumer still exists, if that is in doubt.
    async fn look_for_the_consumer(&mut self) -> Result<(), StoreError> {
        if self.doubt {
            if spec::info(&self.nats, &self.plan).await?.is_none() {
                return Err(StoreError::NotFound(format!(
                    "the consumer `{}` of `{}`",
                    self.plan.name, self.plan.stream
                )));
            }
            self.doubt = false;
        }
        Ok(())
    }

    /// What waits here for too long would be delivered elsewhere while it runs here.
    fn drop_the_old(&mut self) {
        let now = self.drained;
        let is_old = |held: &Held| now.saturating_duration_since(held.since) > ACK_WAIT / 2;
        if !self.held.iter().any(is_old) {
            return;
        }
        if self.plan.pinned {
            // Part of them would come again after the others: all come again, by themselves, and before what is newer.
            self.held.clear();
            self.unsure = true;
            return;
        }
        let (old, young): (VecDeque<_>, _) = self.held.drain(..).partition(is_old);
        self.held = young;
        old.into_iter().for_each(|old| self.settling.give_back(old.reply));
    }

    /// Whether all that is unsettled is ours, if that matters.
    async fn is_alone(&mut self) -> Result<bool, StoreError> {
        if !self.unsure {
            return Ok(true);
        }
        let info = spec::info(&self.nats, &self.plan).await?;
        let unsettled = info.map_or(0, |info| info["num_ack_pending"].as_u64().unwrap_or_default());
        let mine = self.settling.mine(self.held.iter().map(|held| held.sequence));
        self.foreign = usize::try_from(unsettled).unwrap_or(usize::MAX).saturating_sub(mine);
        if self.foreign > 0 {
            for held in &mut self.held {
                self.settling.send(&held.reply, Bytes::from_static(b"+WPI")).await?;
                held.since = Instant::now();
            }
            return Ok(false);
        }
        self.held.make_contiguous().sort_by_key(|held| held.sequence);
        self.unsure = false;
        Ok(true)
    }

    /// Reads how often messages failed before that are handed out next.
    async fn read_failures(&mut self, max: usize) -> Result<(), StoreError> {
        let unread = |held: &&Held| held.failures.is_none();
        let wanted: Vec<_> = self.held.iter().take(max).filter(unread).map(|held| held.sequence).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let read = try_join_all(wanted.into_iter().map(|sequence| self.settling.failures(sequence))).await?;
        let unread = self.held.iter_mut().take(max).filter(|held| held.failures.is_none());
        unread.zip(read).for_each(|(held, failures)| held.failures = Some(failures));
        Ok(())
    }

    fn hand_out(&mut self, max: usize) -> Vec<Delivery> {
        let count = max.min(self.held.len());
        let deliveries = self.held.drain(..count).map(|held| {
            let (sequence, failures) = (held.sequence, held.failures.unwrap_or_default());
            self.settling.hand_out(sequence);
            Delivery {
                stream: self.plan.stream.clone(),
                stored: self.plan.shape.stored(held.message, sequence, held.time_ms),
                delivered: held.delivered,
                failed: failures.count,
                settle: Arc::new(Ticket {
                    settling: self.settling.clone(),
                    reply: held.reply,
                    sequence,
                    failures: Mutex::new(failures),
                }),
            }
        });
        deliveries.collect()
    }

    /// Asks for as many messages as there is room for, if the server may not send half as many already.
    async fn ask(&mut self, max: usize) -> Result<(), StoreError> {
        let (client, now) = (self.nats.jetstream.client(), Instant::now());
        let connection = client.statistics().connects.load(Ordering::Relaxed);
        if connected(&client).is_err() {
            self.trouble.get_or_insert(now);
        } else if self.outstanding > 0 && (now > self.expires || self.heard + SILENCE < now) {
            self.outstanding = 0;
            self.trouble.get_or_insert(now);
        }
        if connection != self.connection {
            (self.connection, self.outstanding) = (connection, 0);
        }
        if self.trouble.is_some_and(|since| since.elapsed() > TROUBLE) {
            return Err(self.silence());
        }
        let room = (max + self.foreign).saturating_sub(self.held.len());
        if connected(&client).is_err() || now < self.pause || room == 0 || self.outstanding * 2 > room {
            return Ok(());
        }
        let batch = room - self.outstanding;
        let expires = if self.plan.pinned { PINNED_EXPIRES } else { EXPIRES };
        let mut request = json!({
            "batch": batch,
            "expires": u64::try_from(expires.as_nanos()).unwrap_or(u64::MAX),
            "idle_heartbeat": u64::try_from(HEARTBEAT.as_nanos()).unwrap_or(u64::MAX),
        });
        if self.plan.pinned {
            request["group"] = json!(GROUP);
            if let Some(pin) = &self.pin {
                request["id"] = json!(pin);
            }
        }
        self.requests += 1;
        let reply = format!("{}.{}", self.inbox, self.requests);
        let sent = client.publish_with_reply(self.subject(), reply, request.to_string().into());
        if !matches!(timeout(TROUBLE, sent).await, Ok(Ok(()))) {
            self.trouble.get_or_insert(now);
            return Ok(());
        }
        if self.outstanding == 0 {
            self.heard = Instant::now();
        }
        self.outstanding += batch;
        self.expires = Instant::now() + expires + SILENCE;
        Ok(())
    }

    fn subject(&self) -> String {
        format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.plan.stream, self.plan.name)
    }

    /// Why nothing was heard for so long.
    fn silence(&mut self) -> StoreError {
        self.trouble = None;
        let subject = self.subject();
        loop {
            match self.complaints.try_recv() {
                Ok(complaint) => {
                    if let Some(denied) = Action::Publish.denied(&complaint, &subject) {
                        return denied;
                    }
                }
                Err(TryRecvError::Lagged(_)) => {}
                Err(_) => break,
            }
        }
        let (name, stream) = (&self.plan.name, &self.plan.stream);
        let seconds = TROUBLE.as_secs();
        StoreError::Unavailable(format!("NATS did not answer the consumer `{name}` of `{stream}` within {seconds} s"))
    }
}

/// What the reply subject of a delivery says about it (ADR-15).
struct About {
    sequence: u64,
    time_ms: u64,
    delivered: u64,
}

impl About {
    /// From `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<of the consumer>.<nanoseconds>.<pending>`, of which the
    /// newer form has the domain and the account before the stream, and may have a token behind.
    fn of(reply: &str) -> Option<Self> {
        let tokens = reply.strip_prefix("$JS.ACK.")?.split('.').count();
        let mut tokens = reply.split('.').skip(if tokens > 7 { 6 } else { 4 });
        let mut number = || tokens.next()?.parse::<u64>().ok();
        let (delivered, sequence, _) = (number()?, number()?, number()?);
        Some(Self { sequence, time_ms: number()? / 1_000_000, delivered })
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the connection to NATS is closed".into())
}

impl Consumer for NatsConsumer {
    fn pull(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, StoreError>> {
        Box::pin(self.pull(max))
    }
}

impl Drop for NatsConsumer {
    fn drop(&mut self) {
        while let Some(Some(message)) = self.messages.next().now_or_never() {
            self.take(message);
        }
        for held in self.held.drain(..) {
            self.settling.give_back(held.reply);
        }
        if self.pin.is_some() {
            // Without it the server waits for us for a while before it turns to another node.
            let call = format!("$JS.API.CONSUMER.UNPIN.{}.{}", self.plan.stream, self.plan.name);
            let group = json!({ "group": GROUP }).to_string();
            drop(self.nats.jetstream.client().publish(call, group.into()).now_or_never());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::About;

    #[test]
    fn both_forms_of_reply_subjects_are_read() {
        for reply in [
            "$JS.ACK.S.c.2.17.40.1700000000123456789.5",
            "$JS.ACK._.h4sh.S.c.2.17.40.1700000000123456789.5",
            "$JS.ACK.hub.h4sh.S.c.2.17.40.1700000000123456789.5.x7",
        ] {
            let about = About::of(reply).unwrap();
            assert_eq!((about.delivered, about.sequence, about.time_ms), (2, 17, 1_700_000_000_123), "{reply}");
        }
        assert!(About::of("_INBOX.x").is_none() && About::of("$JS.ACK.S.c.x").is_none());
    }
}
