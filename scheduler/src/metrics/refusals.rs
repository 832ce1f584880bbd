//! Calls that were refused before anything ran, by the code that their callers saw.

use dunlin_api::InvokeError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The codes of [`InvokeError`] that say so, and `malformed` for requests that HTTP itself does not allow.
const REASONS: [&str; 9] = [
    "busy",
    "concurrency-limit",
    "draining",
    "not-ready",
    "no-node",
    "no-route",
    "no-function",
    "method-not-allowed",
    MALFORMED,
];

pub(super) const MALFORMED: &str = "malformed";

#[derive(Debug, Default)]
pub(super) struct Refusals([AtomicU64; REASONS.len()]);

impl Refusals {
    /// Counts `error` if it is a refusal.
    pub(super) fn count(&self, error: &InvokeError) {
        self.count_code(error.code());
    }

    pub(super) fn count_code(&self, code: &str) {
        if let Some(place) = REASONS.iter().position(|reason| *reason == code) {
            self.0[place].fetch_add(1, Relaxed);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(&self.0).map(|(reason, count)| (reason, count.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_api::{FunctionName, Load};

    #[test]
    fn every_refusal_is_counted_by_its_code_and_failures_are_not() {
        let function: FunctionName = "f".parse().unwrap();
        let refused = [
            InvokeError::Busy(Load::default()),
            InvokeError::Concurrency { limit: 1 },
            InvokeError::Draining,
            InvokeError::NotReady(String::new()),
            InvokeError::NoNode(String::new()),
            InvokeError::NoRoute(String::new()),
            InvokeError::NoFunction(function),
            InvokeError::Method(String::new()),
        ];
        let refusals = Refusals::default();
        refused.iter().for_each(|error| refusals.count(error));
        refusals.count(&InvokeError::Trap(String::new()));
        let counts: Vec<_> = refusals.all().collect();
        assert!(counts[..8].iter().all(|(_, count)| *count == 1), "{counts:?}");
        assert_eq!(counts[8], (MALFORMED, 0));
    }
}
