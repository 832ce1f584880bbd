//! What a guest may import. Everything the sandbox can give is linked for every guest, on the engine that can run it;
//! what a function may do with it is decided by its settings when it calls.
//!
//! File systems and sockets are linked because language runtimes import them without using them: there is no
//! directory to open and every address is refused.

use wasmtime::{Engine, component::Linker};

use crate::{engine::EngineKind, host, sandbox::Guest};

/// The packages offered, each with the version tracks that resolve to what is linked.
const OFFERED: &[(&str, &[&str])] = &[
    ("wasi:cli", &["0.2", "0.3"]),
    ("wasi:clocks", &["0.2", "0.3"]),
    ("wasi:filesystem", &["0.2", "0.3"]),
    ("wasi:http", &["0.2", "0.3"]),
    ("wasi:io", &["0.2"]),
    ("wasi:keyvalue", &["0.2.0-draft", "0.2.0-draft2"]),
    // The draft, with its version and without.
    ("wasi:logging", &["0.1.0-draft", ""]),
    ("wasi:random", &["0.2", "0.3"]),
    ("wasi:sockets", &["0.2", "0.3"]),
    ("wasmcloud:messaging", &["0.2"]),
];

/// Links all of it. Takes 0.2 ms, so it is done once for each engine.
pub(crate) fn link(engine: &Engine, kind: EngineKind) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if kind == EngineKind::Concurrent {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    host::keyvalue::add_to_linker(&mut linker, Guest::keyvalue)?;
    host::logging::add_to_linker(&mut linker, |guest| &guest.output)?;
    host::messaging::add_to_linker(&mut linker, Guest::messaging)?;
    Ok(linker)
}

/// Whether the import `name`, such as `wasi:http/types@0.2.3`, can be had. Single functions of an interface are
/// checked when the component is linked.
pub(crate) fn offers(name: &str) -> bool {
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    let Some((package, _)) = interface.split_once('/') else { return false };
    let tracks = OFFERED.iter().find(|(offered, _)| *offered == package).map_or(&[][..], |(_, tracks)| tracks);
    tracks.iter().any(|track| {
        version == *track
            || version.strip_prefix(track).is_some_and(|patch| patch.starts_with('.') && !patch.contains('-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_every_release_of_a_track_and_nothing_else() {
        for name in [
            "wasi:http/types@0.2.0",
            "wasi:http/types@0.2.12",
            "wasi:http/client@0.3.2",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:logging/logging",
            "wasi:logging/logging@0.1.0-draft",
            "wasmcloud:messaging/consumer@0.2.1",
        ] {
            assert!(offers(name), "{name}");
        }
        for name in [
            "wasi:http/types@0.2.0-rc-1",
            "wasi:http/types",
            "wasi:nn/graph@0.2.0",
            "http/types@0.2.0",
            "wasi:io/poll@0.3.0",
            "wasi:logging/logging@0.1.0-other",
            "wasmcloud:messaging/consumer@0.3.0",
        ] {
            assert!(!offers(name), "{name}");
        }
    }
}
