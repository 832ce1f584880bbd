//! Leaves out, for a while, a node that does not do what a node must: outlier ejection, and the way back.
//!
//! Two calls that it let lapse in silence within [`WINDOW`], or [`FAILURES`] faults of its platform in a row, eject it: for
//! one second at first, twice as long each time, at most [`LONGEST`]. Every success halves that. It comes back with a tenth
//! of its weight, as one that has just joined. What a function answers never counts: that is not the node's fault.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Silences further apart than this are accidents.
const WINDOW: Duration = Duration::from_secs(10);
/// Silences within [`WINDOW`] that eject.
const SILENCES: u32 = 2;
/// Faults in a row that eject.
const FAILURES: u32 = 5;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// Interest in a new node's subjects may not have reached every server yet.
const NEWBORN: Duration = Duration::from_secs(1);
/// The share of its weight that a node begins with.
const COLDEST: f64 = 0.1;

/// How a call failed, as far as the node is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// NATS said that nobody listens.
    NoResponders,
    /// No sign of life until `accept_by`.
    Silent,
    /// The node failed at its own part: an internal error, a broken stream.
    Platform,
}

/// The health of one node as this gateway sees it.
#[derive(Debug)]
pub(super) struct Health {
    joined: Instant,
    /// Nanoseconds after `joined`; 0 = never ejected. In the past it says when the node came back.
    ejected_until: AtomicU64,
    /// Whether `record` holds anything: healthy nodes cost no lock.
    suspect: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    silences: u32,
    first_silence: Option<Instant>,
    failures: u32,
    sentence: Duration,
    pardoned: bool,
}

impl Health {
    pub(super) fn new(joined: Instant) -> Self {
        Self { joined, ejected_until: AtomicU64::new(0), suspect: AtomicBool::new(false), record: Mutex::default() }
    }

    /// When the ejection ends or ended; none if there was none.
    pub(super) fn ejected_until(&self) -> Option<Instant> {
        let until = self.ejected_until.load(Relaxed);
        (until > 0).then(|| self.joined + Duration::from_nanos(until))
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until().is_some_and(|until| now < until)
    }

    /// Ends the ejection, as if there had been none.
    pub(super) fn release(&self) {
        self.ejected_until.store(0, Relaxed);
    }

    /// The share of its weight the node may have: grows over `slow_start` since it joined or came back.
    pub(super) fn warmth(&self, now: Instant, slow_start: Duration) -> f64 {
        let age = now.saturating_duration_since(self.ejected_until().unwrap_or(self.joined));
        if age >= slow_start { 1.0 } else { (age.as_secs_f64() / slow_start.as_secs_f64()).max(COLDEST) }
    }

    /// The node answered.
    pub(super) fn succeeded(&self, now: Instant) {
        if !self.suspect.load(Relaxed) || self.is_ejected(now) {
            return;
        }
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        (record.silences, record.failures) = (0, 0);
        record.sentence = if record.sentence > SHORTEST { record.sentence / 2 } else { Duration::ZERO };
        self.suspect.store(!record.sentence.is_zero(), Relaxed);
    }

    /// A call failed there; true if that ejected the node.
    pub(super) fn failed(&self, failure: Failure, now: Instant) -> bool {
        // What fails of the calls it had before says nothing new.
        if self.is_ejected(now) {
            return false;
        }
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let newborn = now.saturating_duration_since(self.joined) < NEWBORN;
        if failure == Failure::NoResponders && newborn && !record.pardoned {
            record.pardoned = true;
            return false;
        }
        self.suspect.store(true, Relaxed);
        record.count(failure, now);
        if record.silences < SILENCES && record.failures < FAILURES {
            return false;
        }
        (record.silences, record.failures) = (0, 0);
        record.sentence = (record.sentence * 2).clamp(SHORTEST, LONGEST);
        let until = now.saturating_duration_since(self.joined) + record.sentence;
        self.ejected_until.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        true
    }
}

