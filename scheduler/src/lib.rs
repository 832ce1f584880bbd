//! The cluster: what is deployed, who is alive, who runs this one. It never links wasmtime.
//!
//! The command line makes its parts and owns their sockets and their stop. A deploy passes [`admin`] → [`deploy`] →
//! [`catalog`] → [`store`]; a request passes [`gateway`] → [`router`] (by [`routes`] of the published [`snapshot`]) → whatever
//! implements `Invoke`. It promises that what was acknowledged survives `kill -9` and that readers never wait for writers.

pub mod admin;
pub mod balancer;
pub mod calls;
pub mod catalog;
pub mod control;
pub mod cron;
pub mod dead_letters;
pub mod deploy;
pub mod dispatch;
pub mod events;
pub mod gateway;
pub mod log_hub;
pub mod log_share;
pub mod membership;
pub mod metrics;
pub mod nats;
pub mod prefetch;
pub mod remote;
pub mod router;
pub mod routes;
pub mod snapshot;
pub mod store;
pub mod subjects;
