//! The program as people use it: real processes, real components, real signals. One binary, because each links wasmtime.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test that cannot go on should say where, and what its processes said"
)]

mod clients;
mod cluster;
mod components;
mod crates;
mod dev;
mod events;
mod limits;
mod node;
mod projects;
mod readme;
mod refusals;
mod serve;
mod support;
