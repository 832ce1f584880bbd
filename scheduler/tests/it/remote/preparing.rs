//! Preparations and pings.

use dunlin_api::{Body, Digest, Load, Refusal};
use dunlin_scheduler::remote::{Pong, PrepareError, Revisions};
use std::time::Duration;

use super::{Pair, name, ok, revision, signal};
use crate::doubles::Scheduler;

const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_ready_or_says_why_not() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let worker = name("worker");
    assert_eq!(pair.remotes.prepare(&worker, &revision(), LONG).await, Ok(()));
    *pair.node.refusal.lock().unwrap() = Some(Refusal::Compile("as the test wants".into()));
    let refused = pair.remotes.prepare(&worker, &revision(), LONG).await;
    assert_eq!(refused, Err(PrepareError::Refused(Refusal::Compile("as the test wants".into()))));
    pair.worker.set_draining(true);
    assert!(matches!(pair.remotes.prepare(&worker, &revision(), LONG).await, Err(PrepareError::Refused(_))));
    assert_eq!(pair.remotes.prepare(&name("nobody"), &revision(), LONG).await, Err(PrepareError::Unreachable));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preparation_may_take_longer_than_signs_of_life_may_be_missing() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    pair.node.prepares.forget_permits(1_000);
    let worker = name("worker");
    let revision = revision();
    let (prepared, ()) = tokio::join!(pair.remotes.prepare(&worker, &revision, LONG), async {
        signal(&pair.node.asked).await;
        tokio::time::sleep(Duration::from_millis(4_500)).await;
        pair.node.prepares.add_permits(1);
    });
    assert_eq!(prepared, Ok(()));
    let hasty = pair.remotes.prepare(&worker, &revision, Duration::from_millis(50)).await;
    assert_eq!(hasty, Err(PrepareError::TimedOut));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_brings_the_start_and_the_load_of_the_node() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let pong = pair.remotes.ping(&name("worker"), LONG).await;
    assert_eq!(pong, Some(Pong { boot: 7, load: Load { in_flight: 3, slots: 8 } }));
    assert_eq!(pair.remotes.ping(&name("nobody"), LONG).await, None);
}

#[tokio::test]
async fn a_catalog_knows_what_serves_and_finds_what_is_kept() {
    let dir = tempfile::TempDir::new().unwrap();
    let scheduler = Scheduler::open(dir.path()).await;
    let old = scheduler.deploy("f", b"one").await.revision;
    let new = scheduler.deploy("f", b"two").await.revision;
    let (catalog, function) = (&*scheduler.catalog, "f".parse().unwrap());
    assert_eq!(Revisions::known(catalog, &function, &new).unwrap().artifact, Digest::of(b"two"));
    assert!(Revisions::known(catalog, &function, &old).is_none());
    assert_eq!(catalog.find(&function, &old).await.unwrap().artifact, Digest::of(b"one"));
    assert!(catalog.find(&"g".parse().unwrap(), &old).await.is_none());
}
