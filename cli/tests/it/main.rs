//! The program as people use it: real processes, real components, real signals. One binary, because each links wasmtime.

mod clients;
mod crates;
mod dev;
mod node;
mod projects;
mod refusals;
mod serve;
mod support;
