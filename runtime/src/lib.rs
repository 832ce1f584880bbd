//! The runtime of one node: keeps components ready and runs them within limits. It knows no other node.
//!
//! The command line makes an [`Executor`]; the scheduler sees only its traits, `Invoke` and `Prepare`. It promises that
//! whatever a guest does ends that invocation at most, that a response streams as the guest writes it, and that code it
//! runs was compiled by this node from the bytes the digest names. Slots, memory, CPU time, loaded code and compilers are
//! bounded by [`RuntimeConfig`] and each function's limits.
//!
//! An invocation passes [`executor`](Executor) → `admission` → `ready` → `entry` → `sandbox`; a component that is not
//! ready passes `loader` → `code` (disk) or `compile` (child process) → `linker`.

mod admission;
mod cache;
mod code;
mod compile;
mod config;
mod engine;
mod entry;
mod executor;
pub mod host;
mod inspect;
mod linker;
mod loader;
mod ready;
mod sandbox;
mod ticker;
mod turns;

pub use compile::compile_worker;
pub use config::{CompileLimits, Compiler, DEFAULT_CODE_MEMORY, RuntimeConfig};
pub use engine::Engines;
pub use executor::Executor;

use std::{io, path::PathBuf};

/// Why the runtime could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// wasmtime refuses this machine or its configuration.
    #[error("the WebAssembly engine cannot start: {0:#}")]
    Engine(wasmtime::Error),
    /// The system gave no thread.
    #[error("no thread for the engine's clock: {0}")]
    Thread(io::Error),
    /// Files cannot be kept there.
    #[error("the directory {} cannot be used for compiled code: {error}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl From<StartError> for dunlin_api::Refusal {
    /// An engine is made when the first component wants it, and may fail then.
    fn from(error: StartError) -> Self {
        Self::Node(error.to_string())
    }
}

/// The tokio runtime that guests run on.
///
/// # Errors
/// If the system gives no threads.
pub fn tokio_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Timers and sockets are looked at after this many polls of tasks. The default of 61 is made for short polls;
        // a guest that computes takes a whole tick for each of its own.
        .event_interval(8)
        .thread_name("dunlin")
        .build()
}
