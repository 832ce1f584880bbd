//! Who is alive: judges every node by its heartbeats, its record and the time this node spent listening.
//!
//! Called by the run loop, which owns the sockets and the clock: `now` and wall time come in, so that tests fix them. It
//! holds at most [`MAX_NODES`] nodes. A process is told from another of the same name by its boot number, and the
//! record in the bucket says which of them owns the name.

use dunlin_api::NodeName;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

use super::{
    frame::{Ask, Beat},
    listening::Listening,
    records::Record,
    view::{Member, Members, NodeInfo, NodeState},
};
use entry::Entry;

mod entry;

/// Nodes of one cluster. Heartbeats go from all to all, so NATS is the tighter bound.
pub(super) const MAX_NODES: usize = 10_000;
/// Between two tries to connect to NATS there is at most a second, see [`crate::nats`].
const RECONNECT: Duration = Duration::from_secs(1);
/// A node that is suspected and asked has this long to answer.
const SUSPICION: Duration = Duration::from_millis(300);

/// What the roster is told once.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) interval: Duration,
    pub(super) misses: u32,
    pub(super) clock_limit: Duration,
}

impl Rules {
    /// How often nodes are judged.
    pub(super) fn tick(&self) -> Duration {
        self.interval / 4
    }
}

/// What a heartbeat led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It counts.
    Taken,
    /// It counts, and its clock looks wrong: a round trip should be measured.
    AskClock,
    /// Another process has the name of this node.
    Rival,
    /// It is old, of a process that does not own its name, or one node too many.
    Ignored,
}

/// How soon others should see what changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Changed {
    #[default]
    Nothing,
    /// With the next tick, together with whatever else changes until then.
    Soon,
    /// At once: a node must not get more calls.
    Now,
}

/// Every known node.
pub(super) struct Roster {
    me: NodeName,
    boot: u64,
    rules: Rules,
    listening: Listening,
    /// Number and time of the last heartbeat of this node.
    sent: Option<(u32, Instant)>,
    nodes: BTreeMap<NodeName, Entry>,
    version: u64,
    changed: Changed,
}

impl Roster {
    pub(super) fn new(me: Arc<NodeInfo>, rules: Rules, now: Instant) -> Self {
        let listening = Listening::new(rules.interval, rules.tick(), now);
        let (node, boot) = (me.node.clone(), me.boot);
        let nodes = [(node.clone(), Entry::new(me, NodeState::Up, now))].into();
        Self { me: node, boot, rules, listening, sent: None, nodes, version: 0, changed: Changed::Now }
    }

    /// A heartbeat, of this node too, that came at `wall_us` by the clock of this node.
    pub(super) fn heard(&mut self, beat: Beat, now: Instant, wall_us: i64) -> Heard {
        let mine = beat.info.node == self.me;
        if mine && beat.info.boot != self.boot {
            return if beat.state == NodeState::Left { Heard::Ignored } else { Heard::Rival };
        }
        if !self.nodes.contains_key(&beat.info.node) {
            if self.nodes.len() >= MAX_NODES {
                return Heard::Ignored;
            }
            self.changed = self.changed.max(Changed::Soon);
            tracing::info!(node = %beat.info.node, state = ?beat.state, "a node is heard for the first time");
            let entry = Entry::new(beat.info.clone(), beat.state, now);
            self.nodes.insert(beat.info.node.clone(), entry);
        }
        let Some(entry) = self.nodes.get_mut(&beat.info.node) else { return Heard::Ignored };
        if !entry.believes(&beat) {
            return Heard::Ignored;
        }
        let took = entry.member.takes_calls();
        if entry.member.info.boot != beat.info.boot {
            entry.replace(beat.info.clone(), entry.member.state, now);
        }
        let mut changed = entry.member.state != beat.state;
        if changed {
            entry.enter(beat.state, "it says so");
        }
        if entry.member.info != beat.info {
            changed = true;
            entry.member.slots = entry.weight.unwrap_or(beat.info.slots);
            entry.member.info = beat.info;
        }
        entry.member.load = beat.load;
        entry.member.ready = beat.ready;
        entry.member.seen = Some(now);
        entry.sequence = beat.sequence;
        entry.every = Duration::from_millis(u64::from(beat.every_ms.clamp(10, 60_000)));
        entry.heard = self.listening.total();
        entry.suspected = None;
        let limit_us = self.rules.clock_limit.as_micros() as u64;
        let ask = !mine && entry.clock.heartbeat(beat.sent_us, wall_us, limit_us);
        changed |= entry.judge_clock();
        self.changed = self.changed.max(entry.urgency(changed, took));
        if ask { Heard::AskClock } else { Heard::Taken }
    }

    /// The answer to `ask`, sent at `replied_us` by the clock of `node`: measures how far that is ahead.
    pub(super) fn answered(&mut self, node: &NodeName, ask: &Ask, received_us: i64, replied_us: i64, wall_us: i64) {
        let Some(entry) = self.nodes.get_mut(node).filter(|_| *node != self.me) else { return };
        let took = entry.member.takes_calls();
        let limit_us = self.rules.clock_limit.as_micros() as u64;
        entry.clock.measured(ask.sent_us, received_us, replied_us, wall_us, limit_us);
        let changed = entry.judge_clock();
        self.changed = self.changed.max(entry.urgency(changed, took));
    }

