//! Who may run now: a count of slots for the node and one for each function with a limit of its own.
//!
//! A burst may wait: as many calls as a quarter of the slots, first come first served, each until its deadline. Beyond
//! that a call is refused at once, with the numbers, so that it can run elsewhere; one that has been everywhere may wait in
//! a longer queue. A function's own limit never waits.

use dunlin_api::{InvokeError, Load};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::ticker::{Running, Ticker};

/// One call may wait for every so many slots: a queue that is longer costs more latency than a hop to another node.
const SLOTS_PER_WAITING: u32 = 4;

/// The slots of a node.
pub(crate) struct Admission {
    slots: u32,
    /// Calls that run and those that wait.
    in_flight: Arc<AtomicU32>,
    free: Arc<Semaphore>,
    draining: AtomicBool,
    ticker: Arc<Ticker>,
}

/// The concurrency limit of one function on this node, if it has one.
#[derive(Default)]
pub(crate) struct FunctionGate {
    limit: Option<u32>,
    in_flight: Arc<AtomicU32>,
}

impl FunctionGate {
    pub(crate) fn new(limit: Option<u32>) -> Self {
        Self { limit, in_flight: Arc::default() }
    }
}

/// The right to run one invocation, until it is dropped.
pub(crate) struct Permit {
    _slot: OwnedSemaphorePermit,
    _place: Place,
    _running: Running,
}

/// A place among the calls that run or wait.
struct Place {
    _node: Taken,
    _function: Option<Taken>,
}

/// An invocation that the node has taken: it may run, now or as soon as a slot is free.
pub(crate) enum Admitted {
    Running(Permit),
    Waiting(Waiting),
}

pub(crate) struct Waiting {
    place: Place,
    free: Arc<Semaphore>,
    ticker: Arc<Ticker>,
}

impl Admitted {
    /// Waits for a slot until `deadline`; returns how long that took.
    ///
    /// # Errors
    /// `Deadline`, naming `timeout`.
    pub(crate) async fn permit(self, deadline: Instant, timeout: Duration) -> Result<(Permit, Duration), InvokeError> {
        let waiting = match self {
            Self::Running(permit) => return Ok((permit, Duration::ZERO)),
            Self::Waiting(waiting) => waiting,
        };
        let asked = Instant::now();
        let slot = tokio::time::timeout_at(deadline, waiting.free.acquire_owned()).await;
        let slot = slot.map_err(|_| InvokeError::Deadline(timeout))?.map_err(|_| InvokeError::Draining)?;
        let permit = Permit { _slot: slot, _place: waiting.place, _running: waiting.ticker.enter() };
        Ok((permit, asked.elapsed()))
    }
}

/// One place in a count.
struct Taken(Arc<AtomicU32>);

impl Taken {
    fn take(count: &Arc<AtomicU32>, limit: u32) -> Option<Self> {
        let free = |n| (n < limit).then_some(n + 1);
        count.fetch_update(Relaxed, Relaxed, free).ok().map(|_| Self(count.clone()))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Admission {
    pub(crate) fn new(slots: u32, ticker: Arc<Ticker>) -> Self {
        let free = Arc::new(Semaphore::new(slots as usize));
        Self { slots, in_flight: Arc::default(), free, draining: AtomicBool::new(false), ticker }
    }

    /// Takes a place of the node and one of the function. The `last` node of a call lets it wait in a queue as long as it
    /// has slots: at high load all short queues are full at moments, and then a refusal helps nobody.
    ///
    /// # Errors
    /// `Draining`, `Busy` with the node's numbers, or `Concurrency` with the function's limit.
    pub(crate) fn admit(&self, function: &FunctionGate, last: bool) -> Result<Admitted, InvokeError> {
        if self.draining.load(Relaxed) {
            return Err(InvokeError::Draining);
        }
        let function = match function.limit {
            None => None,
            Some(limit) => Some(Taken::take(&function.in_flight, limit).ok_or(InvokeError::Concurrency { limit })?),
        };
        let queue = if last { self.slots } else { self.slots / SLOTS_PER_WAITING };
        let most = self.slots + queue;
        let node = Taken::take(&self.in_flight, most).ok_or_else(|| InvokeError::Busy(self.load()))?;
        let place = Place { _node: node, _function: function };
        Ok(match self.free.clone().try_acquire_owned() {
            Ok(slot) => Admitted::Running(Permit { _slot: slot, _place: place, _running: self.ticker.enter() }),
            Err(_) => Admitted::Waiting(Waiting { place, free: self.free.clone(), ticker: self.ticker.clone() }),
        })
    }

    /// Refuses everything from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(crate) fn load(&self) -> Load {
        Load { in_flight: self.in_flight.load(Relaxed), slots: self.slots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(slots: u32) -> Admission {
        Admission::new(slots, Arc::new(Ticker::start().unwrap()))
    }

    #[test]
    fn refuses_when_every_slot_is_taken_and_admits_again_after_a_drop() {
        let node = admission(2);
        let gate = FunctionGate::new(None);
        let first = node.admit(&gate, false).unwrap();
        let _second = node.admit(&gate, false).unwrap();
        let full = Load { in_flight: 2, slots: 2 };
        assert_eq!(node.admit(&gate, false).err(), Some(InvokeError::Busy(full)));
        drop(first);
        assert!(node.admit(&gate, false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_quarter_of_the_slots_may_wait_in_order_and_until_their_deadlines() {
        let node = admission(4);
        let gate = FunctionGate::new(None);
        let timeout = Duration::from_secs(1);
        let deadline = Instant::now() + timeout;
        let mut running: Vec<_> = (0..4).map(|_| node.admit(&gate, false).unwrap()).collect();
        let waiting = node.admit(&gate, false).unwrap();
        assert_eq!(node.admit(&gate, false).err(), Some(InvokeError::Busy(Load { in_flight: 5, slots: 4 })));
        let patient = node.admit(&gate, true);
        assert!(matches!(patient, Ok(Admitted::Waiting(_))));
        drop(patient);
        let late = waiting.permit(deadline, timeout).await;
        assert_eq!(late.err(), Some(InvokeError::Deadline(timeout)));
        let waiting = node.admit(&gate, false).unwrap();
        running.pop();
        let (permit, _) = waiting.permit(Instant::now() + timeout, timeout).await.unwrap();
        assert_eq!(node.load().in_flight, 4);
        drop((permit, running));
        assert_eq!(node.load().in_flight, 0);
    }

    #[test]
    fn a_functions_own_limit_is_told_apart_and_gives_its_place_back() {
        let node = admission(10);
        let gate = FunctionGate::new(Some(1));
        let held = node.admit(&gate, false).unwrap();
        assert_eq!(node.admit(&gate, false).err(), Some(InvokeError::Concurrency { limit: 1 }));
        assert!(node.admit(&FunctionGate::new(None), false).is_ok(), "others are not affected");
        drop(held);
        assert!(node.admit(&gate, false).is_ok());
    }

    #[test]
    fn a_full_node_does_not_keep_the_functions_place() {
        let node = admission(1);
        let (limited, other) = (FunctionGate::new(Some(1)), FunctionGate::new(None));
        let held = node.admit(&other, false).unwrap();
        assert!(matches!(node.admit(&limited, false).err(), Some(InvokeError::Busy(_))));
        drop(held);
        assert!(node.admit(&limited, false).is_ok());
    }

    #[test]
    fn a_draining_node_refuses() {
        let node = admission(1);
        node.drain();
        assert_eq!(node.admit(&FunctionGate::new(None), false).err(), Some(InvokeError::Draining));
    }
}
