//! Deploys against the embedded store and a scripted runtime.

use dunlin_api::{Digest, FunctionName, HttpTrigger, Limits, Refusal};
use dunlin_scheduler::{
    catalog::{Catalog, KEPT_REVISIONS},
    deploy::{DeployError, DeployRequest, SPARED, Swept},
};
use futures::future::join_all;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::doubles::{Scheduler, request, settings};

async fn scheduler() -> (TempDir, Scheduler) {
    let dir = TempDir::new().unwrap();
    let scheduler = Scheduler::open(dir.path()).await;
    (dir, scheduler)
}

fn name(text: &str) -> FunctionName {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_deploy_serves_and_says_what_it_did() {
    let (dir, scheduler) = scheduler().await;
    let done = scheduler.deploy("f", b"one").await;
    assert!(done.changed && done.nodes.len() == 1 && done.nodes[0].ready && done.nodes[0].node == "here");
    assert_eq!((done.artifact, done.routes), (Digest::of(b"one"), vec!["/f".to_owned()]));
    assert_eq!(scheduler.serving("f"), Some(Digest::of(b"one")));
    let revisions = scheduler.catalog.revisions(&name("f")).await.unwrap().unwrap();
    assert_eq!((revisions.len(), revisions[0].size_bytes), (1, 3));
    drop(scheduler);
    assert_eq!(Scheduler::open(dir.path()).await.serving("f"), Some(Digest::of(b"one")));
}

#[tokio::test]
async fn the_same_bytes_and_settings_change_nothing_and_other_settings_do() {
    let (_dir, scheduler) = scheduler().await;
    let first = scheduler.deploy("f", b"one").await;
    let again = scheduler.deploy("f", b"one").await;
    assert!(!again.changed);
    assert_eq!((again.version, &again.revision), (first.version, &first.revision));
    let limits = Limits { outbound: 1, ..Limits::default() };
    let other = DeployRequest { settings: dunlin_api::Settings { limits, ..settings("f") }, ..request("f", b"one") };
    let other = scheduler.deployer.deploy(other).await.unwrap();
    assert!(other.changed && other.version > first.version && other.revision != first.revision);
    assert_eq!(scheduler.catalog.revisions(&name("f")).await.unwrap().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_deploys_of_the_same_at_once_make_one_revision() {
    let (_dir, scheduler) = scheduler().await;
    scheduler.upload(b"one").await;
    let results = join_all((0..50).map(|_| {
        let deployer = scheduler.deployer.clone();
        tokio::task::spawn(async move { deployer.deploy(request("f", b"one")).await })
    }));
    let results: Vec<_> = results.await.into_iter().map(|joined| joined.unwrap().unwrap()).collect();
    assert_eq!(results.iter().filter(|done| done.changed).count(), 1);
    assert!(results.iter().all(|done| done.version == results[0].version));
    assert_eq!(scheduler.catalog.revisions(&name("f")).await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_deploy_that_fails_leaves_the_old_revision_serving() {
    let (_dir, scheduler) = scheduler().await;
    scheduler.deploy("f", b"good").await;
    let before = scheduler.catalog.snapshot();
    scheduler.upload(b"core").await;
    scheduler.upload(b"broken").await;
    scheduler.workshop.broken.lock().unwrap().push(Digest::of(b"broken"));
    let refused = |bytes: &'static [u8]| scheduler.deployer.deploy(request("f", bytes));
    assert!(matches!(refused(b"core").await, Err(DeployError::Refused(Refusal::CoreModule))));
    assert!(matches!(refused(b"broken").await, Err(DeployError::Refused(Refusal::Compile(_)))));
    let unknown = refused(b"never uploaded").await.unwrap_err();
    assert!(matches!(unknown, DeployError::UnknownArtifact(_)));
    assert!(unknown.to_string().contains("upload it first"), "{unknown}");
    let zero = Limits { concurrency: Some(0), ..Limits::default() };
    let settings =
        DeployRequest { settings: dunlin_api::Settings { limits: zero, ..settings("f") }, ..request("f", b"good") };
    assert!(matches!(scheduler.deployer.deploy(settings).await, Err(DeployError::Settings(_))));
    assert!(Arc::ptr_eq(&before, &scheduler.catalog.snapshot()), "nothing was published");
    assert!(scheduler.store.list("rev/").await.unwrap().len() == 1);
}

#[tokio::test]
async fn traffic_moves_only_when_the_new_revision_is_ready_and_a_caller_that_left_moved_nothing() {
    let (_dir, scheduler) = scheduler().await;
    scheduler.deploy("f", b"old").await;
    let new = scheduler.upload(b"new").await;
    scheduler.workshop.slow.lock().unwrap().push(new);
    let mut left = Box::pin(scheduler.deployer.deploy(request("f", b"new")));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut left).await.is_err());
    drop(left);
    let deploy = scheduler.deployer.deploy(request("f", b"new"));
    let look = async {
        while scheduler.workshop.checked.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(scheduler.serving("f"), Some(Digest::of(b"old")));
        scheduler.workshop.permits.0.add_permits(1);
    };
    let (done, ()) = tokio::join!(deploy, look);
    assert!(done.unwrap().changed);
    assert_eq!(scheduler.serving("f"), Some(new));
}

#[tokio::test]
async fn an_expected_version_that_is_not_there_is_a_conflict() {
    let (_dir, scheduler) = scheduler().await;
    scheduler.upload(b"one").await;
    scheduler.upload(b"two").await;
    let expecting = |expected, bytes| scheduler.deployer.deploy(DeployRequest { expected, ..request("f", bytes) });
    assert!(matches!(expecting(Some(1), b"one").await, Err(DeployError::Conflict { expected: 1, found: 0, .. })));
    let first = expecting(Some(0), b"one").await.unwrap();
    assert!(matches!(expecting(Some(0), b"two").await, Err(DeployError::Conflict { expected: 0, .. })));
    let second = expecting(Some(first.version), b"two").await.unwrap();
    // A recorded request, sent again, does not bring the old revision back.
    assert!(matches!(expecting(Some(0), b"one").await, Err(DeployError::Conflict { .. })));
    assert!(expecting(Some(first.version), b"two").await.is_err());
    assert!(!expecting(Some(second.version), b"two").await.unwrap().changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_functions_that_want_one_route_one_gets_it() {
    let (_dir, scheduler) = scheduler().await;
    scheduler.upload(b"x").await;
    let route = || dunlin_api::Settings {
        http: vec![HttpTrigger { route: "/same".into(), host: None, methods: Vec::new() }],
        ..Default::default()
    };
    let results = join_all((0..10).map(|n| {
        let request = DeployRequest { settings: route(), ..request(&format!("f{n}"), b"x") };
        let deployer = scheduler.deployer.clone();
        tokio::task::spawn(async move { deployer.deploy(request).await })
    }));
    let results: Vec<_> = results.await.into_iter().map(|joined| joined.unwrap()).collect();
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert_eq!(results.iter().filter(|r| matches!(r, Err(DeployError::Route(_)))).count(), 9);
    assert_eq!(scheduler.catalog.snapshot().functions.len(), 1);
}

#[tokio::test]
async fn keeps_the_newest_revisions_and_sweeps_what_they_do_not_need() {
    let (_dir, scheduler) = scheduler().await;
    let component = |n: usize| format!("component {n}").into_bytes();
    for n in 0..KEPT_REVISIONS + 2 {
        scheduler.deploy("f", &component(n)).await;
    }
    scheduler.deploy("g", &component(0)).await;
    let kept = scheduler.catalog.revisions(&name("f")).await.unwrap().unwrap();
    let artifacts: Vec<_> = kept.iter().map(|r| r.artifact).collect();
    let newest: Vec<_> = (2..KEPT_REVISIONS + 2).map(|n| Digest::of(&component(n))).collect();
    assert_eq!(artifacts, newest);
    assert_eq!(scheduler.store.list("rev/f/").await.unwrap().len(), KEPT_REVISIONS);
    // Young: spared, but its compiled code is forgotten.
    assert_eq!(scheduler.deployer.sweep(SPARED).await.unwrap(), Some(Swept::default()));
    assert_eq!(*scheduler.workshop.retired.lock().unwrap(), [Digest::of(&component(1))]);
    let swept = scheduler.deployer.sweep(Duration::ZERO).await.unwrap();
    assert_eq!(swept, Some(Swept { revisions: 0, artifacts: 1 }));
    assert_eq!(scheduler.artifacts.touch(Digest::of(&component(1))).await.unwrap(), None);
    assert!(scheduler.artifacts.touch(Digest::of(&component(0))).await.unwrap().is_some(), "g needs it");
}

#[tokio::test]
async fn a_removed_function_is_gone_with_its_revisions_and_can_come_back() {
    let (_dir, scheduler) = scheduler().await;
    let first = scheduler.deploy("f", b"one").await;
    scheduler.deployer.remove(&name("f"), false).await.unwrap();
    assert_eq!(scheduler.serving("f"), None);
    assert!(scheduler.store.list("rev/").await.unwrap().is_empty());
    assert!(matches!(scheduler.deployer.remove(&name("f"), false).await, Err(DeployError::NoFunction(_))));
    let swept = scheduler.deployer.sweep(Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(swept.artifacts, 1);
    let again = scheduler.deploy("f", b"one").await;
    assert!(again.changed && again.version > first.version);
}

#[tokio::test]
async fn follows_what_another_node_deploys_to_the_same_store() {
    let (_dir, scheduler) = scheduler().await;
    let other = Catalog::open(scheduler.store.clone()).await.unwrap();
    let (stop, mut snapshots) = (CancellationToken::new(), other.subscribe());
    let follow = other.follow(stop.clone());
    let deploys = async {
        let function = name("f");
        scheduler.deploy("f", b"one").await;
        snapshots.wait_for(|s| s.functions.contains_key(&function)).await.unwrap();
        let two = scheduler.deploy("f", b"two").await;
        snapshots.wait_for(|s| s.functions.get(&function).is_some_and(|f| f.version == two.version)).await.unwrap();
        scheduler.deployer.remove(&function, false).await.unwrap();
        snapshots.wait_for(|s| s.functions.is_empty()).await.unwrap();
        stop.cancel();
    };
    tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(follow, deploys) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_functions_load_in_a_moment() {
    let (_dir, scheduler) = scheduler().await;
    for count in [1_000, 10_000] {
        fill(&scheduler, count).await;
        let start = Instant::now();
        let catalog = Catalog::open(scheduler.store.clone()).await.unwrap();
        println!("{count} functions load in {:?}", start.elapsed());
        assert_eq!(catalog.snapshot().functions.len(), count);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

/// Writes `count` functions as a deploy would.
async fn fill(scheduler: &Scheduler, count: usize) {
    let done = scheduler.deploy("model", b"x").await;
    let model = scheduler.store.get("fn/model").await.unwrap().unwrap().0;
    let revision = scheduler.store.get(&format!("rev/model/{}", done.revision)).await.unwrap().unwrap().0;
    let renamed =
        |bytes: &[u8], n: usize| String::from_utf8_lossy(bytes).replace("model", &format!("f{n}")).into_bytes();
    let puts = (1..count).map(|n| {
        let (fn_key, rev_key) = (format!("fn/f{n}"), format!("rev/f{n}/{}", done.revision));
        let (entry, revision) = (renamed(&model, n), renamed(&revision, n));
        async move {
            // The second round finds those of the first.
            let _ = scheduler.store.put(&rev_key, revision.into(), None).await;
            let _ = scheduler.store.put(&fn_key, entry.into(), None).await;
        }
    });
    futures::StreamExt::for_each_concurrent(futures::stream::iter(puts), 1_000, |put| put).await;
}
