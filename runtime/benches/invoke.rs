//! Nanoseconds of one invocation of each kind of component, and of a line in the log.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say where")]

mod scene;

use divan::Bencher;
use dunlin_api::{InvocationId, LogLine, LogStream, Logs};
use dunlin_runtime::host::{Output, OutputSink};
use scene::{Guest, HELLO_02, HELLO_03, MESSAGING, Scene};
use std::{hint::black_box, sync::Arc};

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 1_000)]
fn http_02_fresh(bencher: Bencher<'_, '_>) {
    invocation(bencher, HELLO_02, 1, 1);
}

#[divan::bench(sample_count = 1_000)]
fn http_02_reused(bencher: Bencher<'_, '_>) {
    invocation(bencher, HELLO_02, u32::MAX, 1);
}

#[divan::bench(sample_count = 1_000)]
fn http_03_fresh(bencher: Bencher<'_, '_>) {
    invocation(bencher, HELLO_03, 1, 1);
}

#[divan::bench(sample_count = 1_000)]
fn http_03_reused(bencher: Bencher<'_, '_>) {
    invocation(bencher, HELLO_03, u32::MAX, 1);
}

#[divan::bench(sample_count = 1_000)]
fn http_03_shared(bencher: Bencher<'_, '_>) {
    invocation(bencher, HELLO_03, u32::MAX, 16);
}

#[divan::bench(sample_count = 1_000)]
fn messaging_fresh(bencher: Bencher<'_, '_>) {
    invocation(bencher, MESSAGING, 1, 1);
}

fn invocation(bencher: Bencher<'_, '_>, guest: Guest, reuse: u32, concurrent: u32) {
    let scene = Scene::new(guest, reuse, concurrent);
    scene.invoke(scene.call());
    bencher.with_inputs(|| scene.call()).bench_local_values(|call| scene.invoke(call));
}

/// Keeps nothing: what is measured is the way of a line out of the sandbox.
struct Nowhere;

impl Logs for Nowhere {
    fn line(&self, line: LogLine) {
        black_box(line);
    }
}

/// A fresh output for each line, so that no invocation reaches its limit.
#[divan::bench(sample_size = 1_000)]
fn log_line(bencher: Bencher<'_, '_>) {
    let sink = OutputSink::new(Arc::new(Nowhere), Scene::new(HELLO_02, 1, 1).revision().clone());
    bencher
        .with_inputs(|| Output::new(sink.clone(), InvocationId::new()))
        .bench_local_refs(|output| output.say(LogStream::Stdout, black_box("order 4711 was paid in full")));
}
