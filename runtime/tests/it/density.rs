//! More functions than memory: what goes, what stays, and in which order it comes back.

use crate::support::*;
use dunlin_api::*;
use std::{
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// The component `name` with another digest: an empty custom section with a name of its own at its end.
fn variant(name: &str, n: u8) -> Vec<u8> {
    let mut bytes = dunlin_fixtures::bytes(name);
    bytes.extend([0, 3, 2, b'v', n]);
    bytes
}

/// As many variants of `name`, compiled, and a node on them that has room for `room` of them.
async fn crowd(name: &'static str, count: u8, room: f64, settings: Settings) -> (Node, Vec<Arc<Revision>>) {
    let first = Node::start();
    let mut revisions = Vec::new();
    for n in 0..count {
        let mut settings = settings.clone();
        settings.env.insert("N".into(), n.to_string());
        revisions.push(first.revision(variant(name, n), settings).await.unwrap());
        first.executor.prepare(revisions[usize::from(n)].clone()).await.unwrap();
    }
    let each = first.executor.code_loaded().bytes() / u64::from(count);
    let memory = ByteSize((each as f64 * room) as u64);
    (Node::within(first.dir, |config| config.code_memory = memory), revisions)
}

async fn prepare(node: &Node, revision: &Arc<Revision>) {
    node.executor.prepare(revision.clone()).await.unwrap();
}

/// The tag file of a revision's code: its time is that of the last use.
fn tag(node: &Node, revision: &Revision) -> PathBuf {
    let mut files = std::fs::read_dir(node.dir.path().join("code")).unwrap().map(|entry| entry.unwrap().path());
    let prefix = revision.artifact.to_string();
    let is_tag = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(&prefix) && name.ends_with(".mac")
    };
    files.find(is_tag).unwrap()
}

fn set_last_use(node: &Node, revision: &Revision, ago: Duration) {
    File::open(tag(node, revision)).unwrap().set_modified(SystemTime::now() - ago).unwrap();
}

#[test]
fn what_does_not_fit_is_loaded_again_when_it_is_called() {
    run(async {
        let (node, revisions) = crowd("hello", 4, 2.5, Settings::default()).await;
        for _ in 0..2 {
            for revision in &revisions {
                assert!(node.text(revision, "/hello").await.contains("Hello"));
                assert!(node.executor.code_loaded() <= node.executor.code_memory());
                assert!(node.executor.ready_count() <= 2);
            }
        }
        assert_eq!(*node.store.fetches.lock().unwrap(), 0, "all of it from the compiled files");
    });
}

#[test]
fn everything_stays_where_there_is_room() {
    run(async {
        let (node, revisions) = crowd("hello", 4, 8.0, Settings::default()).await;
        for revision in &revisions {
            prepare(&node, revision).await;
        }
        assert_eq!(node.executor.ready_count(), 4);
        assert!(node.executor.has_room() && revisions.iter().all(|revision| node.executor.is_ready(revision)));
    });
}

#[test]
fn there_is_no_room_before_something_would_have_to_go() {
    run(async {
        let (node, revisions) = crowd("hello", 3, 2.1, Settings::default()).await;
        for revision in &revisions[..2] {
            assert!(node.executor.has_room());
            prepare(&node, revision).await;
        }
        assert!(!node.executor.has_room() && node.executor.ready_count() == 2);
    });
}

#[test]
fn what_is_larger_than_the_whole_memory_is_kept_alone() {
    run(async {
        let (node, revisions) = crowd("hello", 2, 0.5, Settings::default()).await;
        for revision in &revisions {
            node.text(revision, "/hello").await;
            assert!(node.executor.is_ready(revision));
            assert_eq!(node.executor.ready_count(), 1);
        }
    });
}

#[test]
fn a_call_that_runs_outlives_the_eviction_of_its_function() {
    run(async {
        let (node, revisions) = crowd("hostile3", 2, 1.1, limits(|l| l.timeout = 10 * SECOND)).await;
        let sleeper = call(&revisions[0], get("/sleep?ms=300"));
        let started = sleeper.started.clone();
        let sleep = async { text(node.executor.invoke(sleeper).await.unwrap()).await };
        let evict = async {
            while !started.get() {
                tokio::task::yield_now().await;
            }
            prepare(&node, &revisions[1]).await;
            assert!(!node.executor.is_ready(&revisions[0]), "it is evicted while it runs");
        };
        tokio::join!(sleep, evict);
    });
}

#[test]
fn idle_instances_go_with_their_function() {
    run(async {
        let instances = Instances { reuse: 100, concurrent: 1, idle: Duration::from_secs(60) };
        let (node, revisions) = crowd("hostile", 2, 1.1, Settings { instances, ..Settings::default() }).await;
        for expected in ["1", "2"] {
            assert_eq!(node.text(&revisions[0], "/state").await.trim(), expected);
        }
        prepare(&node, &revisions[1]).await;
        assert_eq!(node.text(&revisions[0], "/state").await.trim(), "1", "a new instance");
    });
}

#[test]
fn revisions_that_differ_in_settings_share_one_mapping() {
    run(async {
        let node = Node::start();
        let code = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let dir = node.dir.path().to_string_lossy().into_owned();
            maps.lines().filter(|line| line.contains(&dir) && line.contains(".cwasm")).count()
        };
        node.deploy("hello", Settings::default()).await;
        let alone = code();
        assert!(alone > 0);
        let other = Settings { env: [("N".into(), "2".into())].into(), ..Settings::default() };
        node.deploy("hello", other).await;
        assert_eq!((code(), node.executor.ready_count()), (alone, 2));
    });
}

#[test]
fn a_restarted_node_knows_what_was_called_last() {
    run(async {
        let hour = Duration::from_secs(3600);
        let (node, revisions) = crowd("hello", 3, 8.0, Settings::default()).await;
        for (n, revision) in (1..).zip(&revisions) {
            set_last_use(&node, revision, n * hour);
            prepare(&node, revision).await;
        }
        // Loaded ahead is not called: the order is the old one.
        let unsorted = || vec![revisions[1].clone(), revisions[2].clone(), revisions[0].clone()];
        let ids = |order: Vec<Arc<Revision>>| order.iter().map(|r| r.id.clone()).collect::<Vec<_>>();
        let expected = |at: [usize; 3]| at.map(|n| revisions[n].id.clone()).to_vec();
        assert_eq!(ids(node.executor.by_recent_use(unsorted()).await), expected([0, 1, 2]));
        node.text(&revisions[2], "/hello").await;
        assert!(node.executor.drain(SECOND).await);
        let again = Node::within(node.dir, |_| {});
        assert_eq!(ids(again.executor.by_recent_use(unsorted()).await), expected([2, 0, 1]));
    });
}

#[test]
fn a_call_that_loads_its_function_is_noted_soon() {
    run(async {
        let (node, revisions) = crowd("hello", 1, 8.0, Settings::default()).await;
        set_last_use(&node, &revisions[0], Duration::from_secs(3600));
        node.text(&revisions[0], "/hello").await;
        let noted = || std::fs::metadata(tag(&node, &revisions[0])).unwrap().modified().unwrap();
        while noted().elapsed().unwrap() > Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
