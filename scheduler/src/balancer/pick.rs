//! One choice: sample, score, compare with here. Reads atomics and makes nothing on the heap.

use rand::Rng;
use std::time::Instant;

use dunlin_api::NodeName;

use super::{
    Ask, BalancerConfig, Choice, Nowhere, fleet::View, node::Node, rendezvous::Seats, revision::RevisionState,
};

/// Nodes compared for one try. With two, slow nodes and many gateways triple the waiting; with all of them every
/// gateway runs to the same one.
const SAMPLES: usize = 3;
/// Draws for them: some are of nodes that were drawn, tried or left out before.
const DRAWS: usize = 4 * SAMPLES;

/// One ask over one view.
pub(super) struct Search<'a> {
    pub(super) view: &'a View,
    pub(super) revision: &'a RevisionState,
    pub(super) ask: &'a Ask<'a>,
    pub(super) here: &'a NodeName,
    pub(super) config: BalancerConfig,
    pub(super) now: Instant,
}

/// The lowest score so far.
#[derive(Default)]
struct Best<'a>(Option<(f64, &'a NodeName)>);

impl<'a> Best<'a> {
    fn offer(&mut self, score: f64, node: &'a Node) {
        if self.0.is_none_or(|(least, _)| score < least) {
            self.0 = Some((score, &node.candidate.node));
        }
    }
}

impl<'a> Search<'a> {
    pub(super) fn pick(&self, rng: &mut impl Rng) -> Choice {
        let (list, width) = self.revision.list(self.view, self.ask.revision, self.ask.placement);
        let preferred = if self.ask.last { None } else { self.best(&list.preferred, width, rng) };
        let there = preferred.or_else(|| {
            let fitting = self.view.fitting(self.ask.placement);
            self.best(&fitting, fitting.len(), rng).or_else(|| self.least_bad(&fitting))
        });
        let here = self.score_here(&list.preferred, width, there.is_none());
        match (here, there) {
            (Some(here), Some((score, _))) if here <= score + self.config.hop_margin => Choice::Here,
            (Some(_), None) => Choice::Here,
            (_, Some((_, node))) => Choice::There(node.clone()),
            (None, None) => Choice::None(self.nowhere()),
        }
    }

    /// The least loaded of some of the first `width` seats.
    fn best(&self, seats: &Seats, width: usize, rng: &mut impl Rng) -> Option<(f64, &'a NodeName)> {
        let mut best = Best::default();
        if width <= SAMPLES {
            seats.first(width).for_each(|index| self.consider(index, &mut best));
            return best.0;
        }
        let mut seen = [u32::MAX; SAMPLES];
        let mut count = 0;
        for _ in 0..DRAWS {
            let Some(index) = seats.draw(width, rng.next_u64()) else { break };
            if seen.contains(&index) || !self.admits(self.view.at(index)) {
                continue;
            }
            seen[count] = index;
            self.consider(index, &mut best);
            count += 1;
            if count == SAMPLES {
                break;
            }
        }
        if count == 0 {
            // Nearly all are left out: look at each.
            seats.first(width).for_each(|index| self.consider(index, &mut best));
        }
        best.0
    }

    fn consider(&self, index: u32, best: &mut Best<'a>) {
        let node = self.view.at(index);
        if self.admits(node) {
            best.offer(node.score(self.now, self.config.slow_start), node);
        }
    }

    fn admits(&self, node: &Node) -> bool {
        self.is_open(node) && !node.counters.health.is_ejected(self.now)
    }

    /// Whether the call could go to `node`, healthy or not.
    pub(super) fn is_open(&self, node: &Node) -> bool {
        let name = &node.candidate.node;
        // The last node may load the revision for the call.
        let ready = || self.ask.last || !self.revision.is_unready(name, self.now);
        name != self.here && !self.ask.tried.contains(name) && ready()
    }

    /// When only ejected nodes are left: the one that would be back first.
    fn least_bad(&self, fitting: &Seats) -> Option<(f64, &'a NodeName)> {
        let nodes = fitting.first(fitting.len()).map(|index| self.view.at(index));
        let open = nodes.filter(|node| self.is_open(node));
        let first = open.min_by_key(|node| node.counters.health.ejected_until())?;
        Some((first.score(self.now, self.config.slow_start), &first.candidate.node))
    }

    /// The score of this node, if it is a candidate. One that would have to load the revision first is one only where the
    /// revision belongs, or if there is no other.
    pub(super) fn score_here(&self, preferred: &Seats, width: usize, only: bool) -> Option<f64> {
        let here = self.ask.here?;
        let node = self.view.index(self.here);
        let fits = node.is_none_or(|index| self.view.at(index).candidate.fits(self.ask.placement));
        let belongs = || preferred.first(width).any(|index| Some(index) == node);
        if !fits || !(here.ready || only || belongs()) {
            return None;
        }
        let known = node.map(|index| self.view.at(index).capacity(self.now, self.config.slow_start));
        let capacity = known.unwrap_or(f64::from(here.load.slots.max(1)));
        Some(f64::from(here.load.in_flight.saturating_add(1)) / capacity)
    }

    fn nowhere(&self) -> Nowhere {
        if self.view.fitting(self.ask.placement).len() > 0 {
            Nowhere::NoneLeft
        } else if self.view.nodes.iter().any(|node| node.serves()) {
            Nowhere::NoneFits
        } else {
            Nowhere::NoWorker
        }
    }
}
