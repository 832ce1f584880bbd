//! Integration tests of the scheduler: one binary, because each links everything.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a helper fails its test, a task ends with the runtime of its test, a seed or a figure is meant to be seen"
)]

mod admin_api;
mod contract;
mod crash;
mod deploying;
mod doubles;
mod embedded;
mod gateway;
mod logs;
mod membership;
mod nats_check;
mod nats_events;
mod nats_store;
mod remote;
mod simulation;
