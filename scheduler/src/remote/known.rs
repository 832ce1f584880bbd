//! The calls that a worker runs, and those that it has met: none is run twice, and none after it was cancelled.
//!
//! A call is remembered for at least [`KEPT`], or until [`MOST`] newer ones came: a copy that is later than that was
//! due long ago, and is refused for that.

use async_nats::Subject;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

use super::{frame::Key, link::lock, valve::Valve};

const KEPT: Duration = Duration::from_secs(60);
/// Half a second at the highest rate a node was seen to take, which is longer than a copy is not yet too late; 2 MiB.
const MOST: usize = 1 << 15;

#[derive(Default)]
pub(super) struct Known {
    table: Mutex<Table>,
    emptied: Notify,
}

#[derive(Default)]
struct Table {
    /// Each with the subject of its answers.
    running: HashMap<Key, (Subject, Arc<Valve>)>,
    met: HashSet<Key>,
    order: VecDeque<(Instant, Key)>,
}

impl Table {
    /// Remembers a call; false if it was met before.
    fn meet(&mut self, key: Key, now: Instant) -> bool {
        let new = self.met.insert(key);
        if new {
            self.order.push_back((now, key));
        }
        while self.order.front().is_some_and(|(since, _)| now - *since > KEPT || self.order.len() > MOST) {
            if let Some((_, old)) = self.order.pop_front() {
                self.met.remove(&old);
            }
        }
        new
    }
}

impl Known {
    /// Enters a call that is answered at `reply`; none if it was met before.
    pub(super) fn enter(self: &Arc<Self>, key: Key, reply: &Subject) -> Option<Running> {
        let mut table = lock(&self.table);
        if !table.meet(key, Instant::now()) {
            return None;
        }
        let valve = Arc::<Valve>::default();
        table.running.insert(key, (reply.clone(), valve.clone()));
        Some(Running { key, valve, known: self.clone() })
    }

    /// Ends a call, now or before it comes.
    pub(super) fn cancel(&self, key: Key) {
        let mut table = lock(&self.table);
        table.meet(key, Instant::now());
        if let Some((_, valve)) = table.running.get(&key) {
            valve.shut();
        }
    }

    /// Grants credit for the answer of a call.
    pub(super) fn grant(&self, key: Key, bytes: u64) {
        if let Some((_, valve)) = lock(&self.table).running.get(&key) {
            valve.grant(bytes);
        }
    }

    /// Ends the calls that `affected` says.
    pub(super) fn shut(&self, affected: impl Fn(&Valve) -> bool) {
        let table = lock(&self.table);
        table.running.values().filter(|(_, valve)| affected(valve)).for_each(|(_, valve)| valve.shut());
    }

    /// Ends the calls whose answers go to subjects below `replies`: nobody reads them any more.
    pub(super) fn abandon(&self, replies: &str) {
        let below = |reply: &str| reply.strip_prefix(replies).is_some_and(|rest| rest.starts_with('.'));
        let table = lock(&self.table);
        table.running.values().filter(|(reply, _)| below(reply)).for_each(|(_, valve)| valve.shut());
    }

    /// Waits until no call runs.
    pub(super) async fn idle(&self) {
        loop {
            let emptied = self.emptied.notified();
            if lock(&self.table).running.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

/// A call that runs. It no longer does when this is dropped.
pub(super) struct Running {
    pub(super) key: Key,
    pub(super) valve: Arc<Valve>,
    known: Arc<Known>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut table = lock(&self.known.table);
        table.running.remove(&self.key);
        if table.running.is_empty() {
            self.known.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_call_is_entered_once_and_never_after_it_was_cancelled() {
        let known = Arc::<Known>::default();
        let (key, at) = (|id| Key { id, attempt: 0 }, Subject::from("r.g.1"));
        let running = known.enter(key(1), &at).unwrap();
        assert!(known.enter(key(1), &at).is_none());
        drop(running);
        assert!(known.enter(key(1), &at).is_none());
        known.cancel(key(2));
        assert!(known.enter(key(2), &at).is_none());
        assert!(known.enter(Key { id: 2, attempt: 1 }, &at).is_some());
    }

    #[test]
    fn the_calls_of_a_lost_gateway_end_and_no_others() {
        let known = Arc::<Known>::default();
        let enter = |id, reply: &str| known.enter(Key { id, attempt: 0 }, &Subject::from(reply)).unwrap();
        let (lost, other) = (enter(1, "dl.r.g1.0"), enter(2, "dl.r.g10.0"));
        known.abandon("dl.r.g1");
        let ended = |running: &Running| {
            let mut work = std::pin::pin!(std::future::pending::<()>());
            running.valve.until_shut(work.as_mut()).now_or_never().is_some()
        };
        assert!(ended(&lost) && !ended(&other));
    }

    #[test]
    fn calls_are_remembered_for_a_minute_and_in_bounded_number() {
        let (mut table, began) = (Table::default(), Instant::now());
        let key = |id| Key { id, attempt: 0 };
        assert!(table.meet(key(1), began));
        assert!(!table.meet(key(1), began + KEPT));
        assert!(table.meet(key(2), began + KEPT + Duration::from_millis(1)));
        assert!(table.meet(key(1), began + KEPT));
        for id in 0..2 * MOST as u128 {
            table.meet(key(10 + id), began + KEPT);
        }
        assert_eq!((table.met.len(), table.order.len()), (MOST, MOST));
    }
}
