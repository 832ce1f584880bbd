//! How failed deliveries are repeated.

use std::time::Duration;

/// Deliveries of one event that may fail before it is a dead letter.
pub const DEFAULT_MAX_DELIVER: u32 = 5;
/// Largest number of deliveries that a trigger may ask for.
pub const MAX_DELIVER: u32 = 1_000;
/// Waits between deliveries; the last one repeats.
pub const DEFAULT_BACKOFF: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

pub(super) fn default_max_deliver() -> u32 {
    DEFAULT_MAX_DELIVER
}

pub(super) fn default_backoff() -> Vec<Duration> {
    DEFAULT_BACKOFF.into()
}

/// Lists of durations such as `["1s", "10s"]`.
pub(super) mod durations {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Text(#[serde(with = "humantime_serde")] Duration);

    pub(in crate::trigger) fn serialize<S: Serializer>(list: &[Duration], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|duration| Text(*duration)))
    }

    pub(in crate::trigger) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<Text>::deserialize(from)?.into_iter().map(|Text(duration)| duration).collect())
    }
}

/// How failed deliveries are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy<'a> {
    /// Deliveries that may fail before the event is a dead letter.
    pub max_deliver: u32,
    /// Waits after the first, second, … failed delivery; the last one repeats. Never empty.
    pub backoff: &'a [Duration],
}

impl RetryPolicy<'_> {
    /// The wait after `failed` deliveries (at least 1), made longer or shorter by up to 20 % by `dice` from 0 to 1.
    pub fn wait(&self, failed: u32, dice: f64) -> Duration {
        let at = usize::try_from(failed.saturating_sub(1)).unwrap_or(usize::MAX).min(self.backoff.len() - 1);
        self.backoff[at].mul_f64(0.8 + 0.4 * dice.clamp(0.0, 1.0))
    }

    pub(super) fn check(&self, key: &str) -> Result<(), String> {
        if !(1..=MAX_DELIVER).contains(&self.max_deliver) {
            return Err(format!("{key}.max_deliver is {}: it must be between 1 and {MAX_DELIVER}", self.max_deliver));
        }
        let bounds = Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3600);
        if !(1..=100).contains(&self.backoff.len()) || self.backoff.iter().any(|wait| !bounds.contains(wait)) {
            return Err(format!("{key}.backoff must be a list of 1 to 100 times between 1ms and 7days"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_list_and_repeat_its_end() {
        let list = [Duration::from_secs(1), Duration::from_secs(10)];
        let policy = RetryPolicy { max_deliver: 9, backoff: &list };
        assert_eq!(policy.wait(1, 0.5), Duration::from_secs(1));
        assert_eq!(policy.wait(2, 0.0), Duration::from_secs(8));
        assert_eq!(policy.wait(7, 1.0), Duration::from_secs(12));
    }
}
