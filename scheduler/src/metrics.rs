//! What a node counts, and the page that Prometheus reads.
//!
//! The [`Router`](crate::router::Router) owns the [`Metrics`]. Whoever makes an invocation of something that fires (the gateway,
//! calls by name, events, calls that nobody waits for) opens a [`Counting`] for it, which counts it exactly once: when it has its
//! result, or when it is dropped before that. A call is counted on the node where it arrived, not where it runs. [`page`] adds
//! what can be read when it is asked for, and writes it all as OpenMetrics 1.0.
//!
//! It promises no lock and no allocation per invocation: one look into a table, three atomic additions, one look at the clock.
//! Bounds: [`MAX_FUNCTIONS`] functions have series of their own, the others share one.

mod function;
mod functions;
mod histogram;
mod page;
mod process;
mod refusals;

pub use function::{Outcome, Trigger};
pub use functions::MAX_FUNCTIONS;
pub use page::{CONTENT_TYPE, Cluster, Readings, Scrape, page};

use arc_swap::ArcSwap;
use dunlin_api::{Body, FunctionName, InvokeError, Timing};
use http::Response;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

use crate::snapshot::Snapshot;
use functions::Functions;
use histogram::Histogram;
use refusals::{MALFORMED, Refusals};

/// The counters of a node.
#[derive(Debug)]
pub struct Metrics {
    functions: ArcSwap<Functions>,
    /// How long functions were loaded for calls that had to wait for that.
    loads: Histogram,
    refusals: Refusals,
    connections: AtomicU64,
    started: SystemTime,
}

impl Metrics {
    /// Counters at zero, for the functions of `snapshot`.
    pub fn new(snapshot: &Snapshot) -> Self {
        Self {
            functions: ArcSwap::from_pointee(Functions::default().following(snapshot)),
            loads: Histogram::default(),
            refusals: Refusals::default(),
            connections: AtomicU64::new(0),
            started: SystemTime::now(),
        }
    }

    /// From now on the functions of `snapshot` count: those that were removed lose their counters.
    pub fn follow(&self, snapshot: &Snapshot) {
        self.functions.rcu(|functions| functions.following(snapshot));
    }

    /// Counts one invocation that took so long.
    pub fn record(&self, function: &FunctionName, trigger: Trigger, outcome: Outcome, took: Duration) {
        self.functions.load().of(function).record(trigger, outcome, took);
    }

    /// Begins to count what arrived at `since`; `function` is none if none was found for it.
    pub fn begin<'a>(&'a self, trigger: Trigger, function: Option<&'a FunctionName>, since: Instant) -> Counting<'a> {
        Counting { metrics: self, trigger, function, since, counted: false }
    }

    /// Counts `error`, for which nothing is called, if it is a refusal.
    pub fn refused(&self, error: &InvokeError) {
        self.refusals.count(error);
    }

    /// Counts a request that no function could be asked about.
    pub fn malformed(&self) {
        self.refusals.count_code(MALFORMED);
    }

    /// Counts a connection to the gateway as open while the value lives.
    pub fn connection(&self) -> Connection<'_> {
        self.connections.fetch_add(1, Relaxed);
        Connection(self)
    }
}

/// One invocation that is counted when it ends. Dropped before that, it counts as abandoned.
#[derive(Debug)]
#[must_use]
pub struct Counting<'a> {
    metrics: &'a Metrics,
    trigger: Trigger,
    function: Option<&'a FunctionName>,
    since: Instant,
    counted: bool,
}

impl Counting<'_> {
    /// Counts it as what `result` says; what follows its head is not looked at.
    pub fn end(mut self, result: &Result<Response<Body>, InvokeError>) {
        self.counted = true;
        match result {
            Ok(response) => {
                if let Some(timing) = response.extensions().get::<Timing>().filter(|timing| timing.cold) {
                    self.metrics.loads.observe(timing.load);
                }
            }
            Err(error) => self.metrics.refusals.count(error),
        }
        self.record(Outcome::of(result));
    }

    fn record(&self, outcome: Outcome) {
        if let Some(function) = self.function {
            self.metrics.record(function, self.trigger, outcome, self.since.elapsed());
        }
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        if !self.counted {
            self.record(Outcome::Abandoned);
        }
    }
}

/// An open connection, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Connection<'a>(&'a Metrics);

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}
