//! A token bucket with a reserve: how much one revision may print.

use std::time::Instant;

/// Bytes below zero that only the runtime's own lines may use, so that a flood cannot hide its own report.
const RESERVE: i64 = 64 << 10;

/// Tokens are bytes; they come back with time. Not shared by itself: the owner locks it.
pub(super) struct Rate {
    per_second: u64,
    burst: i64,
    tokens: i64,
    at: Instant,
}

impl Rate {
    /// A full bucket of `burst` bytes that refills by `per_second`.
    pub(super) fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        let burst = i64::try_from(burst).unwrap_or(i64::MAX);
        Self { per_second, burst, tokens: burst, at: now }
    }

    /// Takes `bytes` if they are there.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> bool {
        self.take_down_to(0, bytes, now)
    }

    /// Takes `bytes` even if only the reserve has them.
    pub(super) fn take_reserve(&mut self, bytes: u64, now: Instant) -> bool {
        self.take_down_to(-RESERVE, bytes, now)
    }

    fn take_down_to(&mut self, floor: i64, bytes: u64, now: Instant) -> bool {
        let nanos = now.saturating_duration_since(self.at).as_nanos();
        let refill = i64::try_from(nanos * u128::from(self.per_second) / 1_000_000_000).unwrap_or(i64::MAX);
        // Calls closer together than one token's time must not lose that time.
        if refill > 0 {
            self.tokens = self.tokens.saturating_add(refill).min(self.burst);
            self.at = now;
        }
        let left = self.tokens.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        let fits = left >= floor;
        if fits {
            self.tokens = left;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn gives_the_burst_then_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(1_000, 5_000, start);
        assert!(rate.take(5_000, start) && !rate.take(1, start));
        assert!(!rate.take(501, start + Duration::from_millis(500)));
        assert!(rate.take(500, start + Duration::from_millis(500)));
        let later = start + Duration::from_secs(3_600);
        assert!(!rate.take(5_001, later) && rate.take(5_000, later));
    }

    #[test]
    fn keeps_a_reserve_for_the_runtime_and_bounds_it() {
        let start = Instant::now();
        let mut rate = Rate::new(1, 10, start);
        assert!(rate.take(10, start) && !rate.take(1, start));
        assert!(rate.take_reserve(RESERVE as u64, start) && !rate.take_reserve(1, start));
    }
}
