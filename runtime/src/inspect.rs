//! Reads a component without compiling it: what it exports, what it imports, how much memory it starts with.
//!
//! This is where a deploy learns in milliseconds that something cannot run here, and gets told so by name.

use dunlin_api::{ByteSize, Refusal, Settings, World};
use wasmparser::{Encoding, Parser, Payload};

use crate::{engine::EngineKind, linker};

/// What a component asks for.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) world: World,
    pub(crate) engine: EngineKind,
}

/// Nested components and modules deeper than this are nobody's output.
const MAX_DEPTH: usize = 100;

/// Checks `component` against what the sandbox offers and `settings` grant.
pub(crate) fn inspect(component: &[u8], settings: &Settings) -> Result<Inspection, Refusal> {
    let names = read(component)?;
    let world = world(&names.exports)?;
    let missing: Vec<String> = names.imports.iter().filter_map(|name| refuse_import(name, settings)).collect();
    if !missing.is_empty() {
        return Err(Refusal::Imports(missing));
    }
    let limit = settings.limits.memory;
    if names.initial_memory > limit.bytes() {
        let needs = ByteSize(names.initial_memory);
        return Err(Refusal::Limits(format!(
            "its memories start with {needs}, limits.memory is {limit}; allow at least that much"
        )));
    }
    if settings.instances.concurrent > 1 && world != World::Http03 {
        return Err(Refusal::Settings(
            "instances.concurrent above 1 needs a wasi:http@0.3 component: an instance of any other serves one call at a time"
                .into(),
        ));
    }
    let concurrent = world == World::Http03 || names.imports.iter().any(|name| name.contains("@0.3"));
    let engine = if concurrent { EngineKind::Concurrent } else { EngineKind::Plain };
    Ok(Inspection { world, engine })
}

/// Names at the top level, and memory of all core modules within.
#[derive(Default)]
struct Names {
    imports: Vec<String>,
    exports: Vec<String>,
    initial_memory: u64,
}

fn read(bytes: &[u8]) -> Result<Names, Refusal> {
    const PAGE: u64 = 64 << 10;
    let broken = |e: wasmparser::BinaryReaderError| {
        Refusal::NotComponent(format!("{} at byte {}; was the file cut off?", e.message(), e.offset()))
    };
    if bytes.len() < 8 || !bytes.starts_with(b"\0asm") {
        return Err(Refusal::NotComponent("it does not start with the WebAssembly magic number".into()));
    }
    let (mut names, mut depth) = (Names::default(), 0_usize);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => return Err(Refusal::CoreModule),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    names.exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    names.initial_memory = names.initial_memory.saturating_add(memory.map_err(broken)?.initial * PAGE);
                }
            }
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Refusal::NotComponent(format!("it nests more than {MAX_DEPTH} components")));
        }
    }
    Ok(names)
}

/// 0.3 before 0.2 where a component offers both: it was made for the newer. HTTP before messages: it also takes events.
fn world(exports: &[String]) -> Result<World, Refusal> {
    let has = |name: &str, track: &str| {
        exports.iter().any(|e| e.split_once('@').is_some_and(|(n, v)| n == name && release(v, track)))
    };
    if has("wasi:http/handler", "0.3") {
        Ok(World::Http03)
    } else if has("wasi:http/incoming-handler", "0.2") {
        Ok(World::Http02)
    } else if has("wasmcloud:messaging/handler", "0.2") {
        Ok(World::Messaging)
    } else {
        let list = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
        Err(Refusal::NoHandler(list))
    }
}

/// Whether `version` is a release of `track`: `0.3.0-rc-2026-03-15` is not one of `0.3`.
fn release(version: &str, track: &str) -> bool {
    version.strip_prefix(track).is_some_and(|rest| rest.starts_with('.') && !rest.contains('-'))
}

