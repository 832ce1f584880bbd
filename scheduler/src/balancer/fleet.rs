//! The live nodes as one immutable view, swapped whole when the membership changes; what was seen of a node that stays
//! is kept. Holds ejections to half of the nodes: beyond that the fault is more likely here than there.

use arc_swap::{ArcSwap, Guard};
use dunlin_api::{NodeName, Placement};
use quick_cache::sync::Cache;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{
    Candidate,
    health::Failure,
    node::{Counters, Node},
    rendezvous::Seats,
};

/// Placements whose nodes are remembered in a view.
const PLACEMENTS: usize = 1_024;

/// The nodes at one moment.
#[derive(Debug)]
pub(super) struct View {
    pub(super) version: u64,
    pub(super) nodes: Vec<Arc<Node>>,
    by_name: HashMap<NodeName, u32>,
    fitting: Cache<Placement, Arc<Seats>>,
}

impl View {
    fn new(version: u64, nodes: Vec<Arc<Node>>) -> Self {
        let by_name = (0..).zip(&nodes).map(|(index, node)| (node.candidate.node.clone(), index)).collect();
        Self { version, nodes, by_name, fitting: Cache::new(PLACEMENTS) }
    }

    pub(super) fn index(&self, name: &NodeName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, name: &NodeName) -> Option<&Arc<Node>> {
        self.index(name).map(|index| self.at(index))
    }

    pub(super) fn at(&self, index: u32) -> &Arc<Node> {
        &self.nodes[index as usize]
    }

    /// The serving nodes that fit `placement`.
    pub(super) fn fitting(&self, placement: &Placement) -> Arc<Seats> {
        if let Some(known) = self.fitting.get(placement) {
            return known;
        }
        let fits = |(_, node): &(u32, &Arc<Node>)| node.serves() && node.candidate.fits(placement);
        let fitting = (0..).zip(&self.nodes).filter(fits).map(|(index, _)| index);
        let seats = Arc::new(Seats::new(&self.nodes, fitting));
        self.fitting.insert(placement.clone(), seats.clone());
        seats
    }
}

/// The current view.
#[derive(Debug)]
pub(super) struct Fleet {
    view: ArcSwap<View>,
    /// Held while nodes change or are ejected: both are rare.
    changing: Mutex<()>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { view: ArcSwap::from_pointee(View::new(0, Vec::new())), changing: Mutex::new(()) }
    }
}

impl Fleet {
    pub(super) fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Makes `candidates` the live nodes. One that joined again is a new one.
    pub(super) fn update(&self, candidates: Vec<Candidate>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.view.load();
        let keep = |candidate: Candidate| match before.get(&candidate.node) {
            Some(known) if known.candidate == candidate => known.clone(),
            Some(known) if known.candidate.joined == candidate.joined => {
                Arc::new(Node { candidate, counters: known.counters.clone() })
            }
            _ => Arc::new(Node { counters: Arc::new(Counters::new(candidate.joined)), candidate }),
        };
        let view = View::new(before.version + 1, candidates.into_iter().map(keep).collect());
        limit_ejections(&view);
        self.view.store(Arc::new(view));
    }

    /// A call failed at the node of `counters`.
    pub(super) fn failed(&self, counters: &Counters, failure: Failure, now: Instant) {
        if counters.health.failed(failure, now) {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            limit_ejections(&self.view.load());
        }
    }
}

/// Releases the nodes whose ejections end first until no more than half are ejected. Ejections that are over come first
/// and harmlessly, so that this needs no clock.
fn limit_ejections(view: &View) {
    let serving = view.nodes.iter().filter(|node| node.serves());
    let health = serving.clone().map(|node| &node.counters.health);
    let mut ejected: Vec<_> = health.filter_map(|health| health.ejected_until().map(|until| (until, health))).collect();
    let excess = ejected.len().saturating_sub(serving.count() / 2);
    ejected.sort_by_key(|(until, _)| *until);
    ejected.iter().take(excess).for_each(|(_, health)| health.release());
}
