//! The runtime against real components: what a guest gets, what it is kept from, and who is unaffected.

mod bodies;
mod code;
mod limits;
mod outside;
mod reuse;
mod support;
mod third_party;
