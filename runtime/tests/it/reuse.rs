//! Fresh instances by default; reuse only where it was asked for, and only of instances that behaved.

use crate::support::*;
use dunlin_api::*;
use std::{sync::Arc, time::Duration};

fn reusing(reuse: u32, concurrent: u32) -> Settings {
    let instances = Instances { reuse, concurrent, idle: Duration::from_secs(60) };
    Settings { instances, ..short() }
}

fn short() -> Settings {
    limits(|l| (l.timeout, l.cpu) = (10 * SECOND, Duration::from_millis(300)))
}

async fn counts(node: &Node, revision: &Arc<Revision>, calls: usize) -> Vec<u32> {
    let mut counts = Vec::new();
    for _ in 0..calls {
        counts.push(node.text(revision, "/state").await.trim().parse().unwrap());
    }
    counts
}

#[test]
fn every_invocation_meets_a_fresh_instance() {
    run(async {
        let node = Node::start();
        for name in ["hostile", "hostile3"] {
            let revision = node.deploy(name, Settings::default()).await;
            assert_eq!(counts(&node, &revision, 3).await, [1, 1, 1], "{name}");
        }
    });
}

#[test]
fn a_reused_instance_serves_its_number_of_calls_and_is_retired() {
    run(async {
        let node = Node::start();
        for (name, concurrent) in [("hostile", 1), ("hostile3", 1), ("hostile3", 8)] {
            let revision = node.deploy(name, reusing(3, concurrent)).await;
            assert_eq!(counts(&node, &revision, 5).await, [1, 2, 3, 1, 2], "{name}");
        }
    });
}

#[test]
fn an_instance_that_failed_is_never_met_again() {
    run(async {
        let node = Node::start();
        for (name, concurrent) in [("hostile", 1), ("hostile3", 1), ("hostile3", 8)] {
            let revision = node.deploy(name, reusing(100, concurrent)).await;
            for failure in ["/trap", "/spin"] {
                assert_eq!(counts(&node, &revision, 2).await, [1, 2], "{name} before {failure}");
                let error = node.call(&revision, failure).await.err().unwrap();
                assert_eq!(error.fault(), Fault::Function, "{name}{failure}: {error}");
                assert_eq!(counts(&node, &revision, 1).await, [1], "{name} after {failure}");
                node.executor.retire(revision.artifact);
            }
        }
    });
}

#[test]
fn an_idle_instance_is_retired() {
    run(async {
        let node = Node::start();
        for (name, concurrent) in [("hostile", 1), ("hostile3", 8)] {
            let mut settings = reusing(100, concurrent);
            settings.instances.idle = Duration::from_millis(1);
            let revision = node.deploy(name, settings).await;
            assert_eq!(counts(&node, &revision, 1).await, [1], "{name}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(counts(&node, &revision, 1).await, [1], "{name}");
        }
    });
}

/// Whether a call that traps ends others, which sleep meanwhile; there are two more of them than may run alone.
async fn a_trap_ends_sleepers(node: &Node, concurrent: u32) -> bool {
    let revision = node.deploy("hostile3", reusing(1000, concurrent)).await;
    let cores = std::thread::available_parallelism().unwrap().get();
    let sleepers: Vec<_> = (0..4 * cores + 2).map(|_| call(&revision, get("/sleep?ms=500"))).collect();
    let started: Vec<_> = sleepers.iter().map(|call| call.started.clone()).collect();
    let sleep = futures::future::join_all(sleepers.into_iter().map(|call| node.executor.invoke(call)));
    let trap = async {
        while !started.iter().all(|started| started.get()) {
            tokio::task::yield_now().await;
        }
        node.executor.invoke(call(&revision, get("/trap"))).await.unwrap_err();
    };
    tokio::join!(sleep, trap).0.iter().any(Result::is_err)
}

#[test]
fn calls_that_wait_share_an_instance_only_where_that_was_asked_for() {
    run(async {
        let node = Node::start();
        assert!(!a_trap_ends_sleepers(&node, 1).await);
        // On a busy machine another instance may be made although the first would take the call.
        let mut shared = false;
        for _ in 0..10 {
            shared = shared || a_trap_ends_sleepers(&node, 8).await;
        }
        assert!(shared);
    });
}

#[test]
fn concurrency_within_an_instance_is_refused_for_guests_of_the_older_kind() {
    run(async {
        let node = Node::start();
        let refused = node.revision(dunlin_fixtures::bytes("hostile"), reusing(10, 2)).await;
        assert!(matches!(refused, Err(Refusal::Settings(message)) if message.contains("0.3")));
    });
}