    /// The record of `node` as it is now; none if it is gone. True if the node should be asked for a heartbeat.
    pub(super) fn record(&mut self, node: &NodeName, record: Option<&Record>, now: Instant) -> bool {
        let Some(record) = record else {
            let gone = self.nodes.get(node).is_some_and(|entry| !entry.member.is_live());
            match self.nodes.get_mut(node) {
                Some(_) if gone => drop(self.nodes.remove(node)),
                Some(entry) => {
                    (entry.owner, entry.weight, entry.member.drained) = (None, None, false);
                    entry.member.slots = entry.member.info.slots;
                }
                None => return false,
            }
            self.changed = self.changed.max(Changed::Soon);
            return false;
        };
        let absent = if record.left { NodeState::Left } else { NodeState::Lost };
        if !self.nodes.contains_key(node) {
            if self.nodes.len() >= MAX_NODES {
                return false;
            }
            self.nodes.insert(node.clone(), Entry::new(record.info.clone(), absent, now));
            self.changed = self.changed.max(Changed::Soon);
        }
        let Some(entry) = self.nodes.get_mut(node) else { return false };
        let (took, before) = (entry.member.takes_calls(), (entry.member.drained, entry.member.slots));
        entry.owner = Some((record.info.boot, record.info.started_ms));
        entry.weight = record.slots;
        entry.member.drained = record.drained;
        entry.member.slots = record.slots.unwrap_or(entry.member.info.slots);
        let mut changed = before != (entry.member.drained, entry.member.slots);
        let replaced = *node != self.me && entry.member.info.boot != record.info.boot;
        if replaced {
            entry.replace(record.info.clone(), absent, now);
            changed = true;
        } else if *node != self.me && record.left && entry.member.state != NodeState::Left {
            entry.enter(NodeState::Left, "its record says so");
            changed = true;
        }
        self.changed = self.changed.max(entry.urgency(changed, took));
        replaced && !record.left
    }

    /// Forgets the records of nodes that are not `kept`: they were removed while nobody watched.
    pub(super) fn keep(&mut self, kept: impl Fn(&NodeName) -> bool, now: Instant) {
        let recorded = self.nodes.iter().filter(|(_, entry)| entry.owner.is_some());
        let gone: Vec<_> = recorded.map(|(node, _)| node.clone()).filter(|node| !kept(node)).collect();
        for node in &gone {
            self.record(node, None, now);
        }
    }

    /// This node sends heartbeat number `sequence`.
    pub(super) fn sent(&mut self, sequence: u32, now: Instant) {
        self.sent = Some((sequence, now));
    }

    /// This node's heartbeat number `sequence` came back. One that a later one has overtaken proves nothing.
    pub(super) fn echo(&mut self, sequence: u32, now: Instant) {
        let Some((_, sent)) = self.sent.filter(|(last, _)| *last == sequence) else { return };
        if self.listening.echo(sent, now) {
            tracing::info!("this node hears the cluster again");
            for entry in self.nodes.values_mut() {
                // The others may need longer to find NATS again than this node did.
                entry.heard = self.listening.total() + RECONNECT;
                entry.suspected = None;
            }
        }
    }

    /// Judges every node.
    pub(super) fn tick(&mut self, now: Instant) {
        self.listening.advance(now);
        let listened = self.listening.total();
        for (node, entry) in &mut self.nodes {
            if *node == self.me || !entry.member.is_live() {
                continue;
            }
            // A quarter of an interval more: the last heartbeat may be late without being missed.
            let patience = entry.every * self.rules.misses + entry.every / 4;
            let why = if listened.saturating_sub(entry.heard) > patience {
                "it missed its heartbeats"
            } else if entry.suspected.is_some_and(|at| listened - at >= SUSPICION) {
                "calls to it failed and it does not answer"
            } else {
                continue;
            };
            entry.enter(NodeState::Lost, why);
            self.changed = Changed::Now;
        }
    }

    /// Calls to `node` fail. True if it should be asked: then it has a moment to answer.
    pub(super) fn suspect(&mut self, node: &NodeName) -> bool {
        let Some(entry) = self.nodes.get_mut(node) else { return false };
        let ask = *node != self.me && entry.member.is_live() && entry.suspected.is_none();
        if ask {
            entry.suspected = Some(self.listening.total());
        }
        ask
    }

    /// The state of `node`.
    pub(super) fn state(&self, node: &NodeName) -> Option<NodeState> {
        self.nodes.get(node).map(|entry| entry.member.state)
    }

    /// How soon a new view is due.
    pub(super) fn changed(&self) -> Changed {
        self.changed
    }

    /// Nodes that have a record, did not say goodbye, and were not heard.
    pub(super) fn awaited(&self) -> usize {
        self.nodes.values().filter(|e| e.member.state == NodeState::Lost && e.member.seen.is_none()).count()
    }

    /// Everything as it is now, as a view that is published.
    pub(super) fn publish(&mut self) -> Members {
        self.version += 1;
        self.changed = Changed::Nothing;
        self.view()
    }

    /// Everything as it is now.
    pub(super) fn view(&self) -> Members {
        let member = |entry: &Entry| {
            let clock_offset_ms = entry.clock.ahead_ms().filter(|_| entry.member.info.node != self.me);
            Arc::new(Member { clock_offset_ms, ..entry.member.clone() })
        };
        let nodes = self.nodes.iter().map(|(node, entry)| (node.clone(), member(entry))).collect();
        Members { version: self.version, nodes }
    }
}

#[cfg(test)]
mod tests;
