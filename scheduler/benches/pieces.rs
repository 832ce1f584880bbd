//! Nanoseconds of what every call passes on its way: a route, a choice of a node, a frame, a line in the log.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say where")]

mod scene;

use divan::Bencher;
use dunlin_api::Logs;
use dunlin_scheduler::{log_hub::LogHub, remote::bench};
use scene::{BODY, Fleet, HIT, MISS, fields, find, frame, line, routes};
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
