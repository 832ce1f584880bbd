//! What a gateway knows of one revision: how much of it is in flight, how long it runs, where it is not ready, and
//! the list of its preferred nodes as it was last worked out.
//!
//! The list is as wide as the demand: calls in flight from here (Little's law measures them where they are counted), with
//! headroom, and wider by one node for every call that a full node refused lately. So gateways that share the
//! demand without talking to each other widen together, because they see the same refusals.

use arc_swap::ArcSwapOption;
use dunlin_api::{NodeName, Placement};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    MIN_PREFERRED,
    fleet::View,
    node::Mean,
    rendezvous::{RevisionKey, Seats},
};

/// Demand is an average over about this time.
const DEMAND: Duration = Duration::from_secs(10);
/// A refusal widens the list for about this time.
const SPILL: Duration = Duration::from_secs(30);
/// Slots kept free of the preferred nodes, as a factor.
const HEADROOM: f64 = 1.25;
/// Run times seen before nodes are compared by them.
const ENOUGH: f64 = 32.0;
/// How long a node that was not ready is left out: about as long as loading takes.
const UNREADY: Duration = Duration::from_millis(500);
/// Nodes that are remembered as not ready; the oldest is forgotten first.
const MAX_UNREADY: usize = 16;

/// The state of one revision.
#[derive(Debug, Default)]
pub(super) struct RevisionState {
    in_flight: AtomicU32,
    /// `f64`s as bits, written under `clock`: calls in flight on average, nodes to add for refusals.
    demand: AtomicU64,
    spill: AtomicU64,
    clock: Mutex<Option<Instant>>,
    run_time: Mutex<Mean>,
    any_unready: AtomicBool,
    unready: Mutex<Vec<(NodeName, Instant)>>,
    list: ArcSwapOption<List>,
}

/// The preferred nodes of a revision in one view.
#[derive(Debug)]
pub(super) struct List {
    version: u64,
    placement: Placement,
    /// How many nodes fit, and their slots on average.
    fitting: usize,
    mean_slots: f64,
    pub(super) preferred: Seats,
}

impl RevisionState {
    /// The preferred nodes and how many of them to use. Worked out anew when the view or the placement changed, or when
    /// more nodes are needed: then twice as many, so that a list that grows by single nodes is seldom worked out.
    pub(super) fn list(&self, view: &View, revision: RevisionKey, placement: &Placement) -> (Arc<List>, usize) {
        if let Some(list) = &*self.list.load()
            && list.version == view.version
            && list.placement == *placement
        {
            let width = self.width(list.fitting, list.mean_slots);
            if width <= list.preferred.len() {
                return (list.clone(), width);
            }
        }
        let seats = view.fitting(placement);
        let fitting = seats.len();
        let mean_slots = seats.slots(fitting) as f64 / fitting.max(1) as f64;
        let width = self.width(fitting, mean_slots);
        let preferred = seats.preferred(&view.nodes, revision, width.next_power_of_two());
        let list = List { version: view.version, placement: placement.clone(), fitting, mean_slots, preferred };
        let list = Arc::new(list);
        self.list.store(Some(list.clone()));
        (list, width)
    }

    fn width(&self, fitting: usize, mean_slots: f64) -> usize {
        let nodes = load(&self.demand) * HEADROOM / mean_slots.max(1.0);
        // Saturates: demand is finite and mean_slots at least 1.
        let nodes = (nodes.ceil() + load(&self.spill).round()) as usize;
        nodes.max(MIN_PREFERRED).min(fitting)
    }

    pub(super) fn sent(&self, now: Instant) {
        let others = f64::from(self.in_flight.fetch_add(1, Relaxed));
        // Arrivals see what is there on average; a sample is skipped when another thread is adding one.
        let Ok(mut clock) = self.clock.try_lock() else { return };
        let passed = self.advance(&mut clock, now);
        let before = load(&self.demand);
        let share = 1.0 - (-passed / DEMAND.as_secs_f64()).exp();
        store(&self.demand, before + (others - before) * share);
    }

    pub(super) fn ended(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// A full node refused a call.
    pub(super) fn refused(&self, nodes: usize, now: Instant) {
        let Ok(mut clock) = self.clock.try_lock() else { return };
        self.advance(&mut clock, now);
        store(&self.spill, (load(&self.spill) + 1.0).min(nodes as f64));
    }

    /// Lets the time since the last event pass, and returns it in seconds.
    fn advance(&self, clock: &mut Option<Instant>, now: Instant) -> f64 {
        let passed = clock.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        *clock = (*clock).max(Some(now));
        store(&self.spill, load(&self.spill) * (-passed / SPILL.as_secs_f64()).exp());
        passed
    }

    /// A call ran for `time`; returns how far that is from the usual, as a natural logarithm, once the usual is known.
    /// Logarithms, because a mean of run times follows the few longest.
    pub(super) fn ran(&self, time: Duration) -> Option<f64> {
        let log = time.as_secs_f64().max(1e-6).ln();
        let mut usual = self.run_time.try_lock().ok()?;
        let ratio = (usual.count >= ENOUGH).then(|| log - usual.value);
        usual.add(log);
        ratio
    }

    /// `node` cannot run it now.
    pub(super) fn not_ready(&self, node: NodeName, now: Instant) {
        let mut unready = self.unready.lock().unwrap_or_else(PoisonError::into_inner);
        unready.retain(|(known, until)| *known != node && now < *until);
        if unready.len() == MAX_UNREADY {
            unready.remove(0);
        }
        unready.push((node, now + UNREADY));
        self.any_unready.store(true, Relaxed);
    }

    pub(super) fn is_unready(&self, node: &NodeName, now: Instant) -> bool {
        if !self.any_unready.load(Relaxed) {
            return false;
        }
        let mut unready = self.unready.lock().unwrap_or_else(PoisonError::into_inner);
        unready.retain(|(_, until)| now < *until);
        self.any_unready.store(!unready.is_empty(), Relaxed);
        unready.iter().any(|(known, _)| known == node)
    }
}

fn load(bits: &AtomicU64) -> f64 {
    f64::from_bits(bits.load(Relaxed))
}

fn store(bits: &AtomicU64, value: f64) {
    bits.store(value.to_bits(), Relaxed);
}
