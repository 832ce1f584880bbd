//! Triggers and schedules on the stores that nodes have: embedded and NATS.

use dunlin_api::{Message, Settings, trigger::CronTrigger};
use dunlin_fixtures::nats::NatsServer;
use dunlin_scheduler::{
    catalog::Catalog,
    cron::Cron,
    deploy::{DeployError, DeployRequest},
    events::spec::stream_spec,
    nats::Nats,
    store::{
        embedded::Embedded,
        events::{EventStores, Own},
        nats::NatsStore,
    },
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    doubles::{Scheduler, request},
    nats_store::config,
};

/// A slow machine commits to its disk in tens of milliseconds.
const SOON: Duration = Duration::from_secs(20);

fn settings(settings: Value) -> Settings {
    serde_json::from_value(settings).unwrap()
}

async fn scheduler(events: &EventStores) -> (TempDir, Scheduler) {
    let dir = TempDir::new().unwrap();
    let scheduler = Scheduler::build(dir.path(), |deployer| deployer.with_events(events.clone())).await;
    scheduler.upload(b"one").await;
    (dir, scheduler)
}

async fn on_nats() -> (NatsServer, EventStores) {
    let server = NatsServer::start();
    let nats = Nats::connect(&config(server.url(), "a")).await.unwrap();
    let events = NatsStore::open(&nats).await.unwrap().events();
    (server, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_in_a_stream_outlives_a_redeploy_and_a_rollback_embedded() {
    let dir = TempDir::new().unwrap();
    let stores = Embedded::open(dir.path()).unwrap();
    place_is_kept(stores.events()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_in_a_stream_outlives_a_redeploy_and_a_rollback_on_nats() {
    let (_server, events) = on_nats().await;
    place_is_kept(events).await;
}

async fn place_is_kept(events: EventStores) {
    let (_dir, scheduler) = scheduler(&events).await;
    let deploy = async |value: Value| {
        let request = DeployRequest { settings: settings(value), ..request("f", b"one") };
        scheduler.deployer.deploy(request).await.unwrap()
    };
    let publish = async |subject: &str| events.bus.publish(Message::new(subject, "x")).await.unwrap();
    let old = json!({"stream": [{"subject": "orders.>"}]});
    deploy(old.clone()).await;
    // Nothing listens yet, and what is published after the deploy is kept for the function.
    let stream = publish("orders.1").await.stored.unwrap().0;
    publish("orders.2").await;
    let f = "f".parse().unwrap();
    let spec = stream_spec(&f, &settings(old.clone()).stream[0], stream);
    let mut consumer = events.streams.open(&spec).await.unwrap();
    let first = consumer.pull(1).await.unwrap().remove(0);
    assert_eq!(first.stored.message.subject, "orders.1");
    first.settle.ack().await.unwrap();
    drop(consumer);
    deploy(json!({"stream": [{"subject": "other.>"}]})).await;
    publish("orders.3").await;
    deploy(old).await;
    let waiting = || async {
        match scheduler.deployer.remove(&f, false).await {
            Err(DeployError::EventsWait { count, .. }) => count,
            other => panic!("{other:?}"),
        }
    };
    // An acknowledgement is counted when the store has got to it.
    let two = async { while waiting().await != 2 {} };
    timeout(SOON, two).await.expect("the second and the third wait");
    let mut consumer = events.streams.open(&spec).await.unwrap();
    let mut subjects = Vec::new();
    while subjects.len() < 2 {
        let pulled = timeout(SOON, consumer.pull(2)).await.unwrap().unwrap();
        subjects.extend(pulled.into_iter().map(|delivery| delivery.stored.message.subject));
    }
    assert_eq!(subjects, ["orders.2", "orders.3"]);
    drop(consumer);
    scheduler.deployer.remove(&f, true).await.unwrap();
    assert_eq!(events.streams.waiting(&spec).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_race_fire_each_tick_once_embedded() {
    let dir = TempDir::new().unwrap();
    let stores = Embedded::open(dir.path()).unwrap();
    ticks_fire_once(stores.events()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_race_fire_each_tick_once_on_nats() {
    let (_server, events) = on_nats().await;
    ticks_fire_once(events).await;
}

async fn ticks_fire_once(events: EventStores) {
    let (_dir, scheduler) = scheduler(&events).await;
    let cron: CronTrigger = serde_json::from_value(json!({"schedule": "* * * * * *", "overlap": "allow"})).unwrap();
    let other: CronTrigger = serde_json::from_value(json!({"schedule": "0-59 * * * * *"})).unwrap();
    let deployed = Settings { cron: vec![cron.clone(), other.clone()], ..Settings::default() };
    scheduler.deployer.deploy(DeployRequest { settings: deployed, ..request("f", b"one") }).await.unwrap();
    let stop = CancellationToken::new();
    let runs = ["a", "b"].map(|name: &str| {
        let (node, catalog): (dunlin_api::NodeName, &Catalog) = (name.parse().unwrap(), &scheduler.catalog);
        let me = node.clone();
        // Each believes that it is alone.
        let cron = Cron::new(events.clone(), node, catalog.subscribe(), Arc::new(move || vec![me.clone()]));
        tokio::task::spawn(cron.run(stop.clone()))
    });
    let ticks = async |trigger: &CronTrigger| {
        let queue = format!("f.{}", trigger.id());
        let items = events.streams.list(Own::Work, Some(&queue), 0, 100).await.unwrap();
        let tick = |id: &str| id.rsplit(':').next().unwrap().parse::<i64>().unwrap();
        items.iter().map(|item| tick(item.message.header("ce-id").unwrap())).collect::<Vec<_>>()
    };
    let four = async {
        while ticks(&cron).await.len() < 4 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, four).await.unwrap();
    stop.cancel();
    for run in runs {
        run.await.unwrap();
    }
    let fired = ticks(&cron).await;
    let expected: Vec<_> = (0..fired.len()).map(|n| fired[0] + 1_000 * i64::try_from(n).unwrap()).collect();
    assert_eq!(fired, expected, "each second once, in order");
    assert_eq!(ticks(&other).await.len(), 1, "while the first one waits, the others are left out");
}
