//! What became of the events of each trigger on this node since it started, for people.

use dunlin_api::{FunctionName, trigger::TriggerId};
use serde::{Deserialize, Serialize};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};
use tokio::sync::watch;

use super::{Outcome, work::reason};

/// One trigger on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerStats {
    /// The function.
    pub function: FunctionName,
    /// The trigger's id; its own source and its queue have one each.
    pub trigger: TriggerId,
    /// What it listens to.
    pub listens: String,
    /// What became of its events.
    pub counts: Counts,
}

/// What became of the events of a trigger on one node since that started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Counts {
    /// Events that run now.
    pub running: u32,
    /// Events that were done.
    pub done: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Events that the function rejected.
    pub rejected: u64,
    /// Tries that found no node or no slot of the function; they do not count as tries.
    pub not_run: u64,
    /// Dead letters that were stored.
    pub dead: u64,
    /// Messages of a core NATS subject that were dropped because too many waited.
    pub dropped: u64,
    /// Why an event or the trigger failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl Counts {
    /// Both together.
    pub(crate) fn and(self, other: &Self) -> Self {
        Self {
            running: self.running + other.running,
            done: self.done + other.done,
            failed: self.failed + other.failed,
            rejected: self.rejected + other.rejected,
            not_run: self.not_run + other.not_run,
            dead: self.dead + other.dead,
            dropped: self.dropped + other.dropped,
            last_error: other.last_error.clone().or(self.last_error),
        }
    }
}

/// The counters behind [`Counts`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    running: AtomicU32,
    done: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
    not_run: AtomicU64,
    pub dead: AtomicU64,
    pub dropped: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Counters {
    /// Counts one try.
    pub(super) fn count(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Done => &self.done,
            Outcome::Failed { .. } => &self.failed,
            Outcome::Rejected { .. } => &self.rejected,
            Outcome::NotRun { .. } => &self.not_run,
        };
        counter.fetch_add(1, Relaxed);
        if let Some(reason) = reason(outcome) {
            self.error(reason);
        }
    }

    /// Remembers why something failed; whether that is news.
    pub(super) fn error(&self, text: String) -> bool {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let news = last.as_ref() != Some(&text);
        *last = Some(text);
        news
    }

    pub(super) fn stats(&self, function: &FunctionName, trigger: &TriggerId, listens: String) -> TriggerStats {
        let counts = Counts {
            running: self.running.load(Relaxed),
            done: self.done.load(Relaxed),
            failed: self.failed.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            not_run: self.not_run.load(Relaxed),
            dead: self.dead.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        TriggerStats { function: function.clone(), trigger: trigger.clone(), listens, counts }
    }
}

/// Counts one event as running while it lives, on its trigger and on its node.
pub(super) struct Running<'a> {
    counters: &'a Counters,
    node: &'a watch::Sender<u32>,
}

impl<'a> Running<'a> {
    pub(super) fn begin(counters: &'a Counters, node: &'a watch::Sender<u32>) -> Self {
        counters.running.fetch_add(1, Relaxed);
        node.send_modify(|running| *running += 1);
        Self { counters, node }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.counters.running.fetch_sub(1, Relaxed);
        self.node.send_modify(|running| *running -= 1);
    }
}
