//! What is counted of one function, and in which words.

use dunlin_api::{Body, Fault, InvokeError};
use http::Response;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::histogram::Histogram;

/// What asked for an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A request to the gateway.
    Http,
    /// A call by the function's name, through the admin API.
    Name,
    /// A message or a change of a key; each try is an invocation.
    Event,
    /// A schedule; each try is an invocation.
    Cron,
    /// A call that nobody waits for; each try is an invocation.
    Async,
}

impl Trigger {
    pub(super) const ALL: [Self; 5] = [Self::Http, Self::Name, Self::Event, Self::Cron, Self::Async];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Name => "name",
            Self::Event => "event",
            Self::Cron => "cron",
            Self::Async => "async",
        }
    }
}

/// How an invocation ended: who is to blame if it was not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered with a status below 400.
    Ok,
    /// The function answered with 4xx, or the request could not be given to it.
    Caller,
    /// The function answered with 5xx, failed, or used more than it may.
    Function,
    /// Dunlin or its machine failed, or had no room.
    Platform,
    /// Nobody waited for the answer any more: the client left, the call was cancelled, the node stopped.
    Abandoned,
}

impl Outcome {
    pub(super) const ALL: [Self; 5] = [Self::Ok, Self::Caller, Self::Function, Self::Platform, Self::Abandoned];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Caller => "caller",
            Self::Function => "function",
            Self::Platform => "platform",
            Self::Abandoned => "abandoned",
        }
    }

    /// What `result` is.
    pub fn of(result: &Result<Response<Body>, InvokeError>) -> Self {
        match result {
            Ok(response) if response.status().is_server_error() => Self::Function,
            Ok(response) if response.status().is_client_error() => Self::Caller,
            Ok(_) => Self::Ok,
            Err(error) => match error.fault() {
                Fault::Caller => Self::Caller,
                Fault::Function => Self::Function,
                Fault::Platform => Self::Platform,
            },
        }
    }
}

/// The counters of one function.
#[derive(Debug, Default)]
pub(super) struct PerFunction {
    /// By trigger and outcome, in the order of their variants.
    counts: [[AtomicU64; Outcome::ALL.len()]; Trigger::ALL.len()],
    pub durations: Histogram,
}

impl PerFunction {
    pub(super) fn record(&self, trigger: Trigger, outcome: Outcome, took: Duration) {
        self.counts[trigger as usize][outcome as usize].fetch_add(1, Relaxed);
        self.durations.observe(took);
    }

    /// The counts of every trigger that was ever used: all outcomes of it, so that a first failure is an increase from zero.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Trigger, Outcome, u64)> {
        let used = move |trigger: &Trigger| self.counts[*trigger as usize].iter().any(|count| count.load(Relaxed) > 0);
        Trigger::ALL.into_iter().filter(used).flat_map(move |trigger| {
            let count = move |outcome| self.counts[trigger as usize][outcome as usize].load(Relaxed);
            Outcome::ALL.into_iter().map(move |outcome| (trigger, outcome, count(outcome)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_status_and_an_error_by_its_fault() {
        let status = |status: u16| Outcome::of(&Ok(Response::builder().status(status).body(Body::Empty).unwrap()));
        assert_eq!([200, 304, 404, 500].map(status), [Outcome::Ok, Outcome::Ok, Outcome::Caller, Outcome::Function]);
        let error = |error| Outcome::of(&Err(error));
        assert_eq!(error(InvokeError::BadRequest(String::new())), Outcome::Caller);
        assert_eq!(error(InvokeError::Trap(String::new())), Outcome::Function);
        assert_eq!(error(InvokeError::Draining), Outcome::Platform);
    }
}