/// Why `import` cannot be had, or none.
fn refuse_import(import: &str, settings: &Settings) -> Option<String> {
    if import.starts_with("wasi:keyvalue/") && settings.kv.is_empty() {
        return Some(format!("  {import}: grant it the stores it may open, for example `kv = [\"default\"]`"));
    }
    if linker::offers(import) {
        return None;
    }
    let hint = match import.split_once('/').map(|(package, _)| package) {
        Some("wasi:nn" | "wasi:gfx" | "wasi:webgpu") => "no accelerator is offered",
        Some("wasi:sql" | "wasi:messaging" | "wasi:blobstore") => "this version of Dunlin does not offer it",
        Some("wasmcloud:messaging") => "version 0.2 of it is offered",
        Some(package) if package.starts_with("wasi:") => "this name or version is not offered",
        _ => "no standard interface; compose the component with one that exports it (`wac plug`)",
    };
    Some(format!("  {import}: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        inspect(bytes, &Settings::default()).unwrap_err().to_string()
    }

    #[test]
    fn says_what_is_wrong_with_what_is_no_component() {
        assert!(refusal(b"").contains("magic"));
        assert!(refusal(&[7; 4096]).contains("magic"));
        assert!(refusal(&wat::parse_str("(module)").unwrap()).contains("wasm-tools component new"));
        assert!(refusal(&wat::parse_str("(component)").unwrap()).contains("exports nothing"));
    }

    #[test]
    fn a_truncated_component_is_refused_wherever_it_is_cut() {
        let whole = wat::parse_str("(component (core module (memory 1) (func (export \"f\"))))").unwrap();
        for end in 0..whole.len() {
            let message = refusal(&whole[..end]);
            assert!(
                message.contains("not a WebAssembly component") || message.contains("exports nothing"),
                "{end}: {message}"
            );
        }
    }

    #[test]
    fn imports_that_cannot_be_had_are_all_named() {
        let text = r#"(component
            (import "acme:db/sql@1.0.0" (instance))
            (import "wasi:nn/graph@0.2.0" (instance))
            (instance (export "wasi:http/incoming-handler@0.2.0")))"#;
        let message = refusal(&wat::parse_str(text).unwrap());
        assert!(message.contains("acme:db/sql@1.0.0") && message.contains("wasi:nn/graph@0.2.0"), "{message}");
    }

    #[test]
    fn key_value_needs_a_grant_and_says_how_to_give_it() {
        let text = r#"(component
            (import "wasi:keyvalue/store@0.2.0-draft" (instance))
            (instance (export "wasi:http/incoming-handler@0.2.3")))"#;
        let bytes = wat::parse_str(text).unwrap();
        assert!(refusal(&bytes).contains("kv = ["));
        let granted = Settings { kv: vec!["default".into()], ..Settings::default() };
        assert_eq!(inspect(&bytes, &granted).unwrap().world, World::Http02);
    }

    #[test]
    fn events_go_to_a_messaging_handler_only_where_there_is_none_for_http() {
        let world = |exports: &[&str]| {
            let exports: String = exports.iter().map(|name| format!("(instance (export \"{name}\"))")).collect();
            let import = r#"(import "wasmcloud:messaging/consumer@0.2.0" (instance))"#;
            inspect(&wat::parse_str(format!("(component {import} {exports})")).unwrap(), &Settings::default())
        };
        let inspection = world(&["wasmcloud:messaging/handler@0.2.1"]).unwrap();
        assert_eq!((inspection.world, inspection.engine), (World::Messaging, EngineKind::Plain));
        let both = ["wasmcloud:messaging/handler@0.2.0", "wasi:http/incoming-handler@0.2.0"];
        assert_eq!(world(&both).unwrap().world, World::Http02);
        // Two interfaces have been called 0.3, and they differ.
        let refusal = world(&["wasmcloud:messaging/handler@0.3.0"]).unwrap_err().to_string();
        assert!(refusal.contains("wasmcloud:messaging/handler@0.2, so nothing"), "{refusal}");
    }

    #[test]
    fn memory_over_the_limit_is_refused_before_it_runs() {
        let text = r#"(component (core module (memory 65536)) (instance (export "wasi:http/incoming-handler@0.2.3")))"#;
        assert!(refusal(&wat::parse_str(text).unwrap()).contains("limits.memory"));
    }

    #[test]
    fn release_candidates_of_a_version_are_not_that_version() {
        assert!(release("0.3.0", "0.3") && release("0.2.12", "0.2"));
        assert!(!release("0.3.0-rc-2026-03-15", "0.3") && !release("0.30.0", "0.3"));
    }
}
