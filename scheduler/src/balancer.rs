//! Chooses the node for each try of a call: the least loaded of a few samples, by what nodes last said of themselves.
//!
//! The router asks [`Balancer::pick`], tells it what was [`sent`](Balancer::sent) and how that ended; the membership
//! brings the live nodes ([`Balancer::update`]) and their [reports](Balancer::report). Nothing here does I/O, reads a clock or
//! has randomness of its own, so `tests/it/simulation.rs` runs this very code: it stays within 10 % of perfect
//! knowledge however many gateways choose without talking to each other, as long as a full node refuses at once.
//!
//! * A revision prefers the first nodes of its weighted [rendezvous](Balancer::preferred), so that code stays warm on few; as
//!   many as its demand needs.
//! * The score of a node is (calls in flight there + 1) ÷ (slots × speed); the lowest of three samples drawn by slots wins, and
//!   this node wins unless the other is better by more than a hop is worth.
//! * Nodes that fail are left out for a while, those that come back begin with little.
//!
//! Bounds: [`REVISIONS`] revisions are remembered, the least used forgotten first; about 200 bytes a node and 500 a revision.

mod budget;
mod explain;
mod fleet;
mod health;
mod node;
mod pick;
mod rendezvous;
mod revision;
mod sent;
#[cfg(test)]
mod tests;

pub use budget::RetryBudget;
pub use explain::{Explanation, Verdict};
pub use health::Failure;
pub use rendezvous::RevisionKey;
pub(crate) use rendezvous::place;
pub use sent::{Refused, Sent};

use dunlin_api::{Load, NodeName, Placement};
use quick_cache::sync::Cache;
use rand::Rng;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet::Fleet;
use node::Counters;
use pick::Search;
use revision::RevisionState;

/// Nodes that a revision prefers at least: one may be lost and one full, and the code is still warm.
pub const MIN_PREFERRED: usize = 3;
/// Revisions remembered by one gateway.
pub const REVISIONS: usize = 16_384;

/// What the membership knows of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub node: NodeName,
    /// Its weight: calls that it may run at once. 0 = none.
    pub slots: u32,
    /// What placements ask for.
    pub labels: BTreeMap<String, String>,
    /// Where it stands.
    pub zone: Option<String>,
    /// Whether it runs functions.
    pub worker: bool,
    /// Whether it takes no new calls.
    pub draining: bool,
    /// When it was first seen, by this gateway's clock: it starts slowly from there. Another time means another process.
    pub joined: Instant,
}

/// How the balancer weighs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalancerConfig {
    /// By how much another node's score must be lower than this node's: the price of a hop, in shares of a node's capacity.
    pub hop_margin: f64,
    /// How long the weight of a node grows after it joined or came back.
    pub slow_start: Duration,
}

impl Default for BalancerConfig {
    fn default() -> Self {
        Self { hop_margin: 0.25, slow_start: Duration::from_secs(10) }
    }
}

/// This node, if it could run the call itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// Its load at this moment.
    pub load: Load,
    /// Whether the revision can run here without being loaded first.
    pub ready: bool,
}

/// One try of a call that needs a node.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What is called.
    pub revision: RevisionKey,
    /// Where it may run.
    pub placement: &'a Placement,
    /// Nodes that were tried before.
    pub tried: &'a [NodeName],
    /// This node; none if it is no worker, is draining or was tried.
    pub here: Option<Here>,
    /// Whether no other try follows: then any node that fits will do, preferred or not.
    pub last: bool,
}

/// Where a try goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This node.
    Here,
    /// That one.
    There(NodeName),
    /// Nowhere.
    None(Nowhere),
}

/// Why there is no node for a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// No live node takes calls.
    #[error("no live node takes calls")]
    NoWorker,
    /// No live node is where the function may run.
    #[error("no live node has the labels and the zone that the function's `place` asks for")]
    NoneFits,
    /// All were tried, or are just making the revision ready.
    #[error("every node that fits was tried or is not ready")]
    NoneLeft,
}

/// Chooses nodes for the calls of one gateway. Shared by all its connections.
#[derive(Debug)]
pub struct Balancer {
    here: NodeName,
    config: BalancerConfig,
    fleet: Arc<Fleet>,
    revisions: Cache<RevisionKey, Arc<RevisionState>>,
}

impl Balancer {
    /// The balancer of the gateway on the node `here`, which knows no node yet.
    pub fn new(here: NodeName, config: BalancerConfig) -> Self {
        Self { here, config, fleet: Arc::default(), revisions: Cache::new(REVISIONS) }
    }

    /// Makes `nodes` the live ones; lost ones are absent. What was seen of a node that stays is kept.
    pub fn update(&self, nodes: Vec<Candidate>) {
        self.fleet.update(nodes);
    }

    /// The first `k` nodes that `revision` prefers, best first; at most those that fit. The same on every gateway that
    /// sees the same nodes.
    pub fn preferred(&self, revision: RevisionKey, placement: &Placement, k: usize) -> Vec<NodeName> {
        let view = self.fleet.view();
        let seats = view.fitting(placement).preferred(&view.nodes, revision, k);
        seats.first(k).map(|index| view.at(index).candidate.node.clone()).collect()
    }

    /// Where the next try of a call goes.
    pub fn pick(&self, ask: &Ask<'_>, rng: &mut impl Rng, now: Instant) -> Choice {
        let view = self.fleet.view();
        let revision = self.revision(ask.revision);
        Search { view: &view, revision: &revision, ask, here: &self.here, config: self.config, now }.pick(rng)
    }

    /// `node` said how busy it is.
    pub fn report(&self, node: &NodeName, load: Load) {
        if let Some(node) = self.fleet.view().get(node) {
            node.counters.report(load);
        }
    }

    /// A call goes to `node`, which may be this one: it counts as in flight there until the guard is dropped.
    pub fn sent(&self, node: &NodeName, revision: RevisionKey, now: Instant) -> Sent {
        // A node that was lost since it was chosen is counted where nobody looks.
        let known = self.fleet.view().get(node).map(|node| node.counters.clone());
        let counters = known.unwrap_or_else(|| Arc::new(Counters::new(now)));
        let revision = self.revision(revision);
        counters.sent();
        revision.sent(now);
        Sent { fleet: self.fleet.clone(), node: node.clone(), counters, revision }
    }

    /// What [`pick`](Self::pick) makes of every live node for `ask`: the preferred ones first, in their order.
    pub fn explain(&self, ask: &Ask<'_>, now: Instant) -> Vec<Explanation> {
        let view = self.fleet.view();
        let revision = self.revision(ask.revision);
        Search { view: &view, revision: &revision, ask, here: &self.here, config: self.config, now }.explain()
    }

    fn revision(&self, key: RevisionKey) -> Arc<RevisionState> {
        let made = self.revisions.get_or_insert_with(&key, || Ok::<_, std::convert::Infallible>(Arc::default()));
        made.unwrap_or_else(|never| match never {})
    }
}
