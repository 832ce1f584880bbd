//! The arrows between the crates, as design and ARCHITECTURE.md draw them.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use std::collections::{BTreeSet, HashMap};

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    // What other platforms would need was never downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.other_options(["--locked".into(), "--offline".into(), "--filter-platform".into(), platform]);
    command.exec().unwrap()
}

/// Crates of the workspace that `of` depends on directly, tests apart.
fn own(metadata: &Metadata, of: &str) -> BTreeSet<String> {
    let members: BTreeSet<_> = metadata.workspace_packages().iter().map(|p| p.name.to_string()).collect();
    let packages = metadata.workspace_packages();
    let package = packages.iter().find(|p| p.name.as_str() == of).unwrap_or_else(|| panic!("no crate {of}"));
    let direct = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
    direct.map(|d| d.name.clone()).filter(|name| members.contains(name)).collect()
}

/// Every package that `of` is built with, tests apart.
fn all(metadata: &Metadata, of: &str) -> BTreeSet<String> {
    let nodes = &metadata.resolve.as_ref().unwrap().nodes;
    let nodes: HashMap<&PackageId, _> = nodes.iter().map(|node| (&node.id, node)).collect();
    let name = |id: &PackageId| metadata[id].name.to_string();
    let mut open: Vec<&PackageId> = metadata.workspace_members.iter().filter(|id| name(id) == of).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(name(id)) {
            let used =
                |dep: &&cargo_metadata::NodeDep| dep.dep_kinds.iter().any(|k| k.kind != DependencyKind::Development);
            open.extend(nodes[id].deps.iter().filter(used).map(|dep| &dep.pkg));
        }
    }
    seen
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.into()).collect()
}

#[test]
fn dependencies_run_one_way() {
    let metadata = metadata();
    for (of, on) in [
        ("dunlin", &["dunlin-api", "dunlin-runtime", "dunlin-scheduler"][..]),
        ("dunlin-scheduler", &["dunlin-api"]),
        ("dunlin-runtime", &["dunlin-api"]),
        ("dunlin-api", &[]),
        ("dunlin-sdk", &["dunlin-sdk-macros"]),
        ("dunlin-sdk-macros", &[]),
        ("dunlin-fixtures", &[]),
    ] {
        assert_eq!(own(&metadata, of), set(on), "what {of} depends on");
    }
}

#[test]
fn only_the_runtime_knows_wasmtime() {
    let metadata = metadata();
    let links = |of: &str| all(&metadata, of).iter().any(|name| name.starts_with("wasmtime"));
    assert!(links("dunlin-runtime"), "the test looks at the right graph");
    for of in ["dunlin-scheduler", "dunlin-api", "dunlin-sdk"] {
        assert!(!links(of), "{of} is built with wasmtime");
    }
}
