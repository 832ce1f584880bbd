//! Events and `kill -9`: what was acknowledged to a publisher is delivered until it was settled, and what was settled
//! durably never comes again.

use bytes::Bytes;
use dunlin_api::{
    KeyValue, Message, Publish,
    trigger::{ChangeSource, Order, Start},
};
use dunlin_scheduler::store::{
    embedded::Embedded,
    events::{Consumer, ConsumerSpec, Delivery, Own, Source, Streams},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{acknowledge, killed, lives};

const SUBJECT: &str = "orders.paid";
const QUEUE: &str = "billing.async";
const STORE: &str = "cart";
/// Far longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn specs() -> [ConsumerSpec; 3] {
    let spec = |name: &str, source| ConsumerSpec { name: name.into(), source, start: Start::All, order: Order::None };
    let source = ChangeSource::Store(STORE.into());
    [
        spec("queue", Source::Queue(QUEUE.into())),
        spec("stream", Source::Stream { stream: "ORDERS".into(), subject: "orders.>".into() }),
        spec("changes", Source::Changes { source, keys: "*".into() }),
    ]
}

async fn ready(stores: &Embedded) -> [ConsumerSpec; 3] {
    let streams = stores.streams();
    assert_eq!(streams.resolve(Some("ORDERS"), "orders.>").await.unwrap(), "ORDERS");
    let specs = specs();
    for spec in &specs {
        streams.ensure(spec).await.unwrap();
    }
    specs
}

/// Writes to all three sources and handles what comes of them, until it is killed.
pub(super) async fn work(dir: &Path) {
    let stores = Arc::new(Embedded::open(dir).unwrap());
    let specs = ready(&stores).await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..4 {
        tasks.spawn(write(stores.clone(), writer));
    }
    for spec in specs {
        let mut consumer = stores.streams().open(&spec).await.unwrap();
        tasks.spawn(async move { handle(&mut *consumer, &spec.name).await });
    }
    tasks.join_all().await;
}

async fn write(stores: Arc<Embedded>, writer: u32) {
    for n in 0_u64.. {
        // Unlike those of other lives.
        let id = format!("{}-{writer}-{n}", std::process::id());
        let payload = || Bytes::from(id.clone().into_bytes());
        stores.streams().append(Own::Work, Message::new(QUEUE, payload()), Some(&id)).await.unwrap();
        acknowledge(format_args!("sent queue {id}"));
        assert!(stores.bus().publish(Message::new(SUBJECT, payload())).await.unwrap().stored.is_some());
        acknowledge(format_args!("sent stream {id}"));
        stores.keyvalue().set(STORE, &format!("key-{writer}-{}", n % 3), payload()).await.unwrap();
        acknowledge(format_args!("sent changes {id} key-{writer}-{}", n % 3));
    }
}

async fn handle(consumer: &mut dyn Consumer, name: &str) {
    loop {
        for (n, delivery) in consumer.pull(16).await.unwrap().into_iter().enumerate() {
            let id = id(&delivery);
            let handled = format!("handled {name} {id} {}", delivery.stored.message.subject);
            match n % 4 {
                0 => {
                    delivery.settle.retry(Duration::ZERO, delivery.failed + 1).await.unwrap();
                    acknowledge(format_args!("failed {name} {id} {}", delivery.failed + 1));
                }
                1 => {
                    // As a dead letter is stored before its original is given up.
                    acknowledge(handled);
                    delivery.settle.give_up("tested").await.unwrap();
                    acknowledge(format_args!("ended {name} {id}"));
                }
                _ => {
                    // It was handled when its function said so, whether the acknowledgement gets to the disk or not.
                    acknowledge(handled);
                    delivery.settle.ack().await.unwrap();
                }
            }
        }
    }
}

fn id(delivery: &Delivery) -> String {
    String::from_utf8(delivery.stored.message.payload.to_vec()).unwrap()
}

#[derive(Default)]
struct Seen {
    sent: BTreeSet<String>,
    handled: BTreeSet<String>,
    ended: BTreeSet<String>,
    failed: BTreeMap<String, u32>,
    /// The key of each change.
    keys: BTreeMap<String, String>,
}

impl Seen {
    fn note(&mut self, words: &[&str]) {
        let id = words[2].to_owned();
        match words[0] {
            "sent" => {
                self.keys.extend(words.get(3).map(|key| (id.clone(), (*key).to_owned())));
                self.sent.insert(id);
            }
            "handled" => drop(self.handled.insert(id)),
            "ended" => drop(self.ended.insert(id)),
            "failed" => {
                let failed: u32 = words[3].parse().unwrap();
                let most = self.failed.entry(id).or_default();
                *most = failed.max(*most);
            }
            other => panic!("{other}"),
        }
    }
}

/// All that is still delivered.
async fn rest(stores: &Embedded, spec: &ConsumerSpec) -> Vec<Delivery> {
    let mut consumer = stores.streams().open(spec).await.unwrap();
    let mut rest = Vec::new();
    while stores.streams().waiting(spec).await.unwrap().unwrap().pending > 0 {
        rest.extend(timeout(PATIENCE, consumer.pull(1_000)).await.expect("what waits is delivered").unwrap());
    }
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_event_was_handled_or_is_delivered_again() {
    let dir = TempDir::new().unwrap();
    let (mut all, mut again) = (BTreeMap::<String, Seen>::new(), 0);
    for life in lives() {
        // Opening takes a while too; it is to be killed at work.
        for line in killed("events", dir.path(), life + Duration::from_millis(200)) {
            let words: Vec<_> = line.split(' ').collect();
            all.entry(words[1].to_owned()).or_default().note(&words);
        }
        let stores = Embedded::open(dir.path()).unwrap();
        for spec in ready(&stores).await {
            let Some(seen) = all.get(&spec.name) else { continue };
            let mut left = BTreeSet::new();
            for delivery in rest(&stores, &spec).await {
                let id = id(&delivery);
                assert!(!seen.ended.contains(&id), "{id} was given up and came again");
                let failed = seen.failed.get(&id).copied().unwrap_or_default();
                assert!(delivery.failed >= failed, "{id} failed {failed} times and forgot it: {delivery:?}");
                again += u32::from(seen.handled.contains(&id));
                assert!(left.insert(id), "{delivery:?} came twice");
            }
            let mut last = BTreeMap::new();
            for id in &seen.sent {
                // Of a key, only the last change must come; a killed child may have written one more than it said.
                if let Some(key) = seen.keys.get(id) {
                    last.insert(key, id);
                } else {
                    assert!(left.contains(id) || seen.handled.contains(id), "{} lost {id}", spec.name);
                }
            }
            for key in last.keys() {
                let (value, _) = stores.keyvalue().get(STORE, key).await.unwrap().unwrap();
                let id = String::from_utf8(value.to_vec()).unwrap();
                assert!(left.contains(&id) || seen.handled.contains(&id), "the last change of {key}, {id}, is lost");
            }
        }
    }
    for (name, seen) in &all {
        println!("{name}: {} sent, {} handled, {} given up", seen.sent.len(), seen.handled.len(), seen.ended.len());
        assert!(!seen.sent.is_empty() && !seen.handled.is_empty(), "the children never came to work");
    }
    println!("{again} delivered again although they were handled");
}
