//! Several nodes as one: real `dunlin` processes on a real nats-server, under load while things break.
//!
//! `DUNLIN_SOAK=1` makes the faults longer and prints more figures; without it everything takes about a minute.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures, and the logs of a test that failed, are there to be read"
)]

mod bodies;
mod calls;
mod events;
mod load;
mod nats;
mod nodes;
mod operations;
mod permissions;
mod placement;
mod proxy;
mod refusals;
mod rolling;
mod sources;
pub(crate) mod support;
mod together;

/// Whether there is time for long runs.
fn soak() -> bool {
    std::env::var_os("DUNLIN_SOAK").is_some_and(|value| value == "1")
}
