//! One core NATS subject on this node: at most once, each message to one node of the cluster, and an answer to those who
//! ask for one (errors as NATS micro services give them, ADR-32).
//!
//! Started by [`super::supervise`] for each subject trigger. As many messages as its concurrency run and as many again wait;
//! more are dropped, counted, and answered at once where there is a reply subject.

use dunlin_api::{InvocationId, Message, Problem};
use futures::StreamExt;
use http::StatusCode;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Outcome, Shared,
    answer::{Answer, one_line},
    cloud_event::{Origin, Try},
    item,
    plan::Key,
    source::InForce,
    stats::{Counters, Running},
    work::{Shot, reason},
};
use crate::{
    deploy::now_ms,
    store::events::{MAX_MESSAGE_BYTES, Received},
};

/// Before a subscription that failed is made again, and before a message that found no node is tried again; doubled up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

pub(super) struct Subject {
    pub shared: Arc<Shared>,
    pub key: Key,
    pub pattern: String,
    pub terms: watch::Receiver<Arc<InForce>>,
    pub stop: CancellationToken,
    pub counters: Arc<Counters>,
}

impl Subject {
    /// Works until it is stopped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut open = self.shared.open.subscribe();
        let mut pause = AGAIN.0;
        loop {
            let opened = async { open.wait_for(|open| *open).await.is_ok() };
            if self.stop.run_until_cancelled(opened).await != Some(true) {
                return;
            }
            if self.listen(&mut pause).await {
                continue;
            }
            let wait = sleep(pause.mul_f64(rand::random_range(0.5..1.0)));
            pause = (pause * 2).min(AGAIN.1);
            if self.stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
        }
    }

    /// Listens until this node closes or stops, and until what was begun has ended; false if it could not or cannot any more.
    async fn listen(self: &Arc<Self>, pause: &mut Duration) -> bool {
        let group = item::consumer(&self.key.function, &self.key.trigger);
        let mut messages = match self.shared.stores.bus.subscribe(&self.pattern, Some(&group)).await {
            Ok(messages) => messages,
            Err(error) => {
                if self.counters.error(error.to_string()) {
                    let Key { function, trigger, .. } = &self.key;
                    tracing::warn!(%function, %trigger, subject = self.pattern, %error, "the trigger cannot listen: it is tried again");
                }
                return false;
            }
        };
        *pause = AGAIN.0;
        let mut open = self.shared.open.subscribe();
        let mut tasks = JoinSet::new();
        let meant = loop {
            tokio::select! {
                () = self.stop.cancelled() => break true,
                _ = async { open.wait_for(|open| !open).await.is_ok() } => break true,
                Some(_) = tasks.join_next() => {}
                received = messages.next() => {
                    let Some(received) = received else { break false };
                    let limit = self.terms.borrow().terms.concurrency as usize;
                    if tasks.len() < limit * 2 {
                        tasks.spawn(self.clone().handle(received));
                    } else {
                        self.turn_away(received, limit).await;
                    }
                }
            }
        };
        drop(messages);
        while tasks.join_next().await.is_some() {}
        meant
    }

    async fn turn_away(&self, received: Received, limit: usize) {
        self.counters.dropped.fetch_add(1, Relaxed);
        let text = format!("{limit} messages of this trigger run and as many wait: no more are taken");
        self.counters.error(text.clone());
        if let Some(to) = received.reply {
            self.send(refusal(to, StatusCode::SERVICE_UNAVAILABLE, "busy", &text)).await;
        }
    }

    /// Runs one message and answers it.
    async fn handle(self: Arc<Self>, received: Received) {
        let answer = self.shared.force.run_until_cancelled(self.answer(&received)).await;
        let answer = answer.unwrap_or_else(|| unavailable("the node stops".into()));
        let replied = answer.replied && answer.outcome == Outcome::Done;
        if let (Some(to), false) = (received.reply, replied) {
            self.send(reply(to, &answer)).await;
        }
    }

    /// Tries until it ran or its time is over.
    async fn answer(&self, received: &Received) -> Answer {
        let message = without_ours(&received.message);
        let in_force = self.terms.borrow().clone();
        let deadline = Instant::now() + in_force.terms.timeout;
        let origin = Origin::passing(InvocationId::new().to_string(), &message.subject, now_ms());
        let Key { function, trigger, .. } = &self.key;
        let mut pause = AGAIN.0;
        loop {
            let room = async { (in_force.places.acquire().await, self.shared.slots.acquire().await) };
            let Ok(room) = timeout_at(deadline, room).await else {
                self.counters.dropped.fetch_add(1, Relaxed);
                return unavailable("no slot was free before its time was over".into());
            };
            let running = Running::begin(&self.counters, &self.shared.running);
            let which = Try { function, trigger, attempt: 1, reply: received.reply.as_deref() };
            let shot = Shot { message: &message, origin: &origin, which, mark: rand::random() };
            let answer = self.shared.fire.fire(shot).await;
            drop((running, room));
            self.counters.count(&answer.outcome);
            let Outcome::NotRun { reason } = &answer.outcome else { return answer };
            if Instant::now() + pause >= deadline {
                self.counters.dropped.fetch_add(1, Relaxed);
                return unavailable(reason.clone());
            }
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    async fn send(&self, message: Message) {
        if let Err(error) = self.shared.stores.bus.send(message).await {
            let Key { function, trigger, .. } = &self.key;
            tracing::debug!(%function, %trigger, %error, "a reply was not sent");
        }
    }
}

/// The message without headers that only we set.
fn without_ours(message: &Message) -> Message {
    let mut message = message.clone();
    message.headers.retain(|(name, _)| !item::is_ours(name));
    message
}

fn unavailable(reason: String) -> Answer {
    let outcome = Outcome::NotRun { reason };
    Answer {
        status: StatusCode::SERVICE_UNAVAILABLE,
        content_type: None,
        body: Default::default(),
        size: 0,
        outcome,
        replied: false,
    }
}

/// What the sender gets: the body of a success, else what went wrong.
fn reply(to: String, answer: &Answer) -> Message {
    let Some(reason) = reason(&answer.outcome) else {
        if answer.size > MAX_MESSAGE_BYTES as u64 {
            let text = format!("the answer has {} bytes: a reply takes at most {MAX_MESSAGE_BYTES}", answer.size);
            return refusal(to, StatusCode::INTERNAL_SERVER_ERROR, "reply-too-large", &text);
        }
        let message = Message::new(to, answer.body.clone());
        return match answer.content_type.as_ref().and_then(|value| value.to_str().ok()) {
            Some(content_type) => message.with("content-type", content_type),
            None => message,
        };
    };
    let code = if matches!(answer.outcome, Outcome::NotRun { .. }) { "unavailable" } else { "function-failed" };
    refusal(to, answer.status, code, &reason)
}

/// An error as NATS micro services answer it (ADR-32), with a problem document for a body.
fn refusal(to: String, status: StatusCode, code: &str, text: &str) -> Message {
    Message::new(to, Problem::new(status, code, text).to_json())
        .with("Nats-Service-Error-Code", status.as_str())
        .with("Nats-Service-Error", one_line(text))
        .with("content-type", "application/problem+json")
}
