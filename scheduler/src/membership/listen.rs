//! The loop that sends this node's heartbeats, hears those of others, answers who asks, and judges who is silent.
//!
//! Nothing in it waits for a store or for an answer, and no publish waits longer than one interval, so that it keeps
//! its own time. What is not sent because NATS is away is not sent later either.

use async_nats::{Message, Subscriber, jetstream::kv::Watch};
use bytes::Bytes;
use dunlin_api::NodeName;
use futures::{StreamExt, stream::SelectAll};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Membership,
    frame::{Ask, Beat, Frame, FrameError},
    lock,
    records::Records,
    roster::{Changed, Heard},
    view::NodeState,
};
use crate::nats::PROBE;

/// Heartbeats that NATS delivers each second in the whole cluster: a tenth of what one of its servers can.
const DELIVERIES: f64 = 100_000.0;
/// Roll calls answered between two heartbeats. When a whole cluster starts at once everybody calls the roll: those who
/// get no answer hear the next heartbeat, and the flood stays linear.
const ANSWERS: u32 = 32;

/// What the loops read.
pub(super) struct Inputs {
    pub(super) frames: SelectAll<Subscriber>,
    pub(super) suspects: mpsc::Receiver<NodeName>,
    pub(super) watch: Watch,
}

/// What [`Membership::listen`] reads.
pub(super) struct Heads {
    frames: SelectAll<Subscriber>,
    suspects: mpsc::Receiver<NodeName>,
}

impl Inputs {
    pub(super) fn split(self) -> (Heads, Watch) {
        (Heads { frames: self.frames, suspects: self.suspects }, self.watch)
    }
}

/// What was warned of already.
#[derive(Debug, Default)]
pub(super) struct Warned {
    version: AtomicBool,
    malformed: AtomicBool,
}

impl Warned {
    /// True the first time.
    fn first(&self, error: FrameError) -> bool {
        let warned = match error {
            FrameError::Version(_) => &self.version,
            FrameError::Malformed => &self.malformed,
        };
        !warned.swap(true, Ordering::Relaxed)
    }
}

impl Membership {
    pub(super) async fn listen(&self, mut heads: Heads) -> Infallible {
        let mut beats = every(self.config.interval);
        let (mut silent, mut strides) = (0, 1);
        let mut ticks = every(self.config.interval / 4);
        let mut connection = self.nats.connection();
        connection.mark_unchanged();
        loop {
            tokio::select! {
                Some(message) = heads.frames.next() => self.receive(&message).await,
                _ = beats.tick() => {
                    silent += 1;
                    let stride = self.stride();
                    // Others hear of another rhythm before it begins.
                    if silent >= stride || stride != strides {
                        (silent, strides) = (0, stride);
                        self.send_heartbeat(None).await;
                    } else {
                        self.send_to_myself().await;
                    }
                }
                _ = ticks.tick() => {
                    lock(&self.roster).tick(Instant::now());
                    self.publish_from(Changed::Soon);
                }
                () = self.announce.notified() => self.send_heartbeat(None).await,
                Some(node) = heads.suspects.recv() => {
                    if lock(&self.roster).suspect(&node) {
                        self.ask(self.nats.subjects.membership(&node)).await;
                    }
                }
                Ok(()) = connection.changed() => {
                    if *connection.borrow_and_update() {
                        self.send_heartbeat(None).await;
                        self.ask(self.nats.subjects.roll_call()).await;
                    }
                }
            }
        }
    }

    /// Takes one message.
    pub(super) async fn receive(&self, message: &Message) {
        if *message.payload == *PROBE.as_bytes() {
            // Somebody who starts tries what it may send.
            return;
        }
        match Frame::decode(&message.subject, &message.payload) {
            Ok(Frame::Beat(beat)) if self.is_mine(&beat) => lock(&self.roster).echo(beat.sequence, Instant::now()),
            Ok(Frame::Beat(beat)) => self.heard(beat).await,
            Ok(Frame::Ask(ask)) if ask.boot != self.me.boot => self.answer(message, ask).await,
            Ok(Frame::Answer { beat, ask, received_us }) if ask.boot == self.me.boot => {
                let (node, replied_us) = (beat.info.node.clone(), beat.sent_us);
                self.heard(beat).await;
                lock(&self.roster).answered(&node, &ask, received_us, replied_us, self.wall_us());
                self.publish_from(Changed::Now);
            }
            Ok(Frame::Ask(_) | Frame::Answer { .. }) => {}
            Err(error) if self.warned.first(error) => {
                let subject = message.subject.as_str();
                tracing::warn!(subject, %error, "a message about membership is ignored, as are all that follow like it");
            }
            Err(_) => {}
        }
    }

    pub(super) fn is_mine(&self, beat: &Beat) -> bool {
        beat.info.boot == self.me.boot && beat.info.node == self.me.node
    }

