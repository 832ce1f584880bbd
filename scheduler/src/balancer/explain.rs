//! What the balancer makes of each node for one call: the answer to `why FUNCTION`.

use dunlin_api::NodeName;
use serde::Serialize;
use std::{sync::Arc, time::Duration};

use super::{node::Node, pick::Search};

/// One node as the balancer sees it for one call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The node.
    pub node: NodeName,
    /// Its place in the revision's order, from 1, if the revision prefers it now.
    pub preferred: Option<usize>,
    /// Its weight.
    pub slots: u32,
    /// Calls in flight there: the best guess.
    pub in_flight: u32,
    /// Calls of this gateway among them.
    pub own: u32,
    /// How fast it runs calls; 1 = as the others do.
    pub speed: f64,
    /// The share of its weight it has so soon after it joined or came back; 1 = all.
    pub warmth: f64,
    /// (`in_flight` + 1) ÷ (`slots` × `speed` × `warmth`): the lowest wins. None where it cannot be chosen.
    pub score: Option<f64>,
    /// Whether it can be chosen, or why not.
    pub verdict: Verdict,
}

/// Whether a node can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It can: this node, without a hop.
    Here,
    /// It can.
    Preferred,
    /// It can if the preferred ones do not take the call.
    Reserve,
    /// It runs no functions.
    NoWorker,
    /// It is draining.
    Draining,
    /// It is not where the function may run.
    Misplaced,
    /// The call was there before.
    Tried,
    /// The revision is not ready there.
    NotReady,
    /// It failed and is left out for so long.
    Ejected(Duration),
}

impl Search<'_> {
    pub(super) fn explain(&self) -> Vec<Explanation> {
        let (list, width) = self.revision.list(self.view, self.ask.revision, self.ask.placement);
        let order: Vec<_> = list.preferred.first(width).collect();
        let here = self.score_here(&list.preferred, width, false);
        let mut explained: Vec<_> = (0..)
            .zip(&self.view.nodes)
            .map(|(index, node)| self.explain_node(node, order.iter().position(|i| *i == index), here))
            .collect();
        explained.sort_by(|a, b| {
            (a.preferred.is_none(), a.preferred, &a.node).cmp(&(b.preferred.is_none(), b.preferred, &b.node))
        });
        explained
    }

    fn explain_node(&self, node: &Arc<Node>, position: Option<usize>, here: Option<f64>) -> Explanation {
        let counters = &node.counters;
        let is_here = node.candidate.node == *self.here;
        let verdict = self.verdict(node, position.is_some(), here.is_some());
        let score = match verdict {
            Verdict::Here => here,
            Verdict::Preferred | Verdict::Reserve => Some(node.score(self.now, self.config.slow_start)),
            _ => None,
        };
        let load_here = self.ask.here.filter(|_| is_here).map(|here| here.load.in_flight);
        Explanation {
            node: node.candidate.node.clone(),
            preferred: position.map(|position| position + 1),
            slots: node.candidate.slots,
            in_flight: load_here.unwrap_or(counters.in_flight()),
            own: load_here.map_or(counters.own(), |_| 0),
            speed: counters.speed(),
            warmth: counters.health.warmth(self.now, self.config.slow_start),
            score,
            verdict,
        }
    }

    fn verdict(&self, node: &Node, preferred: bool, here: bool) -> Verdict {
        let name = &node.candidate.node;
        let ejected = node.counters.health.ejected_until().filter(|until| self.now < *until);
        match () {
            () if !node.candidate.worker || node.candidate.slots == 0 => Verdict::NoWorker,
            () if node.candidate.draining => Verdict::Draining,
            () if !node.candidate.fits(self.ask.placement) => Verdict::Misplaced,
            () if self.ask.tried.contains(name) => Verdict::Tried,
            () if name == self.here && here => Verdict::Here,
            () if name == self.here || self.revision.is_unready(name, self.now) => Verdict::NotReady,
            () => match ejected {
                Some(until) => Verdict::Ejected(until.duration_since(self.now)),
                None if preferred => Verdict::Preferred,
                None => Verdict::Reserve,
            },
        }
    }
}