impl Record {
    fn count(&mut self, failure: Failure, now: Instant) {
        if failure == Failure::Platform {
            self.failures += 1;
            return;
        }
        let lately = self.first_silence.is_some_and(|first| now.saturating_duration_since(first) <= WINDOW);
        if !lately || self.silences == 0 {
            (self.silences, self.first_silence) = (0, Some(now));
        }
        self.silences += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SLOW_START: Duration = Duration::from_secs(10);

    fn old() -> (Health, Instant) {
        let joined = Instant::now();
        (Health::new(joined), joined + 100 * SECOND)
    }

    #[test]
    fn two_silences_in_the_window_eject_and_two_outside_of_it_do_not() {
        let (health, now) = old();
        assert!(!health.failed(Failure::Silent, now));
        assert!(!health.failed(Failure::Silent, now + 11 * SECOND));
        assert!(!health.is_ejected(now + 11 * SECOND));
        assert!(health.failed(Failure::Silent, now + 20 * SECOND));
        assert!(health.is_ejected(now + 20 * SECOND));
        assert!(!health.is_ejected(now + 21 * SECOND));
    }

    #[test]
    fn five_failures_eject_only_if_no_success_is_between_them() {
        let (health, now) = old();
        for _ in 0..4 {
            assert!(!health.failed(Failure::Platform, now));
        }
        health.succeeded(now);
        for _ in 0..4 {
            assert!(!health.failed(Failure::Platform, now));
        }
        assert!(health.failed(Failure::Platform, now));
    }

    #[test]
    fn the_ejection_doubles_up_to_its_limit_and_success_halves_it() {
        let (health, mut now) = old();
        let eject = |now: Instant| {
            health.failed(Failure::Silent, now);
            assert!(health.failed(Failure::Silent, now));
            health.ejected_until().unwrap().duration_since(now).as_secs()
        };
        let mut sentences = Vec::new();
        for _ in 0..7 {
            sentences.push(eject(now));
            now += 31 * SECOND;
        }
        assert_eq!(sentences, [1, 2, 4, 8, 16, 30, 30]);
        health.succeeded(now);
        health.succeeded(now);
        assert_eq!(eject(now), 15);
    }

    #[test]
    fn failures_of_calls_it_had_before_do_not_prolong_an_ejection() {
        let (health, now) = old();
        health.failed(Failure::Silent, now);
        assert!(health.failed(Failure::Silent, now));
        let until = health.ejected_until();
        for _ in 0..10 {
            assert!(!health.failed(Failure::Silent, now));
        }
        health.succeeded(now);
        assert_eq!(health.ejected_until(), until);
    }

    #[test]
    fn one_no_responders_of_a_newborn_is_forgiven_and_of_an_old_node_is_not() {
        let born = Instant::now();
        let newborn = Health::new(born);
        assert!(!newborn.failed(Failure::NoResponders, born));
        assert!(!newborn.failed(Failure::NoResponders, born));
        assert!(newborn.failed(Failure::NoResponders, born));
        let (old, now) = old();
        assert!(!old.failed(Failure::NoResponders, now));
        assert!(old.failed(Failure::NoResponders, now));
    }

    #[test]
    fn weight_grows_from_a_tenth_over_the_slow_start_after_joining_and_after_an_ejection() {
        let born = Instant::now();
        let health = Health::new(born);
        let warmth = |after: u32| health.warmth(born + SECOND * after, SLOW_START);
        assert_eq!([warmth(0), warmth(5), warmth(10), warmth(60)], [0.1, 0.5, 1.0, 1.0]);
        let now = born + 100 * SECOND;
        health.failed(Failure::Silent, now);
        assert!(health.failed(Failure::Silent, now));
        assert_eq!([warmth(101), warmth(106), warmth(111)], [0.1, 0.5, 1.0]);
    }
}
