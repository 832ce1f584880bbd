//! What happens to a component before traffic reaches it, on every node that may run it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::{BoxFuture, ByteSize, Digest, Revision, Settings, World};

/// Why a component cannot be deployed. The message is for the person who deploys: what, where, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Larger than the node takes.
    #[error("the component has {size}, more than this node takes ({limit})")]
    TooLarge {
        /// Its size.
        size: ByteSize,
        /// The limit.
        limit: ByteSize,
    },
    /// Not WebAssembly, truncated, or invalid.
    #[error("this is not a WebAssembly component: {0}")]
    NotComponent(String),
    /// A core module.
    #[error(
        "this is a core WebAssembly module, not a component: build it with `cargo build --target wasm32-wasip2`, \
         or turn it into one with `wasm-tools component new module.wasm -o component.wasm`"
    )]
    CoreModule,
    /// It exports no handler that a trigger could call.
    #[error(
        "it exports neither wasi:http/incoming-handler@0.2 nor wasi:http/handler@0.3 nor wasmcloud:messaging/handler@0.2, so nothing can call it; it exports {0}"
    )]
    NoHandler(String),
    /// It imports what the sandbox does not offer or the manifest does not grant.
    #[error("it imports what it cannot have here:\n{}", .0.join("\n"))]
    Imports(Vec<String>),
    /// It could not even start within its limits.
    #[error("it cannot run within its limits: {0}")]
    Limits(String),
    /// The compiler refused it or ran out of its own limits.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// The settings contradict each other or the component.
    #[error("{0}")]
    Settings(String),
    /// The node failed, not the component: trying again may help.
    #[error("this node could not make it ready: {0}")]
    Node(String),
}

/// Makes components ready to run on this node.
pub trait Prepare: Send + Sync + 'static {
    /// Inspects `component` without running it: size, handler, imports against what `settings` grant.
    fn check<'a>(&'a self, component: Bytes, settings: &'a Settings) -> BoxFuture<'a, Result<World, Refusal>>;

    /// Fetches, verifies and compiles `revision`, once per artifact however many ask; afterwards it is warm.
    fn prepare(&self, revision: Arc<Revision>) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Forgets what it keeps of `artifact`: nothing refers to it any more.
    fn retire(&self, artifact: Digest);
}
