//! The last calls that the platform failed, for people who ask why.

use dunlin_api::{FunctionName, InvocationId, InvokeError, NodeName};
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use crate::deploy::now_ms;

/// Failures that are remembered; the oldest go first.
pub const FAILURES: usize = 256;

/// A try that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The function.
    pub function: FunctionName,
    /// The invocation.
    pub invocation: InvocationId,
    /// The node that it was tried on; none = it came to no node.
    pub node: Option<NodeName>,
    /// What went wrong.
    pub error: String,
    /// Whether another node was tried afterwards.
    pub tried_again: bool,
}

/// A bounded memory of them.
#[derive(Debug, Default)]
pub struct Failures(Mutex<VecDeque<Failure>>);

impl Failures {
    pub(super) fn note(
        &self,
        function: &FunctionName,
        invocation: InvocationId,
        node: Option<&NodeName>,
        error: &InvokeError,
        tried_again: bool,
    ) {
        let failure = Failure {
            at_ms: now_ms(),
            function: function.clone(),
            invocation,
            node: node.cloned(),
            error: error.to_string(),
            tried_again,
        };
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() == FAILURES {
            failures.pop_front();
        }
        failures.push_back(failure);
    }

    /// Those of `function`, newest first.
    pub fn of(&self, function: &FunctionName) -> Vec<Failure> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().rev().filter(|failure| failure.function == *function).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_oldest_are_forgotten() {
        let failures = Failures::default();
        let (one, other): (FunctionName, FunctionName) = ("one".parse().unwrap(), "other".parse().unwrap());
        failures.note(&other, InvocationId::new(), None, &InvokeError::Draining, false);
        for n in 0..FAILURES {
            failures.note(&one, InvocationId::new(), None, &InvokeError::Internal(n.to_string()), true);
        }
        assert!(failures.of(&other).is_empty());
        let of_one = failures.of(&one);
        assert_eq!(of_one.len(), FAILURES);
        assert!(of_one[0].error.contains("255"), "{}", of_one[0].error);
    }
}
