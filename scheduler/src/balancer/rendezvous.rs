//! Which nodes a revision prefers: weighted rendezvous hashing (Thaler and Ravishankar 1998; weights by the logarithmic
//! method of Schindelhauer and Schomaker 2005).
//!
//! Every gateway that sees the same nodes comes to the same order without asking anyone, and a node that leaves or joins
//! moves only what it had or gets. The hash is XXH3-64 of the node's name, seeded with the revision's key: its algorithm
//! is fixed by its specification, so gateways of different versions and machines agree.

use dunlin_api::{NodeName, Placement, Revision};
use std::sync::Arc;
use twox_hash::XxHash3_64;

use super::{Candidate, node::Node};

/// Names a revision of a function in the balancer: XXH3-64 of `<function>/<revision>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevisionKey(pub u64);

impl RevisionKey {
    /// The key of `revision`.
    pub fn of(revision: &Revision) -> Self {
        let function = XxHash3_64::oneshot(revision.function.as_str().as_bytes());
        Self(XxHash3_64::oneshot_with_seed(function, revision.id.as_str().as_bytes()))
    }
}

impl Candidate {
    /// Whether it is where the function may run.
    pub(super) fn fits(&self, placement: &Placement) -> bool {
        placement.fits(&self.labels, self.zone.as_deref())
    }
}

/// Nodes of a view in an order, by their index, with their weights added up: a number below the sum draws a node by weight.
#[derive(Debug, Default)]
pub(super) struct Seats(Box<[Seat]>);

#[derive(Clone, Copy, Debug)]
struct Seat {
    sum: u64,
    node: u32,
}

impl Seats {
    pub(super) fn new(nodes: &[Arc<Node>], order: impl Iterator<Item = u32>) -> Self {
        let mut sum = 0;
        let seat = |node| {
            sum += u64::from(nodes[node as usize].candidate.slots);
            Seat { sum, node }
        };
        Self(order.map(seat).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first `width` nodes.
    pub(super) fn first(&self, width: usize) -> impl Iterator<Item = u32> {
        self.0.iter().take(width).map(|seat| seat.node)
    }

    /// The slots of the first `width` nodes.
    pub(super) fn slots(&self, width: usize) -> u64 {
        width.min(self.len()).checked_sub(1).map_or(0, |last| self.0[last].sum)
    }

    /// One of the first `width` nodes by weight; `random` is uniform.
    pub(super) fn draw(&self, width: usize, random: u64) -> Option<u32> {
        // The high half of the product is below the sum, and uniform but for one part in 2⁶⁴ ÷ sum.
        let point = ((u128::from(random) * u128::from(self.slots(width))) >> 64) as u64;
        self.0.get(self.0.partition_point(|seat| seat.sum <= point)).map(|seat| seat.node)
    }

    /// The `width` of them that `revision` prefers, best first.
    pub(super) fn preferred(&self, nodes: &[Arc<Node>], revision: RevisionKey, width: usize) -> Self {
        let candidate = |seat: &Seat| &nodes[seat.node as usize].candidate;
        let mut ranked: Vec<_> = self.0.iter().map(|seat| (rank(revision, candidate(seat)), seat)).collect();
        let by_rank = |a: &(f64, &Seat), b: &(f64, &Seat)| {
            // Should two ranks be equal, names decide: the same everywhere.
            b.0.total_cmp(&a.0).then_with(|| candidate(a.1).node.cmp(&candidate(b.1).node))
        };
        if (1..ranked.len()).contains(&width) {
            ranked.select_nth_unstable_by(width - 1, by_rank);
            ranked.truncate(width);
        }
        ranked.sort_unstable_by(by_rank);
        Self::new(nodes, ranked.iter().map(|(_, seat)| seat.node))
    }
}

/// −weight ÷ ln(h) for a hash h in (0, 1): the greatest of a set belongs to each node with a chance by its weight.
fn rank(revision: RevisionKey, candidate: &Candidate) -> f64 {
    let hash = XxHash3_64::oneshot_with_seed(revision.0, candidate.node.as_str().as_bytes());
    // 52 bits and a half are exact in an f64, and the half keeps h off 0 and 1.
    let unit = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    -f64::from(candidate.slots) / unit.ln()
}

/// The place of `me` among `nodes` for `key`, 0 for the first, where all weigh the same; none if it is not among them.
pub(crate) fn place(key: &str, nodes: &[NodeName], me: &NodeName) -> Option<usize> {
    let seed = XxHash3_64::oneshot(key.as_bytes());
    let rank = |node: &NodeName| (XxHash3_64::oneshot_with_seed(seed, node.as_str().as_bytes()), node.clone());
    let mine = rank(me);
    nodes.contains(me).then(|| nodes.iter().filter(|node| rank(node) > mine).count())
}
