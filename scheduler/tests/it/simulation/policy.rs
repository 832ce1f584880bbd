//! A gateway of the simulation: the production balancer, or what it is compared with.

use dunlin_api::{NodeName, Placement};
use dunlin_scheduler::balancer::{Ask, Balancer, BalancerConfig, Candidate, Choice, Here, RevisionKey, Sent};
use rand::{Rng, RngExt};
use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use super::world::NodeModel;

const REVISION: RevisionKey = RevisionKey(7);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// The code that serves.
    Production,
    /// By slots, blindly: a weighted subject mapping.
    WeightedRandom,
    /// The better of two by what this gateway has in flight.
    TwoChoices,
    /// The shortest queue with perfect knowledge of every queue and speed: what cannot be had.
    Shortest,
}

pub(super) enum Pick {
    Here,
    There(usize),
    Nowhere,
}

pub(super) struct Gateway {
    balancer: Balancer,
    /// The node it stands on, if that is a worker.
    on: Option<usize>,
    names: HashMap<NodeName, usize>,
    placement: Placement,
    /// Calls in flight to each node, for [`Policy::TwoChoices`].
    own: Vec<u32>,
}

impl Gateway {
    pub(super) fn new(index: usize, on_worker: bool, nodes: &[NodeModel], joined: Instant) -> Self {
        let name = if on_worker { nodes[index].name.clone() } else { format!("gateway-{index}").parse().unwrap() };
        let gateway = Self {
            balancer: Balancer::new(name, BalancerConfig::default()),
            on: on_worker.then_some(index),
            names: nodes.iter().enumerate().map(|(i, node)| (node.name.clone(), i)).collect(),
            placement: Placement::default(),
            own: vec![0; nodes.len()],
        };
        gateway.update(nodes, joined);
        gateway
    }

    pub(super) fn update(&self, nodes: &[NodeModel], joined: Instant) {
        self.balancer.update(nodes.iter().map(|node| candidate(node.name.clone(), node.slots, joined)).collect());
    }

    pub(super) fn pick(
        &self,
        policy: Policy,
        nodes: &[NodeModel],
        tried: &[NodeName],
        last: bool,
        chance: &mut impl Rng,
        now: Instant,
    ) -> Pick {
        let least = |score: &dyn Fn(usize) -> f64, among: &mut dyn Iterator<Item = usize>| {
            Pick::There(among.min_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap())
        };
        match policy {
            Policy::Production => self.pick_production(nodes, tried, last, chance, now),
            Policy::WeightedRandom => Pick::There(by_slots(nodes, chance)),
            Policy::TwoChoices => {
                let two = [by_slots(nodes, chance), by_slots(nodes, chance)];
                least(&|i| f64::from(self.own[i] + 1) / f64::from(nodes[i].slots), &mut two.into_iter())
            }
            Policy::Shortest => {
                // From a random one on, so that equals share.
                let first = chance.random_range(0..nodes.len());
                least(&|i| nodes[i].true_score(), &mut (0..nodes.len()).map(|i| (first + i) % nodes.len()))
            }
        }
    }

    fn pick_production(
        &self,
        nodes: &[NodeModel],
        tried: &[NodeName],
        last: bool,
        chance: &mut impl Rng,
        now: Instant,
    ) -> Pick {
        let untried = self.on.filter(|on| !tried.contains(&nodes[*on].name));
        let here = untried.map(|on| Here { load: nodes[on].load(), ready: true });
        let ask = Ask { revision: REVISION, placement: &self.placement, tried, here, last };
        match self.balancer.pick(&ask, chance, now) {
            Choice::Here => Pick::Here,
            Choice::There(node) => Pick::There(self.names[&node]),
            Choice::None(_) => Pick::Nowhere,
        }
    }

    pub(super) fn sent(&mut self, policy: Policy, node: usize, name: &NodeName, now: Instant) -> Option<Sent> {
        self.own[node] += 1;
        (policy == Policy::Production).then(|| self.balancer.sent(name, REVISION, now))
    }

    pub(super) fn ended(&mut self, node: usize) {
        self.own[node] -= 1;
    }

    pub(super) fn heard(&self, nodes: &[NodeModel]) {
        nodes.iter().for_each(|node| self.balancer.report(&node.name, node.load()));
    }
}

pub(super) fn candidate(node: NodeName, slots: u32, joined: Instant) -> Candidate {
    Candidate { node, slots, labels: BTreeMap::new(), zone: None, worker: true, draining: false, joined }
}

fn by_slots(nodes: &[NodeModel], chance: &mut impl Rng) -> usize {
    let mut point = chance.random_range(0..nodes.iter().map(|node| node.slots).sum());
    let passed = |node: &&NodeModel| {
        let within = point < node.slots;
        point = point.saturating_sub(node.slots);
        !within
    };
    nodes.iter().take_while(passed).count()
}
