//! Schedules on several nodes that share a store, on a clock that only the tests move.

use dunlin_api::{
    Deployment, Digest, FunctionName, NodeName, Revision, RevisionId, Settings, World, trigger::CronTrigger,
};
use dunlin_scheduler::{
    cron::Cron,
    snapshot::{Deployed, Snapshot},
    store::CatalogStore,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::memory::Memory;

/// Midnight of the first day of 2026, in milliseconds.
const MIDNIGHT: i64 = 1_767_225_600_000;

/// A cluster: a store, what is deployed, who lives, and the wall clock, which begins half a second before midnight.
struct Cluster {
    store: Arc<Memory>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    peers: Arc<Mutex<Vec<NodeName>>>,
    clock_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    offset_ms: Arc<AtomicI64>,
}

struct Node {
    cron: Arc<Cron>,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Node {
    async fn stop(self) -> Arc<Cron> {
        self.stop.cancel();
        self.run.await.unwrap();
        self.cron
    }
}

fn name(text: &str) -> FunctionName {
    text.parse().unwrap()
}

fn trigger(settings: Value) -> CronTrigger {
    serde_json::from_value(settings).unwrap()
}

/// Every second, beside each other.
fn seconds() -> CronTrigger {
    trigger(json!({"schedule": "* * * * * *", "overlap": "allow"}))
}

impl Cluster {
    fn new(nodes: &[&str]) -> Self {
        let (start, offset_ms) = (Instant::now(), Arc::new(AtomicI64::new(0)));
        let offset = offset_ms.clone();
        let clock_ms = Arc::new(move || {
            MIDNIGHT - 500 + i64::try_from(start.elapsed().as_millis()).unwrap() + offset.load(Relaxed)
        });
        let peers = Arc::new(Mutex::new(nodes.iter().map(|node| node.parse().unwrap()).collect()));
        Self { store: Arc::default(), snapshots: watch::Sender::default(), peers, clock_ms, offset_ms }
    }

    /// Serves `f` with `triggers`, as a node sees it.
    fn serve(&self, triggers: &[CronTrigger]) {
        let settings = Settings { cron: triggers.into(), ..Settings::default() };
        let artifact = Digest::of(b"f");
        let id = RevisionId::of(&artifact, &settings);
        let revision = Revision {
            function: name("f"),
            id: id.clone(),
            artifact,
            size_bytes: 1,
            world: World::Http02,
            settings,
            created_ms: 0,
        };
        let deployment = Deployment { function: name("f"), serving: vec![(id.clone(), 1)], revisions: vec![id] };
        let deployed = Deployed { deployment, version: 1, serving: vec![(Arc::new(revision), 1)] };
        self.snapshots.send_replace(Arc::new(Snapshot { functions: [(name("f"), Arc::new(deployed))].into() }));
    }

    fn start(&self, node: &str) -> Node {
        let (clock, peers) = (self.clock_ms.clone(), self.peers.clone());
        let cron = Cron::with_clock(
            self.store.stores(),
            node.parse().unwrap(),
            self.snapshots.subscribe(),
            Arc::new(move || peers.lock().unwrap().clone()),
            Arc::new(move || Timestamp::from_millisecond(clock()).unwrap()),
        );
        let stop = CancellationToken::new();
        let run = tokio::task::spawn(cron.clone().run(stop.clone()));
        Node { cron, stop, run }
    }

    /// Writes that the ticks of `trigger` are dealt with up to `second` after midnight.
    async fn mark(&self, trigger: &CronTrigger, second: i64) {
        let key = format!("cron/f/{}", trigger.id());
        let value = json!({"tick": MIDNIGHT + second * 1_000}).to_string();
        self.store.put(&key, value.into(), None).await.unwrap();
    }

    /// The seconds after midnight whose ticks were appended, in that order.
    fn fired(&self) -> Vec<i64> {
        let ids = self.store.ids();
        let tick = |id: &String| (id.rsplit(':').next().unwrap().parse::<i64>().unwrap() - MIDNIGHT) / 1_000;
        ids.iter().map(tick).collect()
    }
}

async fn after(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_tick_is_an_event_in_the_queue_of_its_trigger() {
    let cluster = Cluster::new(&["a"]);
    let trigger = trigger(json!({"schedule": "0  *\t* * *", "timezone": "Europe/Berlin"}));
    cluster.serve(std::slice::from_ref(&trigger));
    let node = cluster.start("a");
    after(1).await;
    let (id, queue) = (trigger.id(), format!("f.{}", trigger.id()));
    let item = cluster.store.state().work.values().next().unwrap().clone();
    assert_eq!(item.subject, queue);
    for (header, value) in [
        ("Dunlin-Kind", "event"),
        ("ce-specversion", "1.0"),
        ("ce-id", &format!("cron:f:{id}:{MIDNIGHT}")),
        ("ce-source", &format!("/cron/{id}")),
        ("ce-type", "dev.dunlin.cron"),
        ("ce-time", "2026-01-01T00:00:00Z"),
        ("ce-subject", "0 * * * *"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(item.header(header), Some(value), "{header}");
    }
    let payload: Value = serde_json::from_slice(&item.payload).unwrap();
    let expected =
        json!({"tick": "2026-01-01T01:00:00+01:00", "schedule": "0 * * * *", "timezone": "Europe/Berlin", "missed": 0});
    assert_eq!(payload, expected);
    assert_eq!(cluster.store.state().signals, [format!("queue.{queue}")]);
    assert_eq!(node.stop().await.fired(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_many_nodes_two_look_after_a_trigger_and_each_tick_fires_once() {
    let names = ["a", "b", "c", "d", "e"];
    let cluster = Cluster::new(&names);
    cluster.serve(&[seconds()]);
    let nodes = names.map(|node| cluster.start(node));
    after(20).await;
    assert_eq!(cluster.fired(), (0..20).collect::<Vec<_>>());
    let mut fired = Vec::new();
    for node in nodes {
        fired.push(node.stop().await.fired());
    }
    fired.sort_unstable();
    assert_eq!(fired, [0, 0, 0, 0, 20], "one is first, and the second finds that it need not");
}

#[tokio::test(start_paused = true)]
async fn two_nodes_that_both_think_they_are_first_fire_each_tick_once() {
    let cluster = Cluster::new(&["a"]);
    cluster.serve(&[seconds()]);
    let a = cluster.start("a");
    let other = Cluster {
        peers: Arc::new(Mutex::new(vec!["b".parse().unwrap()])),
        store: cluster.store.clone(),
        snapshots: cluster.snapshots.clone(),
        clock_ms: cluster.clock_ms.clone(),
        offset_ms: cluster.offset_ms.clone(),
    };
    let b = other.start("b");
    after(20).await;
    assert_eq!(cluster.fired(), (0..20).collect::<Vec<_>>());
    assert!(cluster.store.state().attempts > 20, "they did race");
    drop((a.stop().await, b.stop().await));
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_delays_a_tick_by_a_second_and_two_lost_ones_until_they_are_missed() {
    let names = ["a", "b", "c"];
    let cluster = Cluster::new(&names);
    cluster.serve(&[seconds()]);
    let mut nodes: Vec<_> = names.map(|node| (node, cluster.start(node))).into();
    after(3).await;
    // The first is lost, and nobody knows it yet.
    let at = nodes.iter().position(|(_, node)| node.cron.fired() > 0).unwrap();
    drop(nodes.remove(at).1.stop().await);
    after(4).await;
    assert_eq!(cluster.fired(), (0..6).collect::<Vec<_>>(), "the tick of this second comes in the next");
    // Now the second one is lost too, and after four seconds that is seen.
    let at = nodes.iter().position(|(_, node)| node.cron.fired() > 0).unwrap();
    drop(nodes.remove(at).1.stop().await);
    after(4).await;
    assert_eq!(cluster.fired().len(), 6);
    let (last, node) = nodes.pop().unwrap();
    *cluster.peers.lock().unwrap() = vec![last.parse().unwrap()];
    after(2).await;
    assert_eq!(cluster.fired(), (0..13).collect::<Vec<_>>(), "late, and none lost");
    drop(node.stop().await);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_makes_ticks_late_and_loses_none() {
    let cluster = Cluster::new(&["a"]);
    cluster.serve(&[trigger(json!({"schedule": "*/5 * * * * *", "overlap": "allow", "missed": "skip"}))]);
    let node = cluster.start("a");
    after(1).await;
    cluster.store.state().down = true;
    after(90).await;
    assert_eq!(cluster.fired(), [0]);
    cluster.store.state().down = false;
    after(31).await;
    assert_eq!(cluster.fired(), (0..25).map(|n| n * 5).collect::<Vec<_>>());
    drop(node.stop().await);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_fires_nothing_twice() {
    let cluster = Cluster::new(&["a"]);
    cluster.serve(&[seconds()]);
    let node = cluster.start("a");
    after(10).await;
    cluster.offset_ms.store(-5_000, Relaxed);
    after(5).await;
    assert_eq!(cluster.fired(), (0..10).collect::<Vec<_>>());
    after(5).await;
    assert_eq!(cluster.fired(), (0..15).collect::<Vec<_>>());
    drop(node.stop().await);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_leaps_ahead_is_followed_within_a_second() {
    let cluster = Cluster::new(&["a"]);
    cluster.serve(&[trigger(json!({"schedule": "0 * * * *", "missed": "once"}))]);
    let node = cluster.start("a");
    after(1).await;
    cluster.offset_ms.store(3 * 3_600_000 + 60_000, Relaxed);
    cluster.store.state().work.clear();
    after(1).await;
    assert_eq!(cluster.fired(), [3 * 3_600], "the hours in between were missed");
    drop(node.stop().await);
}

#[tokio::test(start_paused = true)]
async fn after_downtime_missed_ticks_are_left_out_or_fire_once_or_all() {
    for (missed, expected, stands_for) in
        [("skip", vec![], 0), ("once", vec![-60], 4), ("all", vec![-300, -240, -180, -120, -60], 0)]
    {
        let cluster = Cluster::new(&["a"]);
        // Overlap leaves nothing of `all` out: that would make it the same as `once`.
        let trigger = trigger(json!({"schedule": "* * * * *", "missed": missed}));
        cluster.mark(&trigger, -360).await;
        cluster.serve(&[trigger]);
        cluster.offset_ms.store(-20_000, Relaxed);
        let node = cluster.start("a");
        after(10).await;
        assert_eq!(cluster.fired(), expected, "{missed}");
        if let Some(item) = cluster.store.state().work.values().next() {
            let payload: Value = serde_json::from_slice(&item.payload).unwrap();
            assert_eq!(payload["missed"], stands_for, "{missed}");
        }
        cluster.store.state().work.clear();
        after(20).await;
        assert_eq!(cluster.fired(), [0], "{missed}: and it goes on");
        drop(node.stop().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_trigger_without_a_record_begins_now() {
    let cluster = Cluster::new(&["a"]);
    cluster.offset_ms.store(-10_000, Relaxed);
    cluster.serve(&[trigger(json!({"schedule": "* * * * *", "missed": "all"}))]);
    let node = cluster.start("a");
    after(5).await;
    assert!(cluster.fired().is_empty());
    after(10).await;
    assert_eq!(cluster.fired(), [0]);
    drop(node.stop().await);
}

#[tokio::test(start_paused = true)]
async fn a_tick_during_a_run_is_left_out_or_appended_as_overlap_says() {
    for (overlap, expected) in [("skip", vec![0, 3, 4]), ("queue", vec![0, 1, 2, 3, 4]), ("allow", vec![0, 1, 2, 3, 4])]
    {
        let cluster = Cluster::new(&["a"]);
        let trigger = trigger(json!({"schedule": "* * * * * *", "overlap": overlap}));
        cluster.serve(&[trigger]);
        let node = cluster.start("a");
        after(3).await;
        // The run of the first tick ends after those of seconds 1 and 2.
        let mut fired = cluster.fired();
        cluster.store.state().work.clear();
        after(1).await;
        fired.extend(cluster.fired());
        cluster.store.state().work.clear();
        after(1).await;
        fired.extend(cluster.fired());
        assert_eq!(fired, expected, "{overlap}");
        assert_eq!(node.stop().await.left_out(), if overlap == "skip" { 2 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_redeploy_changes_the_schedule_at_once() {
    let cluster = Cluster::new(&["a"]);
    let slow = trigger(json!({"schedule": "*/4 * * * * *", "overlap": "allow"}));
    cluster.serve(&[seconds()]);
    let node = cluster.start("a");
    after(3).await;
    cluster.serve(&[slow]);
    after(8).await;
    assert_eq!(cluster.fired(), [0, 1, 2, 4, 8]);
    cluster.snapshots.send_replace(Arc::default());
    after(10).await;
    assert_eq!(cluster.fired().len(), 5, "a removed function has no ticks");
    drop(node.stop().await);
}
