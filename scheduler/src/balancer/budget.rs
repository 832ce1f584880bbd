//! Bounds retries to a share of the traffic, so that an outage is not answered with a storm.
//!
//! The router asks it before it sends a call again that was met with silence or lost with its node. A node that refuses at
//! once has run nothing and costs no time, and at 90 % load nearly every second call is refused once: going elsewhere
//! after a refusal is dispatch, bounded by the tries of a call, and takes nothing from this budget.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Calls and retries count for about this time.
const WINDOW: Duration = Duration::from_secs(10);
/// Retries per call.
const SHARE: f64 = 0.1;
/// Retries a second that are always allowed: a share of little traffic is none.
const FLOOR: f64 = 10.0;

/// The budget of one gateway: a token bucket. Calls and time fill it, retries empty it, and what is not used within about
/// ten seconds is lost.
#[derive(Debug, Default)]
pub struct RetryBudget {
    bucket: Mutex<Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    tokens: f64,
    at: Option<Instant>,
}

impl RetryBudget {
    /// A call came in.
    pub fn call(&self, now: Instant) {
        self.advanced(now, |bucket| bucket.tokens += SHARE);
    }

    /// Whether a retry may be made now; if so it is counted.
    pub fn retry(&self, now: Instant) -> bool {
        self.advanced(now, |bucket| {
            let allowed = bucket.tokens >= 1.0;
            bucket.tokens -= f64::from(u8::from(allowed));
            allowed
        })
    }

    fn advanced<T>(&self, now: Instant, then: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        // A gateway begins with the floor of a whole window.
        let full = FLOOR * WINDOW.as_secs_f64();
        match bucket.at {
            None => (bucket.tokens, bucket.at) = (full, Some(now)),
            Some(at) => {
                let kept = (-now.saturating_duration_since(at).as_secs_f64() / WINDOW.as_secs_f64()).exp();
                bucket.tokens = bucket.tokens * kept + full * (1.0 - kept);
                bucket.at = Some(at.max(now));
            }
        }
        then(&mut bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(budget: &RetryBudget, now: Instant, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(budget.retry(now))).sum()
    }

    #[test]
    fn without_traffic_only_the_floor_is_allowed() {
        let (budget, start) = (RetryBudget::default(), Instant::now());
        assert_eq!(allowed(&budget, start, 1_000), 100);
        // A second gives back about 10: a little less, for it is a tenth of the window.
        assert_eq!(allowed(&budget, start + Duration::from_secs(1), 1_000), 9);
        assert_eq!(allowed(&budget, start + Duration::from_secs(1_000), 1_000), 100);
    }

    #[test]
    fn retries_stay_near_a_tenth_of_steady_traffic_when_every_call_fails() {
        let (budget, start) = (RetryBudget::default(), Instant::now());
        let mut retries = 0;
        for call in 0..100_000 {
            let now = start + Duration::from_millis(call);
            budget.call(now);
            retries += u32::from(budget.retry(now));
        }
        // 100 s of 1,000 calls/s: a tenth, the floor of 10/s, and the window that was full at first.
        assert!((10_000..=11_200).contains(&retries), "{retries}");
    }

    #[test]
    fn an_hour_of_good_traffic_does_not_save_up_for_a_storm() {
        let (budget, start) = (RetryBudget::default(), Instant::now());
        for call in 0..360_000 {
            budget.call(start + Duration::from_millis(10 * call));
        }
        // 100 calls/s for 10 s: a tenth of them, and the floor's 100.
        let now = start + Duration::from_secs(3_600);
        assert!((195..=201).contains(&allowed(&budget, now, 10_000)));
    }
}
