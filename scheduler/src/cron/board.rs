//! Which triggers this node looks after, and when the next one is due. Pure: times and peers come in as arguments.

use dunlin_api::{
    FunctionName, NodeName,
    trigger::{CronTrigger, TriggerId},
};
use jiff::Timestamp;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::task;

use super::schedule::Schedule;
use crate::{balancer::place, snapshot::Snapshot};

/// The node that comes second for a trigger looks this long after a tick whether the first one fired it.
const SECOND: Duration = Duration::from_secs(1);
/// Longest wait before what failed is tried again.
const MAX_WAIT: Duration = Duration::from_secs(30);

pub(super) type Key = (FunctionName, TriggerId);

/// A trigger of a function that is deployed.
pub(super) struct Entry {
    pub(super) function: FunctionName,
    pub(super) id: TriggerId,
    pub(super) trigger: CronTrigger,
    pub(super) schedule: Schedule,
}

struct Slot {
    entry: Arc<Entry>,
    /// How long after a tick this node looks; none = others look after it.
    delay: Option<Duration>,
    due: Option<Timestamp>,
    turn: Option<task::Id>,
    failures: u32,
}

/// All triggers.
#[derive(Default)]
pub(super) struct Board {
    slots: HashMap<Key, Slot>,
    due: BTreeSet<(Timestamp, Key)>,
    peers: Vec<NodeName>,
}

impl Board {
    /// Takes the triggers of `snapshot`; new ones are due at `now`.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, me: &NodeName, now: Timestamp) {
        let mut found = deployed(snapshot);
        let gone: Vec<_> = self.slots.keys().filter(|key| !found.contains_key(*key)).cloned().collect();
        for key in gone {
            self.set_due(&key, None);
            self.slots.remove(&key);
        }
        for (key, trigger) in found.drain() {
            if self.slots.get(&key).is_some_and(|slot| slot.entry.trigger == *trigger) {
                continue;
            }
            let schedule = match Schedule::of(trigger) {
                Ok(schedule) => schedule,
                Err(error) => {
                    tracing::error!(function = %key.0, trigger = %key.1, error, "a deployed schedule cannot be read: it does not fire");
                    continue;
                }
            };
            let (function, id) = key.clone();
            let entry = Arc::new(Entry { function, id, trigger: trigger.clone(), schedule });
            match self.slots.get_mut(&key) {
                // Its policies changed; when it ticks did not.
                Some(slot) => slot.entry = entry,
                None => {
                    let delay = delay(&key, &self.peers, me);
                    self.slots.insert(key.clone(), Slot { entry, delay, due: None, turn: None, failures: 0 });
                    self.set_due(&key, delay.map(|_| now));
                }
            }
        }
    }

    /// Takes the nodes that live; what this node has to look after from now on is due at `now`.
    pub(super) fn set_peers(&mut self, mut peers: Vec<NodeName>, me: &NodeName, now: Timestamp) {
        peers.sort_unstable();
        if peers == self.peers {
            return;
        }
        self.peers = peers;
        let mut moved = Vec::new();
        for (key, slot) in &mut self.slots {
            let delay = delay(key, &self.peers, me);
            if delay != slot.delay {
                slot.delay = delay;
                moved.push((key.clone(), delay.map(|_| now)));
            }
        }
        for (key, due) in moved {
            self.set_due(&key, due);
        }
    }

    /// What is due at `now`, each with the time up to which its ticks are this node's to fire. The caller says by
    /// [`begun`](Self::begun) that it works on it.
    pub(super) fn take(&mut self, now: Timestamp) -> Vec<(Arc<Entry>, Timestamp)> {
        let mut taken = Vec::new();
        while let Some((due, key)) = self.due.first().cloned().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, key.clone()));
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            slot.due = None;
            if let (Some(delay), None) = (slot.delay, slot.turn) {
                taken.push((slot.entry.clone(), now - delay));
            }
        }
        taken
    }

    /// Notes the task that works on a trigger.
    pub(super) fn begun(&mut self, entry: &Entry, turn: task::Id) {
        if let Some(slot) = self.slots.get_mut(&(entry.function.clone(), entry.id.clone())) {
            slot.turn = Some(turn);
        }
    }

    /// The trigger that `turn` works on.
    pub(super) fn of(&self, turn: task::Id) -> Option<Key> {
        self.slots.iter().find(|(_, slot)| slot.turn == Some(turn)).map(|(key, _)| key.clone())
    }

    /// Notes that the work on a trigger ended: up to where its ticks are dealt with, or none if that failed. Returns how
    /// often it has failed in a row.
    pub(super) fn ended(&mut self, key: &Key, position: Option<Timestamp>, now: Timestamp) -> u32 {
        let Some(slot) = self.slots.get_mut(key) else { return 0 };
        slot.turn = None;
        slot.failures = if position.is_some() { 0 } else { slot.failures.saturating_add(1) };
        let failures = slot.failures;
        let due = slot.delay.and_then(|delay| match position {
            Some(position) => slot.entry.schedule.next(position).map(|tick| tick + delay),
            None => Some(now + Duration::from_secs(1 << (failures - 1).min(5)).min(MAX_WAIT)),
        });
        self.set_due(key, due);
        failures
    }

    /// When the next trigger is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    fn set_due(&mut self, key: &Key, due: Option<Timestamp>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if let Some(before) = std::mem::replace(&mut slot.due, due) {
            self.due.remove(&(before, key.clone()));
        }
        self.due.extend(due.map(|due| (due, key.clone())));
    }
}

fn deployed(snapshot: &Snapshot) -> HashMap<Key, &CronTrigger> {
    let mut found = HashMap::new();
    for (name, deployed) in &snapshot.functions {
        let triggers = deployed.triggering().into_iter().flat_map(|revision| &revision.settings.cron);
        found.extend(triggers.map(|trigger| ((name.clone(), trigger.id()), trigger)));
    }
    found
}

fn delay((function, trigger): &Key, peers: &[NodeName], me: &NodeName) -> Option<Duration> {
    match place(&format!("{function}/{trigger}"), peers, me)? {
        0 => Some(Duration::ZERO),
        1 => Some(SECOND),
        _ => None,
    }
}
