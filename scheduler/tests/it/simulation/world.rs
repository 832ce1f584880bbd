//! A discrete-event simulation of gateways and nodes: virtual time, seeded chance, the production balancer.
//!
//! A node has `slots` servers and a queue, first come first served, of at most a quarter of them; beyond that it refuses at
//! once. Every answer and refusal carries its load, heartbeats carry it each second. A gateway goes elsewhere up to
//! three times after a refusal, then once to any node, where this last try may wait in a queue of up to `slots`; then
//! the call has failed. A message takes 0.15 ms.

use dunlin_api::{Load, NodeName};
use dunlin_scheduler::balancer::{Refused, Sent};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    outcome::Outcome,
    policy::{Gateway, Pick, Policy},
    scenario::Scenario,
};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;
const WIRE: u64 = 150_000;
/// First try, three others, and any node.
const TRIES: usize = 5;
/// Calls at the beginning that do not count: queues fill, widths and speeds are found.
const WARM_UP: f64 = 0.2;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    AtNode(usize),
    Done(usize),
    Refusal(usize, u32),
    Answer(usize, u32),
    Heartbeat,
    Spell(usize, bool),
    Change,
}

pub(super) struct NodeModel {
    pub(super) name: NodeName,
    pub(super) slots: u32,
    pub(super) speed: f64,
    slowed: bool,
    running: u32,
    queue: VecDeque<usize>,
    on_the_way: u32,
    pub(super) served: u64,
}

impl NodeModel {
    fn new(index: usize, slots: u32, speed: f64) -> Self {
        let name = format!("node-{index}").parse().unwrap();
        Self { name, slots, speed, slowed: false, running: 0, queue: VecDeque::new(), on_the_way: 0, served: 0 }
    }

    fn in_flight(&self) -> u32 {
        self.running + self.queue.len() as u32
    }

    pub(super) fn load(&self) -> Load {
        Load { in_flight: self.in_flight(), slots: self.slots }
    }

    /// What only perfect knowledge knows.
    pub(super) fn true_score(&self) -> f64 {
        let speed = if self.slowed { self.speed / 3.0 } else { self.speed };
        f64::from(self.in_flight() + self.on_the_way + 1) / (f64::from(self.slots) * speed)
    }
}

#[derive(Default)]
struct Call {
    arrived: u64,
    work: f64,
    gateway: usize,
    node: usize,
    local: bool,
    run_time: u64,
    tried: Vec<NodeName>,
    sent: Option<Sent>,
    counts: bool,
}

pub(super) struct World<'a> {
    scenario: &'a Scenario,
    policy: Policy,
    start: Instant,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    nodes: Vec<NodeModel>,
    gateways: Vec<Gateway>,
    calls: Vec<Call>,
    free: Vec<usize>,
    arrivals: u64,
    /// The same arrivals for every policy; its own chance for each choice.
    nature: Xoshiro256PlusPlus,
    chance: Xoshiro256PlusPlus,
    outcome: Outcome,
}

pub(super) fn run(scenario: &Scenario, policy: Policy) -> Outcome {
    let start = Instant::now();
    let slots = scenario.slots();
    let nodes: Vec<_> =
        slots.iter().enumerate().map(|(i, slots)| NodeModel::new(i, *slots, scenario.speed(i))).collect();
    let gateways = (0..scenario.gateways).map(|i| Gateway::new(i, scenario.on_workers, &nodes, start)).collect();
    let mut world = World {
        scenario,
        policy,
        start: start + Duration::from_secs(100),
        now: 0,
        events: BinaryHeap::new(),
        sequence: 0,
        nodes,
        gateways,
        calls: Vec::new(),
        free: Vec::new(),
        arrivals: 0,
        nature: Xoshiro256PlusPlus::seed_from_u64(scenario.seed),
        chance: Xoshiro256PlusPlus::seed_from_u64(scenario.seed + 1),
        outcome: Outcome::default(),
    };
    world.run();
    world.outcome
}

