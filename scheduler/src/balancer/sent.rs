//! A call under way at another node: counted there until it ends, and what its end teaches.

use dunlin_api::{Load, NodeName};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{fleet::Fleet, health::Failure, node::Counters, revision::RevisionState};

/// Why a node did not take a call. Nothing ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its slots and its queue are full.
    Busy,
    /// It is draining.
    Draining,
    /// The revision is not ready there.
    NotReady,
}

/// Counts one call as in flight until it is dropped. Dropping it without a verdict says only that the call is over: the
/// client left, or the function's own limit refused it.
#[derive(Debug)]
pub struct Sent {
    pub(super) fleet: Arc<Fleet>,
    pub(super) node: NodeName,
    pub(super) counters: Arc<Counters>,
    pub(super) revision: Arc<RevisionState>,
}

impl Sent {
    /// The function answered, whatever it said. `load` is the node's after that, `run_time` without waiting for a slot.
    pub fn answered(&self, load: Option<Load>, run_time: Duration, now: Instant) {
        self.reported(load);
        self.counters.health.succeeded(now);
        if let Some(log_ratio) = self.revision.ran(run_time) {
            self.counters.ran(log_ratio);
        }
    }

    /// The node refused at once.
    pub fn refused(&self, load: Option<Load>, why: Refused, now: Instant) {
        self.reported(load);
        match why {
            Refused::Busy => self.revision.refused(self.fleet.view().nodes.len(), now),
            Refused::Draining | Refused::NotReady => self.revision.not_ready(self.node.clone(), now),
        }
    }

    /// The node did not do its part.
    pub fn failed(&self, failure: Failure, now: Instant) {
        self.fleet.failed(&self.counters, failure, now);
    }

    fn reported(&self, load: Option<Load>) {
        load.into_iter().for_each(|load| self.counters.report(load));
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.counters.ended();
        self.revision.ended();
    }
}
