//! Nanoseconds of what every call passes on its way: a route, a choice of a node, a frame, a line in the log, its count.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say where")]

mod scene;

use divan::Bencher;
use dunlin_api::{Body, InvokeError, Logs};
use dunlin_scheduler::{
    log_hub::LogHub,
    metrics::{Metrics, Trigger},
    remote::bench,
};
use http::Response;
use scene::{BODY, Fleet, HIT, MISS, fields, find, frame, line, routes, snapshot};
use std::hint::black_box;

fn main() {
    divan::main();
}

#[divan::bench(sample_size = 1_000)]
fn route_hit(bencher: Bencher<'_, '_>) {
    let table = routes();
    bencher.bench_local(|| find(&table, black_box(HIT)).is_ok());
}

#[divan::bench(sample_size = 1_000)]
fn route_miss(bencher: Bencher<'_, '_>) {
    let table = routes();
    bencher.bench_local(|| find(&table, black_box(MISS)).is_ok());
}

#[divan::bench(sample_size = 1_000)]
fn pick_preferred(bencher: Bencher<'_, '_>) {
    let mut fleet = Fleet::new();
    bencher.bench_local(|| fleet.pick());
}

#[divan::bench(sample_size = 1_000)]
fn pick_any(bencher: Bencher<'_, '_>) {
    let mut fleet = Fleet::new();
    bencher.bench_local(|| fleet.pick_any());
}

#[divan::bench(sample_size = 1_000)]
fn frame_write(bencher: Bencher<'_, '_>) {
    let fields = fields();
    bencher.bench_local(|| bench::write(black_box(&fields), black_box(BODY)));
}

#[divan::bench(sample_size = 1_000)]
fn frame_read(bencher: Bencher<'_, '_>) {
    let frame = frame();
    bencher.bench_local(|| bench::read(black_box(&frame)));
}

/// Into the ring of a function that nobody follows, which is full.
#[divan::bench(sample_size = 1_000)]
fn log_line(bencher: Bencher<'_, '_>) {
    let (hub, line) = (LogHub::default(), line());
    (0..2_000).for_each(|_| hub.line(line.clone()));
    bencher.with_inputs(|| line.clone()).bench_local_values(|line| hub.line(line));
}

/// All that one invocation is counted by, with the clock.
#[divan::bench(sample_size = 1_000)]
fn metrics_update(bencher: Bencher<'_, '_>) {
    let (metrics, function) = (Metrics::new(&snapshot()), "f42".parse().unwrap());
    let answer: Result<Response<Body>, InvokeError> = Ok(Response::new(Body::Empty));
    let arrived = tokio::time::Instant::now();
    bencher.bench_local(|| metrics.begin(Trigger::Http, Some(black_box(&function)), arrived).end(&answer));
}
