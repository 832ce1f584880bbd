//! What a gateway knows of one node, in atomics: calls read and write it without waiting for each other.
//!
//! The load is what the node last reported plus what was sent to it since, and never less than what this gateway has in
//! flight there. The speed is learned from the run times of its answers against those of the fleet for the same
//! revision. About 200 bytes a node.

use dunlin_api::Load;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{Candidate, health::Health};

/// Answers that a mean remembers. Run times are spread wide: fewer would be noise, more would miss a node that got slow.
const MEMORY: f64 = 256.0;
/// As many answers that say "as fast as the others" are assumed beforehand, so that few samples move little.
const PRIOR: f64 = 32.0;
/// A factor above 4 is more likely an artefact than a machine.
const SPEED_LIMIT: f64 = 4.0;

/// A mean that forgets slowly.
#[derive(Debug, Default)]
pub(super) struct Mean {
    pub(super) count: f64,
    pub(super) value: f64,
}

impl Mean {
    pub(super) fn add(&mut self, sample: f64) {
        self.count = (self.count + 1.0).min(MEMORY);
        self.value += (sample - self.value) / self.count;
    }
}

/// The counters of one node, kept as long as it stays.
#[derive(Debug)]
pub(super) struct Counters {
    in_flight: AtomicU32,
    /// Calls in flight by the last report in the upper half, sent since in the lower: both change at once.
    reported: AtomicU64,
    /// An `f64` as bits.
    speed: AtomicU64,
    ratio: Mutex<Mean>,
    pub(super) health: Health,
}

impl Counters {
    /// Those of a node that joined at `joined`.
    pub(super) fn new(joined: Instant) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            reported: AtomicU64::new(0),
            speed: AtomicU64::new(1.0_f64.to_bits()),
            ratio: Mutex::default(),
            health: Health::new(joined),
        }
    }

    pub(super) fn report(&self, load: Load) {
        self.reported.store(u64::from(load.in_flight) << 32, Relaxed);
    }

    pub(super) fn sent(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.reported.fetch_add(1, Relaxed);
    }

    pub(super) fn ended(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// This gateway's own calls in flight there.
    pub(super) fn own(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The best guess of all calls in flight there.
    pub(super) fn in_flight(&self) -> u32 {
        let reported = self.reported.load(Relaxed);
        let sum = (reported >> 32).saturating_add(reported & u64::from(u32::MAX));
        u32::try_from(sum).unwrap_or(u32::MAX).max(self.own())
    }

    /// How fast it runs calls; 1 = as the fleet does.
    pub(super) fn speed(&self) -> f64 {
        f64::from_bits(self.speed.load(Relaxed))
    }

    /// An answer that took `log_ratio` = ln(run time ÷ the fleet's for that revision). A sample is skipped when another
    /// thread is adding one: a mean does not miss it.
    pub(super) fn ran(&self, log_ratio: f64) {
        let Ok(mut ratio) = self.ratio.try_lock() else { return };
        ratio.add(log_ratio);
        let shrunk = ratio.value * ratio.count / (ratio.count + PRIOR);
        let speed = (-shrunk).exp().clamp(1.0 / SPEED_LIMIT, SPEED_LIMIT);
        self.speed.store(speed.to_bits(), Relaxed);
    }
}

/// A live node: what the membership says of it, and what was seen of it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) candidate: Candidate,
    pub(super) counters: Arc<Counters>,
}

impl Node {
    /// Whether calls may be given to it, health aside.
    pub(super) fn serves(&self) -> bool {
        self.candidate.worker && !self.candidate.draining && self.candidate.slots > 0
    }

    /// Slots as they count now: by the speed seen, and growing over `slow_start` since it joined or came back.
    pub(super) fn capacity(&self, now: Instant, slow_start: Duration) -> f64 {
        let warmth = self.counters.health.warmth(now, slow_start);
        f64::from(self.candidate.slots) * self.counters.speed() * warmth
    }

    /// What one more call would make of it: 1 = every slot taken.
    pub(super) fn score(&self, now: Instant, slow_start: Duration) -> f64 {
        f64::from(self.counters.in_flight().saturating_add(1)) / self.capacity(now, slow_start)
    }
}