    async fn heard(&self, beat: Beat) {
        let (node, load) = (beat.info.node.clone(), beat.load);
        let heard = lock(&self.roster).heard(beat, Instant::now(), self.wall_us());
        match (heard, &self.config.on_load) {
            (Heard::Taken | Heard::AskClock, Some(on_load)) => on_load(&node, load),
            (Heard::Rival, _) => self.recheck.notify_one(),
            _ => {}
        }
        if heard == Heard::AskClock {
            self.ask(self.nats.subjects.membership(&node)).await;
        }
        self.publish_from(Changed::Now);
    }

    async fn answer(&self, message: &Message, ask: Ask) {
        let received_us = self.wall_us();
        let to_all = message.subject.as_str() == self.nats.subjects.roll_call();
        if to_all && self.answered.fetch_add(1, Ordering::Relaxed) >= ANSWERS {
            return;
        }
        let subject = self.nats.subjects.membership(&ask.from);
        self.send(subject, Frame::Answer { beat: self.beat(None), ask, received_us }.encode()).await;
    }

    /// Asks everyone, or one node, for a heartbeat.
    pub(super) async fn ask(&self, subject: String) {
        let ask = Ask { from: self.me.node.clone(), boot: self.me.boot, sent_us: self.wall_us() };
        self.send(subject, Frame::Ask(ask).encode()).await;
    }

    /// Says how this node is, or with `state` how it is instead.
    pub(super) async fn send_heartbeat(&self, state: Option<NodeState>) {
        self.answered.store(0, Ordering::Relaxed);
        let (beat, now) = (self.beat(state), Instant::now());
        {
            let mut roster = lock(&self.roster);
            roster.sent(beat.sequence, now);
            roster.heard(beat.clone(), now, beat.sent_us);
        }
        self.publish_from(Changed::Now);
        self.send(self.nats.subjects.heartbeat(&self.me.node), Frame::Beat(beat).encode()).await;
    }

    /// Only this node hears it: that it is heard is what tells it that it listens.
    async fn send_to_myself(&self) {
        let beat = self.beat(None);
        lock(&self.roster).sent(beat.sequence, Instant::now());
        self.send(self.nats.subjects.membership(&self.me.node), Frame::Beat(beat).encode()).await;
    }

    fn stride(&self) -> u32 {
        stride(self.published.borrow().len(), self.config.interval)
    }

    fn beat(&self, state: Option<NodeState>) -> Beat {
        let status = (self.status)();
        let every = self.config.interval * self.stride();
        Beat {
            info: Arc::clone(&self.me),
            state: state.unwrap_or(if status.draining { NodeState::Draining } else { NodeState::Up }),
            load: status.load,
            ready: status.ready,
            every_ms: u32::try_from(every.as_millis()).unwrap_or(u32::MAX),
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
            sent_us: self.wall_us(),
        }
    }

    async fn send(&self, subject: String, frame: Bytes) {
        if !self.nats.is_connected() {
            return;
        }
        let sent = tokio::time::timeout(self.config.interval, self.nats.control.publish(subject, frame)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!("a heartbeat could not be sent: the connection is full or closed");
        }
    }

    /// Publishes a new view if what changed is at least as urgent as `least`.
    pub(super) fn publish_from(&self, least: Changed) {
        let mut roster = lock(&self.roster);
        if roster.changed() >= least {
            self.published.send_replace(Arc::new(roster.publish()));
        }
    }

    /// Tells the others, and marks the record.
    pub(super) async fn goodbye(&self) {
        self.send_heartbeat(Some(NodeState::Left)).await;
        if let Err(error) = self.nats.control.flush().await {
            tracing::debug!(%error, "the goodbye is not flushed");
        }
        let marked = async {
            let records = Records::open(&self.nats).await?;
            let mine = |record: &super::records::Record| record.info.boot == self.me.boot && !record.left;
            records.change(&self.me.node, |record| mine(record) && !std::mem::replace(&mut record.left, true)).await
        };
        if let Err(error) = marked.await {
            tracing::warn!(%error, "the record of this node does not say that it left");
        }
    }

    pub(super) fn wall_us(&self) -> i64 {
        let since = (self.config.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }
}

/// Every how many intervals a node tells all others that it lives: heartbeats go from all to all, and in a large cluster
/// NATS would carry little else. A node that fails there is noticed by the calls that fail.
fn stride(nodes: usize, interval: Duration) -> u32 {
    let each_second = (nodes * nodes) as f64 / interval.as_secs_f64();
    (each_second / DELIVERIES).ceil().max(1.0) as u32
}

/// A late tick moves the following ones: heartbeats after a stop do not come in a burst.
fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_become_rarer_where_there_are_many_nodes() {
        let interval = Duration::from_millis(400);
        assert_eq!([1, 3, 200, 201, 1_000].map(|nodes| stride(nodes, interval)), [1, 1, 1, 2, 25]);
    }

    #[test]
    fn warns_once_of_each_kind() {
        let warned = Warned::default();
        assert!(warned.first(FrameError::Version(2)));
        assert!(!warned.first(FrameError::Version(3)));
        assert!(warned.first(FrameError::Malformed));
        assert!(!warned.first(FrameError::Malformed));
    }
}
