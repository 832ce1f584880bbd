//! The cluster's own queues: found by signals and by looking, run by whoever is for their kind, left when they are empty.

use bytes::Bytes;
use dunlin_api::{Message, Settings};
use dunlin_scheduler::{
    events::item::{self, KIND, KIND_CALL, KIND_EVENT, QUEUE_TOPIC},
    store::events::Own,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};

use super::{World, memory::How, status};

fn tick(queue: &str) -> Message {
    Message::new(queue, "")
        .with(KIND, KIND_EVENT)
        .with("ce-specversion", "1.0")
        .with("ce-id", "cron-1/5")
        .with("ce-source", "/cron/cron-1")
        .with("ce-type", "dev.dunlin.cron")
}

#[tokio::test(start_paused = true)]
async fn an_item_runs_with_the_attributes_that_it_has() {
    let seen = Arc::new(Mutex::new(None));
    let call = seen.clone();
    let world = World::start(&[("f", Settings::default())], move |seen| {
        *call.lock().unwrap() = Some(seen);
        std::future::ready(status(200))
    })
    .await;
    // The node has looked for queues and now waits for signals.
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    world.stores.streams.append(Own::Work, tick("f.cron-1"), None).await.unwrap();
    world.stores.bus.signal(&format!("{QUEUE_TOPIC}.f.cron-1"), Bytes::new()).await.unwrap();
    assert_eq!(world.settled(1).await, [(String::new(), How::Ack)]);
    assert!(start.elapsed() < Duration::from_secs(1));
    let call = seen.lock().unwrap().take().unwrap();
    assert_eq!(call.header("ce-id"), "cron-1/5");
    assert_eq!(call.header("ce-type"), "dev.dunlin.cron");
    assert_eq!((call.header("ce-dunlintrigger"), call.header("dunlin-subject")), ("cron-1".into(), String::new()));
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_a_signal_is_found_by_looking() {
    let world = World::start(&[("f", Settings::default())], |_| std::future::ready(status(200))).await;
    sleep(Duration::from_secs(1)).await;
    world.stores.streams.append(Own::Work, tick("f.cron-1"), None).await.unwrap();
    let start = Instant::now();
    world.settled(1).await;
    assert!(start.elapsed() <= Duration::from_secs(6));
    // It is left after a minute and found again.
    sleep(Duration::from_secs(120)).await;
    assert_eq!(world.stats().done, 1);
    world.stores.streams.append(Own::Work, tick("f.cron-1"), None).await.unwrap();
    world.settled(2).await;
}

#[tokio::test(start_paused = true)]
async fn calls_are_run_by_those_who_know_them() {
    let world = World::start(&[("f", Settings::default())], |_| std::future::ready(status(500))).await;
    let call = Message::new("f.async", "a").with(KIND, KIND_CALL);
    world.stores.streams.append(Own::Work, call, None).await.unwrap();
    assert_eq!(world.settled(1).await, [("a".into(), How::Ack)]);
}

#[tokio::test(start_paused = true)]
async fn an_item_of_a_function_that_is_gone_waits_a_minute_and_dies() {
    let world = World::start(&[], |_| std::future::ready(status(200))).await;
    let start = Instant::now();
    world.stores.streams.append(Own::Work, tick("f.cron-1"), None).await.unwrap();
    let settled = world.settled(1).await;
    assert!(matches!(&settled[0].1, How::GiveUp(reason) if reason.contains("not deployed")), "{settled:?}");
    assert!(start.elapsed() >= Duration::from_secs(60));
    assert_eq!(world.memory.dead(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_item_of_a_function_that_comes_in_time_runs() {
    let world = World::start(&[], |_| std::future::ready(status(200))).await;
    world.stores.streams.append(Own::Work, tick("f.cron-1"), None).await.unwrap();
    sleep(Duration::from_secs(50)).await;
    world.deploy(&[("f", Settings::default())]);
    assert_eq!(world.settled(1).await[0].1, How::Ack);
}

#[tokio::test(start_paused = true)]
async fn other_nodes_run_what_this_one_may_not() {
    let mut elsewhere = Settings::default();
    elsewhere.place.labels.insert("region".into(), "us".into());
    let world = World::start(&[("f", elsewhere)], |_| std::future::ready(status(200))).await;
    world.stores.streams.append(Own::Work, tick("f.cron-1"), None).await.unwrap();
    sleep(Duration::from_secs(300)).await;
    assert!(world.memory.settled().is_empty());
    assert_eq!(item::owner("f.cron-1").unwrap().1, "cron-1");
}
