//! What a guest may call, beyond the WASI interfaces that wasmtime itself implements.
//!
//! The sandbox builds these once per revision ([`OutputSink`], [`EgressPolicy`], [`KeyValueCtx`], [`MessagingGrant`]) or
//! once per node ([`EgressClient`]) and hands a view of them to every store. They promise that a guest reaches only what
//! its revision was granted, whatever it spells, and that nothing it does here blocks another guest. Each bounds what it
//! keeps: output by bytes and lines, outbound calls by number and connections, key-value entries by size, messages by
//! number and bytes.

pub mod egress;
pub mod keyvalue;
pub mod logging;
pub mod messaging;
pub mod output;

pub use egress::{EgressClient, EgressConfig, EgressPolicy, Network, Outbound, SystemNetwork};
pub use keyvalue::{KeyValueCtx, KeyValueView};
pub use messaging::{MessagingCtx, MessagingGrant, MessagingView};
pub use output::{Output, OutputSink};
