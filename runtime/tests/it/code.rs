//! Compiled once, kept, verified, and recompiled when it is damaged.

use crate::support::*;
use dunlin_api::*;
use std::{path::PathBuf, sync::Arc};

fn files(node: &Node, extension: &str) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(node.dir.path().join("code")).unwrap();
    dir.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect()
}

#[test]
fn many_who_wait_for_one_artifact_cost_one_compilation() {
    run(async {
        let node = Arc::new(Node::start());
        let revision = node.revision(dunlin_fixtures::bytes("hello"), Settings::default()).await.unwrap();
        let calls = (0..32).map(|_| {
            let (node, revision) = (node.clone(), revision.clone());
            async move { node.text(&revision, "/hello").await }
        });
        assert!(futures::future::join_all(calls).await.iter().all(|answer| answer.contains("Hello")));
        assert_eq!(*node.store.fetches.lock().unwrap(), 1);
    });
}

#[test]
fn a_restarted_node_maps_what_it_compiled_and_recompiles_what_was_damaged() {
    run(async {
        let first = Node::start();
        let revision = first.deploy("hello", Settings::default()).await;
        first.text(&revision, "/hello").await;
        let second = Node::within(first.dir, |_| {});
        let again = second.revision(dunlin_fixtures::bytes("hello"), Settings::default()).await.unwrap();
        second.text(&again, "/hello").await;
        assert_eq!(*second.store.fetches.lock().unwrap(), 0, "mapped from disk");

        let path = files(&second, "cwasm").remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let third = Node::within(second.dir, |_| {});
        let again = third.revision(dunlin_fixtures::bytes("hello"), Settings::default()).await.unwrap();
        assert!(third.text(&again, "/hello").await.contains("Hello"));
        assert_eq!(third.executor.corrupt_code_files(), 1);
        assert_eq!(*third.store.fetches.lock().unwrap(), 1);
    });
}

#[test]
fn a_retired_artifact_leaves_no_code_behind() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("hello", Settings::default()).await;
        assert_eq!(files(&node, "cwasm").len(), 1);
        node.executor.retire(revision.artifact);
        assert!(files(&node, "cwasm").is_empty() && files(&node, "mac").is_empty());
    });
}

#[test]
fn what_cannot_run_is_refused_with_a_reason() {
    run(async {
        let node = Node::with(|config| config.max_component = ByteSize::mib(1));
        let refused = |name: &'static str| node.revision(dunlin_fixtures::bytes(name), Settings::default());
        assert!(matches!(refused("core-module").await, Err(Refusal::CoreModule)));
        assert!(matches!(refused("no-handler").await, Err(Refusal::NoHandler(_))));
        assert!(matches!(refused("big-memory").await, Err(Refusal::Limits(_))));
        assert!(matches!(refused("thirdparty-js").await, Err(Refusal::TooLarge { .. })));
        let mut cut = dunlin_fixtures::bytes("hello");
        cut.truncate(cut.len() / 2);
        assert!(matches!(node.revision(cut, Settings::default()).await, Err(Refusal::NotComponent(_))));
    });
}

#[test]
fn a_missing_artifact_is_the_nodes_fault_and_says_so() {
    run(async {
        let node = Node::start();
        let other = Node::start();
        let revision = other.revision(dunlin_fixtures::bytes("hello"), Settings::default()).await.unwrap();
        let error = node.call(&revision, "/").await.err().unwrap();
        assert_eq!((error.fault(), error.status().as_u16()), (Fault::Platform, 503), "{error}");
    });
}
