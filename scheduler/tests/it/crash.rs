//! `kill -9`: a child process works on a data directory and acknowledges; it is killed at a random moment, and everything
//! that it acknowledged must be there, and nothing that is half written.

use dunlin_api::{Artifacts, ByteSize, Digest, KeyValue};
use dunlin_scheduler::store::{ArtifactStore, embedded::Embedded};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

use crate::{
    contract::artifacts::pieces,
    doubles::{Scheduler, request},
};

mod events;

const ROLE: &str = "DUNLIN_TEST_ROLE";
const DIR: &str = "DUNLIN_TEST_DIR";
const ROUNDS: u64 = 20;

/// Not a test of its own: what a child process runs. Without a role it does nothing.
#[test]
fn child_process() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "keyvalue" => write_keyvalue(Path::new(&dir)).await,
            "artifacts" => put_artifacts(Path::new(&dir)).await,
            "deploy" => deploy(Path::new(&dir)).await,
            "events" => events::work(Path::new(&dir)).await,
            other => panic!("no role {other}"),
        }
    });
}

fn acknowledge(what: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ACK {what}").and_then(|()| out.flush()).unwrap();
}

async fn write_keyvalue(dir: &Path) {
    let store: Arc<dyn KeyValue> = Embedded::open(dir).unwrap().keyvalue();
    let counters = (0..4).map(|n| {
        let store = store.clone();
        tokio::task::spawn(async move {
            loop {
                let sum = store.increment("counters", &n.to_string(), 1).await.unwrap();
                store.set("pairs", &format!("{n}-{sum}"), vec![b'x'; 1 + sum as usize % 5_000].into()).await.unwrap();
                acknowledge(format_args!("{n} {sum}"));
            }
        })
    });
    futures::future::join_all(counters).await;
}

async fn put_artifacts(dir: &Path) {
    let store = Embedded::open(dir).unwrap().artifacts();
    let start = store.list().await.unwrap().len() as u64;
    for n in start.. {
        let bytes = component(n);
        let digest = Digest::of(&bytes);
        store.put(digest, pieces(&bytes), ByteSize::mib(1)).await.unwrap();
        acknowledge(digest);
    }
}

fn component(n: u64) -> Vec<u8> {
    format!("component {n}").into_bytes().repeat(1 + n as usize % 3_000)
}

async fn deploy(dir: &Path) {
    let scheduler = Scheduler::open(dir).await;
    let start = scheduler.catalog.snapshot().functions.get(&"f0".parse().unwrap()).map_or(0, |f| f.version);
    for n in start.. {
        let name = format!("f{}", n % 3);
        let done = scheduler.deploy(&name, &component(n)).await;
        acknowledge(format_args!("{name} {} {}", done.version, done.artifact));
    }
}

/// Runs `role` on `dir`, kills it after `life` and returns what it acknowledged.
fn killed(role: &str, dir: &Path, life: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_process", "--nocapture"])
        .envs([(ROLE, role.as_ref()), (DIR, dir.as_os_str())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let lines = out.lines().map_while(Result::ok);
        lines.filter_map(|line| Some(line.split_once("ACK ")?.1.to_owned())).collect::<Vec<_>>()
    });
    std::thread::sleep(life);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "it must have been killed, not have ended: {status}");
    reader.join().unwrap()
}

/// Random lives for the children; the seed is printed, and taken from `DUNLIN_TEST_SEED` to repeat a run.
fn lives() -> impl Iterator<Item = Duration> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = std::env::var("DUNLIN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(now.subsec_nanos() as u64);
    println!("DUNLIN_TEST_SEED={seed}");
    // splitmix64 (Steele, Lea, Flood 2014).
    (1..=ROUNDS).map(move |round| {
        let mut z = seed.wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_micros(20_000 + (z ^ (z >> 31)) % 180_000)
    })
}

