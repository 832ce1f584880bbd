//! What a guest may call, beyond the WASI interfaces that wasmtime itself implements.
//!
//! The sandbox builds these once per revision ([`OutputSink`], [`EgressPolicy`], [`KeyValueCtx`]) or once per node
//! ([`EgressClient`]) and hands a view of them to every store. They promise that a guest reaches only what its revision
//! was granted, whatever it spells, and that nothing it does here blocks another guest. Each bounds what it keeps:
//! output by bytes and lines, outbound calls by number and connections, key-value entries by size.

pub mod egress;
pub mod keyvalue;
pub mod output;

pub use egress::{EgressClient, EgressConfig, EgressPolicy, Network, Outbound, SystemNetwork};
pub use keyvalue::{KeyValueCtx, KeyValueView};
pub use output::{Output, OutputSink};

/// Packages of which every interface is offered to every function, at any version compatible with the one given.
/// An import outside of these and of [`GRANTED`] is refused at deploy.
pub const OFFERED: &[(&str, &[&str])] = &[
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:clocks", &["monotonic-clock", "wall-clock", "system-clock", "timezone", "types"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
            "types",
        ],
    ),
    // `outgoing-handler` is 0.2, `handler` and `client` are 0.3; what they reach is the matter of `egress`.
    ("wasi:http", &["types", "outgoing-handler", "handler", "client"]),
];

/// Interfaces that are offered only to functions whose settings grant something of them, with the manifest line that does.
pub const GRANTED: &[(&str, &[&str], &str)] =
    &[("wasi:keyvalue", &["store", "atomics", "batch"], r#"kv = ["<store>"]"#)];

/// What is known of one import by its full name, such as `wasi:http/types@0.2.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// Every function has it.
    Offered,
    /// Only functions whose manifest has this line have it.
    Granted(&'static str),
    /// No function has it.
    Unknown,
}

/// Looks an import up, whatever its version: versions are the linker's business.
pub fn import(name: &str) -> Import {
    let unversioned = name.split_once('@').map_or(name, |(name, _)| name);
    let Some((package, interface)) = unversioned.split_once('/') else { return Import::Unknown };
    let has = |(of, interfaces): (&str, &[&str])| of == package && interfaces.contains(&interface);
    if OFFERED.iter().any(|&(of, interfaces)| has((of, interfaces))) {
        return Import::Offered;
    }
    let granted = GRANTED.iter().find(|&&(of, interfaces, _)| has((of, interfaces)));
    granted.map_or(Import::Unknown, |&(_, _, line)| Import::Granted(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_imports_of_any_version_by_name() {
        assert_eq!(import("wasi:http/types@0.2.12"), Import::Offered);
        assert_eq!(import("wasi:http/client@0.3.0"), Import::Offered);
        assert!(matches!(import("wasi:keyvalue/store@0.2.0-draft"), Import::Granted(line) if line.contains("kv")));
        for unknown in ["wasi:sockets/tcp@0.2.0", "wasi:filesystem/types@0.2.0", "env", "wasi:http", "a/b/c"] {
            assert_eq!(import(unknown), Import::Unknown, "{unknown}");
        }
    }
}
