//! Who may run now: a count of slots for the node and one for each function with a limit of its own.
//!
//! A call that finds no slot is refused at once, with the numbers; nothing waits here, so nothing can pile up.

use dunlin_api::{InvokeError, Load};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use crate::ticker::{Running, Ticker};

/// The slots of a node.
pub(crate) struct Admission {
    slots: u32,
    in_flight: Arc<AtomicU32>,
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
    _node: Taken,
    _function: Option<Taken>,
    _running: Running,
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
        Self { slots, in_flight: Arc::default(), draining: AtomicBool::new(false), ticker }
    }

    /// Takes a slot of the node and one of the function.
    ///
    /// # Errors
    /// `Draining`, `Busy` with the node's numbers, or `Concurrency` with the function's limit.
    pub(crate) fn admit(&self, function: &FunctionGate) -> Result<Permit, InvokeError> {
        if self.draining.load(Relaxed) {
            return Err(InvokeError::Draining);
        }
        let function = match function.limit {
            None => None,
            Some(limit) => Some(Taken::take(&function.in_flight, limit).ok_or(InvokeError::Concurrency { limit })?),
        };
        let node = Taken::take(&self.in_flight, self.slots).ok_or_else(|| InvokeError::Busy(self.load()))?;
        Ok(Permit { _node: node, _function: function, _running: self.ticker.enter() })
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
        Admission::new(slots, Arc::new(Ticker::start(Vec::new()).unwrap()))
    }

    #[test]
    fn refuses_when_every_slot_is_taken_and_admits_again_after_a_drop() {
        let node = admission(2);
        let gate = FunctionGate::new(None);
        let first = node.admit(&gate).unwrap();
        let _second = node.admit(&gate).unwrap();
        let full = Load { in_flight: 2, slots: 2 };
        assert_eq!(node.admit(&gate).err(), Some(InvokeError::Busy(full)));
        drop(first);
        assert!(node.admit(&gate).is_ok());
    }

    #[test]
    fn a_functions_own_limit_is_told_apart_and_gives_its_place_back() {
        let node = admission(10);
        let gate = FunctionGate::new(Some(1));
        let held = node.admit(&gate).unwrap();
        assert_eq!(node.admit(&gate).err(), Some(InvokeError::Concurrency { limit: 1 }));
        assert!(node.admit(&FunctionGate::new(None)).is_ok(), "others are not affected");
        drop(held);
        assert!(node.admit(&gate).is_ok());
    }

    #[test]
    fn a_full_node_does_not_keep_the_functions_place() {
        let node = admission(1);
        let (limited, other) = (FunctionGate::new(Some(1)), FunctionGate::new(None));
        let held = node.admit(&other).unwrap();
        assert!(matches!(node.admit(&limited).err(), Some(InvokeError::Busy(_))));
        drop(held);
        assert!(node.admit(&limited).is_ok());
    }

    #[test]
    fn a_draining_node_refuses() {
        let node = admission(1);
        node.drain();
        assert_eq!(node.admit(&FunctionGate::new(None)).err(), Some(InvokeError::Draining));
    }
}
