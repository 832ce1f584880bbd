//! Durable events while nodes and NATS die: what was acknowledged to the publisher is done or a dead letter, and the two add up.
//!
//! `DUNLIN_SOAK=1` publishes 100,000 events and kills a node every three seconds; without it 3,000 and one every second.

use async_nats::{
    HeaderMap,
    jetstream::{self, consumer::pull::OrderedConfig},
};
use futures::StreamExt as _;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

use super::{
    soak,
    support::{Cluster, Member, until},
};
use crate::support::fixture;

/// Where the function books what it has done, and where the dead letters are, in the cluster of the tests.
const BOOKED: (&str, &str) = ("KV_dl-dunlin-kv", "$KV.dl-dunlin-kv.booked.");
const DEAD: &str = "dl-dunlin-dead";
/// Events that are published and not acknowledged yet.
const IN_FLIGHT: usize = 256;
/// Events at once on one node: what runs when it is killed may have been done and is done again.
const CONCURRENCY: usize = 8;

/// What one run does.
struct Plan {
    events: usize,
    /// The time over which they are published: several kills fall into it, however fast they are done.
    spread: Duration,
    /// Between two kills of a node.
    every: Duration,
    /// What the function is told to do with event number `n`.
    command: fn(usize) -> &'static str,
}

impl Plan {
    fn new(command: fn(usize) -> &'static str) -> Self {
        let (events, every, kills) = if soak() { (100_000, 3_000, 20) } else { (3_000, 1_000, 6) };
        let every = Duration::from_millis(every);
        Self { events, spread: every * kills, every, command }
    }
}

#[test]
fn no_event_is_lost_while_nodes_and_nats_are_killed() {
    let plan = Plan::new(|_| "");
    check(&plan, &run(&plan), 0);
}

#[test]
fn done_and_dead_are_what_was_published_while_nodes_and_nats_are_killed() {
    // A tenth fails the first time, one of a thousand is rejected.
    let plan = Plan::new(|n| match n {
        n if n % 1_000 == 7 => r#", "do": "reject""#,
        n if n % 10 == 3 => r#", "do": "fail", "times": 1"#,
        _ => "",
    });
    check(&plan, &run(&plan), plan.events / 1_000);
}

/// What became of the events.
struct Found {
    /// How often each was done.
    booked: HashMap<String, u64>,
    /// How often each was buried.
    dead: BTreeMap<String, u64>,
    kills: usize,
}

/// Every event is booked or dead, none is both, and few were done twice.
fn check(plan: &Plan, found: &Found, rejected: usize) {
    let Found { booked, dead, kills } = found;
    let ids = || (0..plan.events).map(id);
    let lost: Vec<_> = ids().filter(|id| !booked.contains_key(id) && !dead.contains_key(id)).collect();
    let both: Vec<_> = ids().filter(|id| booked.contains_key(id) && dead.contains_key(id)).collect();
    let twice = booked.values().map(|times| times - 1).sum::<u64>() as usize;
    let (done, buried) = (booked.len(), dead.len());
    println!("{} events: {done} done, {buried} dead, {} lost, {twice} done again", plan.events, lost.len());
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(both.is_empty(), "done and dead: {both:?}");
    assert_eq!((done, buried), (plan.events - rejected, rejected), "{dead:?}");
    assert!(dead.values().all(|times| *times == 1), "buried once: {dead:?}");
    // All three nodes may lose acknowledgements with NATS.
    assert!(twice <= (kills + 3) * CONCURRENCY, "{twice} were done again after {kills} kills");
    assert!(!soak() || twice * 100 < plan.events, "{twice} of {} were done again", plan.events);
}

/// Publishes while nodes are killed in turn and NATS once, and waits until all is settled.
fn run(plan: &Plan) -> Found {
    let mut cluster = Cluster::start(&[("n1", &[]), ("n2", &[]), ("n3", &[])]);
    let project = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[function.events]\nsource = {:?}\nkv = [\"booked\", \"seen\"]\nlimits = {{ cpu = \"20s\", timeout = \"60s\" }}\n\
         [[function.events.stream]]\nsubject = \"soak.>\"\nconcurrency = {CONCURRENCY}\nmax_deliver = 5\n\
         backoff = [\"100ms\", \"1s\"]\n",
        fixture("events")
    );
    fs::write(project.path().join("dunlin.toml"), manifest).unwrap();
    let said = cluster.first().ok(&["deploy", project.path().to_str().unwrap()]);
    assert!(said.contains("ready on 3 of 3"), "{said}");

    let acknowledged = Arc::new(AtomicUsize::new(0));
    let publisher = publish(&cluster.nats.url(), plan, acknowledged.clone());
    let begun = Instant::now();
    let (mut kills, mut restarted) = (0, false);
    let mut settled = Duration::ZERO;
    while settled == Duration::ZERO {
        sleep(plan.every);
        if acknowledged.load(Relaxed) == plan.events && is_settled(&cluster.members[kills % 3]) {
            settled = begun.elapsed();
        } else if !restarted && acknowledged.load(Relaxed) > plan.events / 3 {
            cluster.nats.kill();
            sleep(Duration::from_millis(500));
            cluster.nats.restart();
            restarted = true;
        } else {
            let victim = &mut cluster.members[kills % 3];
            victim.kill();
            victim.restart();
            kills += 1;
        }
        assert!(begun.elapsed() < Duration::from_secs(if soak() { 3_600 } else { 240 }), "it does not end");
    }
    publisher.join().unwrap();
    println!("{kills} kills; all settled after {settled:?}");
    assert!(restarted && kills >= 2, "{restarted} {kills}");
    let runtime = runtime();
    let jetstream = runtime.block_on(connect(&cluster.nats.url()));
    let (booked, dead) = (runtime.block_on(booked(&jetstream)), runtime.block_on(dead(&jetstream)));
    Found { booked, dead, kills }
}

