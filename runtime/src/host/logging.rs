//! `wasi:logging/logging` (<https://github.com/WebAssembly/wasi-logging>): log lines with a level, which go where printed ones
//! go, with the same limits and the level in front, as the SDK's macros print it.
//!
//! Linked once per engine. Components import the draft with its version or, made earlier, without.

use dunlin_api::LogStream;
use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Lift, Linker},
};

use super::Output;

/// The names that components import.
const NAMES: [&str; 2] = ["wasi:logging/logging", "wasi:logging/logging@0.1.0-draft"];

/// The standard's levels, in its order.
#[allow(dead_code, reason = "guests make them")]
#[derive(Clone, Copy, Debug, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

impl Level {
    fn shown(self) -> (&'static str, LogStream) {
        match self {
            Self::Trace => ("TRACE", LogStream::Stdout),
            Self::Debug => ("DEBUG", LogStream::Stdout),
            Self::Info => ("INFO", LogStream::Stdout),
            Self::Warn => ("WARN", LogStream::Stderr),
            Self::Error => ("ERROR", LogStream::Stderr),
            Self::Critical => ("CRITICAL", LogStream::Stderr),
        }
    }
}

/// Offers the interface under both names; lines go to `output`.
///
/// # Errors
/// If `linker` has it already.
pub fn add_to_linker<T: 'static>(linker: &mut Linker<T>, output: fn(&mut T) -> &Output) -> wasmtime::Result<()> {
    let log = move |mut store: StoreContextMut<'_, T>, (level, context, message): (Level, String, String)| {
        let (level, stream) = level.shown();
        let text =
            if context.is_empty() { format!("{level} {message}") } else { format!("{level} {context}: {message}") };
        output(store.data_mut()).say(stream, &text);
        Ok(())
    };
    NAMES.iter().try_for_each(|name| linker.instance(name)?.func_wrap("log", log))
}
