//! What is simulated: nodes, work, load.

use rand::{Rng, RngExt};

/// How long calls run, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// Exponential, 5 ms.
    Exponential,
    /// Exponential: 90 % with 1 ms, 9 % with 10 ms, 1 % with 100 ms.
    Heavy,
}

impl Work {
    fn mean(self) -> f64 {
        match self {
            Self::Exponential => 5.0,
            Self::Heavy => 0.9 + 0.9 + 1.0,
        }
    }

    pub(super) fn sample(self, chance: &mut impl Rng) -> f64 {
        let mean = match (self, chance.random::<f64>()) {
            (Self::Exponential, _) => 5.0,
            (Self::Heavy, kind) if kind < 0.9 => 1.0,
            (Self::Heavy, kind) if kind < 0.99 => 10.0,
            (Self::Heavy, _) => 100.0,
        };
        -(1.0 - chance.random::<f64>()).ln() * mean
    }
}

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) work: Work,
    /// Of what all nodes can do at their true speeds.
    pub(super) load: f64,
    /// A fifth of the nodes is secretly two times slower.
    pub(super) hidden: bool,
    /// Every node is three times slower for a second now and then.
    pub(super) spells: bool,
    /// At half time all nodes are given eight slots.
    pub(super) changes: bool,
    pub(super) gateways: usize,
    /// Each gateway stands on a worker, and so can run calls itself.
    pub(super) on_workers: bool,
    /// Whether a node lets the last try of a call wait in a queue as long as its slots; else as any other.
    pub(super) last_waits: bool,
    pub(super) calls: usize,
    pub(super) seed: u64,
}

impl Scenario {
    pub(super) fn new(work: Work, load: f64, gateways: usize) -> Self {
        let (hidden, spells, changes, on_workers, last_waits) = (false, false, false, false, true);
        Self { work, load, hidden, spells, changes, gateways, on_workers, last_waits, calls: 200_000, seed: 7 }
    }

    /// 20 unequal nodes.
    pub(super) fn slots(&self) -> Vec<u32> {
        [vec![16; 4], vec![8; 8], vec![4; 8]].concat()
    }

    pub(super) fn speed(&self, node: usize) -> f64 {
        if self.hidden && node.is_multiple_of(5) { 0.5 } else { 1.0 }
    }

    /// Calls a second.
    pub(super) fn rate(&self) -> f64 {
        let slots = self.slots();
        let capacity: f64 = slots.iter().enumerate().map(|(i, slots)| f64::from(*slots) * self.speed(i)).sum();
        self.load * capacity / self.work.mean() * 1_000.0
    }

    /// About how long it takes, in seconds.
    pub(super) fn duration(&self) -> f64 {
        self.calls as f64 / self.rate()
    }
}