impl World<'_> {
    fn run(&mut self) {
        self.after(0, Event::Arrival);
        self.after(SECOND, Event::Heartbeat);
        if self.scenario.spells {
            (0..self.nodes.len()).for_each(|node| self.next_spell(node));
        }
        if self.scenario.changes {
            self.after((self.scenario.duration() * 0.5 * SECOND as f64) as u64, Event::Change);
        }
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Arrival => self.arrival(),
                Event::AtNode(call) => self.at_node(call),
                Event::Done(call) => self.done(call),
                Event::Refusal(call, in_flight) => self.refused(call, in_flight),
                Event::Answer(call, in_flight) => self.answered(call, in_flight),
                Event::Heartbeat => self.heartbeat(),
                Event::Spell(node, slow) => self.spell(node, slow),
                Event::Change => self.change(),
            }
            if self.arrivals == self.scenario.calls as u64 && self.free.len() == self.calls.len() {
                break;
            }
        }
        self.keep_served();
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.now + delay, self.sequence, event)));
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_nanos(self.now)
    }

    fn arrival(&mut self) {
        self.arrivals += 1;
        let work = self.scenario.work.sample(&mut self.nature);
        let gateway = self.nature.random_range(0..self.gateways.len());
        let counts = self.arrivals as f64 > WARM_UP * self.scenario.calls as f64;
        let call = Call { arrived: self.now, work, gateway, counts, ..Call::default() };
        let index = self.free.pop().unwrap_or_else(|| {
            self.calls.push(Call::default());
            self.calls.len() - 1
        });
        self.calls[index] = call;
        self.outcome.calls += u64::from(counts);
        self.dispatch(index);
        if self.arrivals < self.scenario.calls as u64 {
            let gap = -(1.0 - self.nature.random::<f64>()).ln() / self.scenario.rate();
            self.after((gap * SECOND as f64) as u64, Event::Arrival);
        }
    }

    fn dispatch(&mut self, index: usize) {
        let now = self.instant();
        let call = &mut self.calls[index];
        if call.tried.len() == TRIES {
            self.outcome.failures += u64::from(call.counts);
            self.free.push(index);
            return;
        }
        let last = call.tried.len() + 1 == TRIES;
        let gateway = &mut self.gateways[call.gateway];
        let picked = gateway.pick(self.policy, &self.nodes, &call.tried, last, &mut self.chance, now);
        match picked {
            Pick::Here => {
                (call.node, call.local) = (call.gateway, true);
                call.sent = gateway.sent(self.policy, call.node, &self.nodes[call.node].name, now);
                self.at_node(index);
            }
            Pick::There(node) => {
                (call.node, call.local) = (node, false);
                call.sent = gateway.sent(self.policy, node, &self.nodes[node].name, now);
                self.nodes[node].on_the_way += 1;
                self.after(WIRE, Event::AtNode(index));
            }
            Pick::Nowhere => {
                self.outcome.failures += u64::from(call.counts);
                self.free.push(index);
            }
        }
    }

    fn at_node(&mut self, index: usize) {
        let call = &self.calls[index];
        let node = &mut self.nodes[call.node];
        let last = self.scenario.last_waits && call.tried.len() + 1 == TRIES;
        let room = match self.policy {
            Policy::Production if last => node.slots,
            Policy::Production => node.slots / 4,
            // Those that cannot go elsewhere need queues without end.
            _ => u32::MAX,
        };
        node.on_the_way -= u32::from(!call.local);
        if node.running < node.slots {
            self.start(index);
        } else if (node.queue.len() as u32) < room {
            node.queue.push_back(index);
        } else {
            let in_flight = node.in_flight();
            self.back(index, Event::Refusal(index, in_flight));
        }
    }

    fn back(&mut self, index: usize, event: Event) {
        let delay = if self.calls[index].local { 0 } else { WIRE };
        self.after(delay, event);
    }

    fn start(&mut self, index: usize) {
        let call = &mut self.calls[index];
        let node = &mut self.nodes[call.node];
        let speed = if node.slowed { node.speed / 3.0 } else { node.speed };
        node.running += 1;
        call.run_time = (call.work / speed * MILLISECOND as f64) as u64;
        let run_time = call.run_time;
        self.after(run_time, Event::Done(index));
    }

    fn done(&mut self, index: usize) {
        let node = &mut self.nodes[self.calls[index].node];
        node.running -= 1;
        node.served += 1;
        let next = if node.running < node.slots { node.queue.pop_front() } else { None };
        if let Some(next) = next {
            self.start(next);
        }
        let in_flight = self.nodes[self.calls[index].node].in_flight();
        self.back(index, Event::Answer(index, in_flight));
    }

    fn refused(&mut self, index: usize, in_flight: u32) {
        let now = self.instant();
        let call = &mut self.calls[index];
        let node = &self.nodes[call.node];
        self.outcome.refusals += u64::from(call.counts);
        call.tried.push(node.name.clone());
        self.gateways[call.gateway].ended(call.node);
        if let Some(sent) = call.sent.take() {
            sent.refused(Some(Load { in_flight, slots: node.slots }), Refused::Busy, now);
        }
        self.dispatch(index);
    }

    fn answered(&mut self, index: usize, in_flight: u32) {
        let now = self.instant();
        let call = &mut self.calls[index];
        self.gateways[call.gateway].ended(call.node);
        if let Some(sent) = call.sent.take() {
            let load = Load { in_flight, slots: self.nodes[call.node].slots };
            sent.answered(Some(load), Duration::from_nanos(call.run_time), now);
        }
        if call.counts {
            let middle = self.scenario.duration() * (1.0 + WARM_UP) / 2.0 * SECOND as f64;
            let half = if (call.arrived as f64) < middle { &mut self.outcome.early } else { &mut self.outcome.late };
            half.push((self.now - call.arrived) as f32 / MILLISECOND as f32);
            self.outcome.local += u64::from(call.local);
        }
        self.free.push(index);
    }

    fn heartbeat(&mut self) {
        for gateway in &self.gateways {
            gateway.heard(&self.nodes);
        }
        self.after(SECOND, Event::Heartbeat);
    }

    fn next_spell(&mut self, node: usize) {
        let wait = -(1.0 - self.nature.random::<f64>()).ln() * 10.0;
        self.after((wait * SECOND as f64) as u64, Event::Spell(node, true));
    }

    fn spell(&mut self, node: usize, slow: bool) {
        self.nodes[node].slowed = slow;
        if slow {
            self.after(SECOND, Event::Spell(node, false));
        } else {
            self.next_spell(node);
        }
    }

    /// The large nodes become smaller and the small ones larger.
    fn change(&mut self) {
        self.keep_served();
        for node in &mut self.nodes {
            node.slots = 8;
        }
        let joined = self.start;
        self.gateways.iter().for_each(|gateway| gateway.update(&self.nodes, joined - Duration::from_secs(100)));
    }

    fn keep_served(&mut self) {
        self.outcome.served.push(self.nodes.iter_mut().map(|node| std::mem::take(&mut node.served)).collect());
    }
}
