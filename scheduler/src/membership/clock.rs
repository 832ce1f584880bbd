//! How far another node's wall clock is from ours: deadlines travel as wall time, so a node that is off gets no calls.
//!
//! A heartbeat tells the offset plus its time on the way, so a small figure is an answer and a large one a question: then
//! one round trip is measured as NTP does (RFC 5905 §8), whose error is at most half the round trip. Pure: all times in
//! microseconds since 1970 come in, and no hostile figure overflows.

use std::collections::VecDeque;

/// Heartbeats of which the quickest counts: one that was late says nothing about a clock.
const WINDOW: usize = 8;

/// What is known of one node's clock.
#[derive(Debug, Default)]
pub(super) struct Offset {
    behind_us: VecDeque<i64>,
    measured_us: Option<i64>,
    off: bool,
    ask_in: usize,
}

impl Offset {
    /// A heartbeat sent at `sent` by their clock came at `received` by ours. True if a round trip should be measured.
    pub(super) fn heartbeat(&mut self, sent: i64, received: i64, limit_us: u64) -> bool {
        if self.behind_us.len() == WINDOW {
            self.behind_us.pop_front();
        }
        self.behind_us.push_back(received.saturating_sub(sent));
        if self.apparent().unsigned_abs() <= limit_us {
            *self = Self { behind_us: std::mem::take(&mut self.behind_us), ..Self::default() };
            return false;
        }
        // Again after a window: a node far away looks late for ever, and is measured seldom.
        let ask = !self.off && self.ask_in == 0;
        self.ask_in = if ask { WINDOW } else { self.ask_in.saturating_sub(1) };
        ask
    }

    /// A round trip: asked at `asked` and answered at `answered` by our clock, received and replied to by theirs.
    pub(super) fn measured(&mut self, asked: i64, received: i64, replied: i64, answered: i64, limit_us: u64) {
        let way = answered.saturating_sub(asked).saturating_sub(replied.saturating_sub(received));
        if way < 0 {
            return; // A clock jumped meanwhile.
        }
        let offset = received.saturating_sub(asked).saturating_add(replied.saturating_sub(answered)) / 2;
        self.measured_us = Some(offset);
        self.off = offset.unsigned_abs().saturating_sub(way.unsigned_abs() / 2) > limit_us;
    }

    /// Whether the clock is known to be further off than the limit.
    pub(super) fn is_off(&self) -> bool {
        self.off
    }

    /// How far it is ahead of ours.
    pub(super) fn ahead_ms(&self) -> Option<i64> {
        let known = self.measured_us.or_else(|| (!self.behind_us.is_empty()).then(|| self.apparent()));
        known.map(|us| us / 1_000)
    }

    fn apparent(&self) -> i64 {
        self.behind_us.iter().min().map_or(0, |behind| behind.saturating_neg())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 50_000;

    #[test]
    fn a_late_heartbeat_is_no_wrong_clock() {
        let mut offset = Offset::default();
        assert!(!offset.heartbeat(1_000_000, 1_000_300, LIMIT));
        assert!(!offset.heartbeat(2_000_000, 5_000_000, LIMIT));
        assert_eq!(offset.ahead_ms(), Some(0));
        assert!(!offset.is_off());
    }

    #[test]
    fn a_round_trip_tells_distance_from_offset() {
        let mut far = Offset::default();
        assert!(far.heartbeat(0, 90_000, LIMIT));
        far.measured(0, 90_000, 90_010, 180_010, LIMIT);
        assert!(!far.is_off());
        assert_eq!(far.ahead_ms(), Some(0));
        assert!(!far.heartbeat(400_000, 490_000, LIMIT), "asks once per window");

        let mut off = Offset::default();
        assert!(off.heartbeat(10_000_000, 300, LIMIT));
        off.measured(1_000, 10_001_300, 10_001_400, 1_700, LIMIT);
        assert!(off.is_off());
        assert_eq!(off.ahead_ms(), Some(10_000));
    }

    #[test]
    fn a_clock_that_was_set_right_is_fit_again() {
        let mut offset = Offset::default();
        offset.heartbeat(10_000_000, 0, LIMIT);
        offset.measured(0, 10_000_000, 10_000_000, 10, LIMIT);
        assert!(offset.is_off());
        for n in 1..=WINDOW as i64 {
            offset.heartbeat(n * 400_000, n * 400_000 + 300, LIMIT);
        }
        assert!(!offset.is_off());
    }

    #[test]
    fn hostile_times_overflow_nothing() {
        let mut offset = Offset::default();
        for sent in [i64::MIN, i64::MAX, 0] {
            offset.heartbeat(sent, i64::MAX, LIMIT);
            offset.measured(sent, i64::MAX, i64::MIN, sent, LIMIT);
            offset.measured(i64::MAX, i64::MIN, i64::MAX, sent, LIMIT);
            offset.ahead_ms();
        }
    }
}