/// Whether nothing waits for the function any more, as `show` says.
fn is_settled(member: &Member) -> bool {
    let shown = member.json(&["show", "events"]);
    let triggers = shown["triggers"].as_array().cloned().unwrap_or_default();
    assert_eq!(triggers.len(), 1, "{shown}");
    triggers[0]["pending"] == 0 && triggers[0]["unsettled"] == 0
}

fn id(number: usize) -> String {
    format!("e{number:06}")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(url: &str) -> jetstream::Context {
    jetstream::new(async_nats::ConnectOptions::new().retry_on_initial_connect().connect(url).await.unwrap())
}

/// Publishes all events, each until it is acknowledged.
fn publish(url: &str, plan: &Plan, acknowledged: Arc<AtomicUsize>) -> thread::JoinHandle<()> {
    let (url, events, spread, command) = (url.to_owned(), plan.events, plan.spread, plan.command);
    thread::spawn(move || {
        runtime().block_on(async {
            let jetstream = connect(&url).await;
            let begun = tokio::time::Instant::now();
            let numbers = futures::stream::iter(0..events);
            numbers
                .for_each_concurrent(IN_FLIGHT, |number| {
                    let (jetstream, acknowledged) = (&jetstream, &acknowledged);
                    async move {
                        tokio::time::sleep_until(begun + spread.mul_f64(number as f64 / events as f64)).await;
                        while let Err(error) = publish_one(jetstream, number, command(number)).await {
                            println!("published again: {error}");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        acknowledged.fetch_add(1, Relaxed);
                    }
                })
                .await;
        });
    })
}

async fn publish_one(jetstream: &jetstream::Context, number: usize, command: &str) -> Result<(), async_nats::Error> {
    let id = id(number);
    let payload = format!(r#"{{"id": "{id}"{command}}}"#);
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id.as_str());
    let sent = jetstream.publish_with_headers(format!("soak.{}", number % 10), headers, payload.into());
    let acknowledgement = tokio::time::timeout(Duration::from_secs(5), async { sent.await?.await }).await?;
    acknowledgement.map(|_| ()).map_err(Into::into)
}

/// How often each event was done.
async fn booked(jetstream: &jetstream::Context) -> HashMap<String, u64> {
    let mut found = HashMap::new();
    each(jetstream, BOOKED.0, &format!("{}*", BOOKED.1), |subject, payload| {
        let key = hex(subject.strip_prefix(BOOKED.1).unwrap());
        let times = std::str::from_utf8(payload).unwrap().parse().unwrap();
        found.insert(key, times);
    })
    .await;
    found
}

/// How often each event was buried.
async fn dead(jetstream: &jetstream::Context) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    each(jetstream, DEAD, ">", |_, payload| {
        let event: serde_json::Value = serde_json::from_slice(payload).unwrap();
        *found.entry(event["id"].as_str().unwrap().to_owned()).or_default() += 1;
    })
    .await;
    found
}

/// Reads a stream from its first to its last message.
async fn each(jetstream: &jetstream::Context, stream: &str, filter: &str, mut see: impl FnMut(&str, &[u8])) {
    let mut stream = jetstream.get_stream(stream).await.unwrap();
    let config = OrderedConfig { filter_subject: filter.to_owned(), ..OrderedConfig::default() };
    let mut consumer = stream.create_consumer(config).await.unwrap();
    let pending = consumer.info().await.unwrap().num_pending;
    assert!(stream.info().await.unwrap().state.messages >= pending);
    let mut messages = consumer.messages().await.unwrap();
    for _ in 0..pending {
        let message = messages.next().await.unwrap().unwrap();
        see(&message.subject, &message.payload);
    }
}

fn hex(text: &str) -> String {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    String::from_utf8((0..text.len()).step_by(2).map(byte).collect()).unwrap()
}

#[test]
fn the_triggers_of_a_removed_function_leave_nothing() {
    let cluster = Cluster::start(&[("n1", &[])]);
    let member = cluster.first();
    let events = fixture("events");
    member.ok(&["deploy", &events, "--kv", "booked", "--on-stream", "gone.>"]);
    member.ok(&["publish", "gone.x", "-d", r#"{"id": "g1"}"#]);
    until("it is done", || is_settled(member));
    member.ok(&["remove", "events", "--yes"]);
    let runtime = runtime();
    let consumers = runtime.block_on(async {
        let jetstream = connect(&cluster.nats.url()).await;
        let stream = jetstream.stream_by_subject("gone.x").await.unwrap();
        jetstream.get_stream(stream).await.unwrap().consumer_names().count().await
    });
    assert_eq!(consumers, 0);
}
