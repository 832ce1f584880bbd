//! The runtime against real components: what a guest gets, what it is kept from, and who is unaffected.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on should say where")]

mod bodies;
mod code;
mod density;
mod limits;
mod messaging;
mod outside;
mod reuse;
mod support;
mod third_party;
