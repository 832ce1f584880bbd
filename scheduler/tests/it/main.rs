//! Integration tests of the scheduler: one binary, because each links everything.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a helper fails its test, a task ends with the runtime of its test, a seed or a figure is meant to be seen"
)]

mod admin_api;
mod calls;
mod contract;
mod crash;
mod cron;
mod deploying;
mod doubles;
mod embedded;
mod events;
mod gateway;
mod logs;
mod membership;
mod memory;
mod metrics;
mod nats_check;
mod nats_events;
mod nats_store;
mod remote;
mod simulation;
mod stored_events;
mod triggers;
