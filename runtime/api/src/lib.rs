//! The contract between triggers, scheduler and runtime: the types that cross a crate border and the one seam,
//! [`Invoke`]. Every other crate of the project depends on this one and it on none of them.
//!
//! It performs no I/O and knows neither wasmtime nor a network. What it promises is meaning: a name that parsed is safe
//! in a path and in a subject, a manifest that parsed is complete, an error knows whose fault it is. Its bounds are the
//! bounds of the types themselves, stated where they stand.

mod body;
mod digest;
mod error;
mod function;
mod invocation;
mod limits;
mod logs;
pub mod manifest;
mod message;
mod name;
mod prepare;
mod problem;
mod size;
mod stores;
pub mod subject;
mod trace;
pub mod trigger;

pub use body::{Body, BodyError};
pub use digest::{Digest, ParseDigestError};
pub use error::{Fault, InvokeError, Retry};
pub use function::{Deployment, HttpTrigger, Instances, Placement, Revision, Settings, World};
pub use invocation::{Declined, Invocation, InvocationId, Invoke, Load, LocalNode, RanOn, Started, Timing};
pub use limits::Limits;
pub use logs::{LogLine, LogStream, Logs};
pub use message::{Message, Publish, Published};
pub use name::{ClusterName, FunctionName, NameError, NodeName, RevisionId};
pub use prepare::{Prepare, Refusal};
pub use problem::Problem;
pub use size::ByteSize;
pub use stores::{Artifacts, BoxFuture, KeyValue, StoreError, Version};
pub use trace::TraceContext;