#[tokio::test]
async fn no_acknowledged_write_of_a_guest_is_lost() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = BTreeMap::<String, i64>::new();
    for life in lives() {
        let lines = killed("keyvalue", dir.path(), life);
        let store = Embedded::open(dir.path()).unwrap().keyvalue();
        for line in &lines {
            let (counter, sum) = line.split_once(' ').unwrap();
            let sum: i64 = sum.parse().unwrap();
            let (value, _) = store.get("pairs", &format!("{counter}-{sum}")).await.unwrap().unwrap();
            assert_eq!(value.len(), 1 + sum as usize % 5_000);
            let highest = acknowledged.entry(counter.to_owned()).or_default();
            assert!(sum > *highest, "counter {counter} gave {sum} after {highest}");
            *highest = sum;
        }
        for (counter, sum) in &acknowledged {
            // Reading by adding nothing. A killed child may have counted once more than it could say.
            let found = store.increment("counters", counter, 0).await.unwrap();
            assert!(found >= *sum, "counter {counter} is {found}, but {sum} was acknowledged");
        }
    }
    println!("acknowledged: {acknowledged:?}");
    assert!(acknowledged.values().sum::<i64>() > 0, "the children never came to work");
}

#[tokio::test]
async fn no_acknowledged_artifact_is_lost_and_none_is_half_written() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = 0;
    for life in lives() {
        let lines = killed("artifacts", dir.path(), life);
        let store = Embedded::open(dir.path()).unwrap().artifacts();
        for line in &lines {
            store.fetch(line.parse().unwrap()).await.unwrap();
        }
        let listed = store.list().await.unwrap();
        for artifact in &listed {
            store.fetch(artifact.digest).await.unwrap();
        }
        let files = std::fs::read_dir(dir.path().join("artifacts")).unwrap().count();
        assert_eq!(files, listed.len(), "nothing of cut-off uploads is left");
        acknowledged += lines.len();
    }
    println!("acknowledged: {acknowledged}");
    assert!(acknowledged > 0, "the children never came to work");
}

#[tokio::test]
async fn a_deploy_cut_off_anywhere_leaves_the_old_revision_or_the_new_one() {
    let dir = TempDir::new().unwrap();
    let mut last = BTreeMap::new();
    for life in lives() {
        for line in killed("deploy", dir.path(), life) {
            let mut words = line.split(' ').map(str::to_owned);
            let [name, version, artifact] = std::array::from_fn(|_| words.next().unwrap());
            last.insert(name, (version.parse::<u64>().unwrap(), artifact.parse::<Digest>().unwrap()));
        }
        let scheduler = Scheduler::open(dir.path()).await;
        let snapshot = scheduler.catalog.snapshot();
        for (name, (version, artifact)) in &last {
            let deployed = &snapshot.functions[&name.parse().unwrap()];
            assert!(deployed.version >= *version, "{name} went back");
            if deployed.version == *version {
                assert_eq!(scheduler.serving(name), Some(*artifact));
            }
        }
        for (name, deployed) in &snapshot.functions {
            // What serves is whole, and so is everything one could go back to.
            let kept = scheduler.catalog.revisions(name).await.unwrap().unwrap();
            assert_eq!(kept.len(), deployed.deployment.revisions.len());
            for revision in &kept {
                scheduler.artifacts.fetch(revision.artifact).await.unwrap();
            }
        }
        scheduler.deployer.sweep(Duration::ZERO).await.unwrap();
        let revisions = scheduler.store.list("rev/").await.unwrap().len();
        let kept: usize = snapshot.functions.values().map(|f| f.deployment.revisions.len()).sum();
        assert_eq!(revisions, kept, "orphans are swept");
    }
    println!("acknowledged: {last:?}");
    assert!(!last.is_empty(), "the children never came to work");
    let scheduler = Scheduler::open(dir.path()).await;
    let name = last.keys().next().unwrap();
    scheduler.upload(b"after").await;
    assert!(scheduler.deployer.deploy(request(name, b"after")).await.unwrap().changed);
}
