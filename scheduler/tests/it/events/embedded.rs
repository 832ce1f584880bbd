//! The runner over the embedded store, with the clock of the machine.

use dunlin_api::{Message, Settings};
use dunlin_scheduler::{
    dead_letters::DeadLetters,
    events::item,
    store::events::{ConsumerSpec, Own, Source},
};
use std::{collections::BTreeSet, time::Duration};
use tokio::{sync::mpsc, time::timeout};

use super::{World, on, status};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a deploy does: from then on messages are kept for the trigger.
async fn listens(world: &World) {
    let stream = world.stores.streams.resolve(None, "orders.>").await.unwrap();
    let name = item::consumer(&"f".parse().unwrap(), &on("orders.>").stream[0].id());
    let source = Source::Stream { stream, subject: "orders.>".into() };
    let spec = ConsumerSpec { name, source, start: Default::default(), order: Default::default() };
    world.stores.streams.ensure(&spec).await.unwrap();
}

#[tokio::test]
async fn every_event_is_done_or_dead_on_the_embedded_store() {
    const EVENTS: u32 = 1_000;
    let (done, mut results) = mpsc::channel(EVENTS as usize * 2);
    let mut settings = on("orders.>");
    settings.stream[0].backoff = vec![Duration::from_millis(10)];
    let world = World::embedded(&[("f", settings)], move |call| {
        let (done, n) = (done.clone(), call.text.parse::<u32>().unwrap());
        async move {
            if n % 200 == 7 {
                return status(422);
            }
            if n.is_multiple_of(10) && call.attempt() == 1 {
                return status(500);
            }
            done.send(n).await.unwrap();
            status(200)
        }
    });
    listens(&world).await;
    for n in 0..EVENTS {
        let message = Message::new("orders.new", n.to_string());
        assert!(world.stores.bus.publish(message).await.unwrap().stored.is_some());
    }
    let mut ids = BTreeSet::new();
    while ids.len() < EVENTS as usize - 5 {
        ids.insert(timeout(PATIENCE, results.recv()).await.expect("they are done").unwrap());
    }
    let letters = DeadLetters::new(world.stores.clone());
    let all_dead = async {
        while letters.list(None, 0, 100).await.unwrap().len() < 5 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all_dead).await.unwrap();
    assert!((0..5).all(|n| !ids.contains(&(n * 200 + 7))));
}

#[tokio::test]
async fn a_letter_is_redriven_through_the_embedded_queue() {
    let (seen, mut calls) = mpsc::channel(16);
    let world = World::embedded(&[("f", on("orders.>"))], move |call| {
        let seen = seen.clone();
        async move {
            let redriven = call.header("nats-shop") == "mended";
            seen.send(call).await.unwrap();
            status(if redriven { 200 } else { 422 })
        }
    });
    listens(&world).await;
    world.stores.bus.publish(Message::new("orders.new", "a").with("Nats-Msg-Id", "1")).await.unwrap();
    let first = timeout(PATIENCE, calls.recv()).await.unwrap().unwrap();
    let letters = DeadLetters::new(world.stores.clone());
    let letter = async {
        loop {
            if let Some(letter) = letters.list(None, 0, 1).await.unwrap().pop() {
                return letter;
            }
            tokio::task::yield_now().await;
        }
    };
    let letter = timeout(PATIENCE, letter).await.unwrap();
    letters.redrive(letter.sequence, None).await.unwrap();
    let again = timeout(PATIENCE, calls.recv()).await.unwrap().unwrap();
    assert_eq!((again.header("ce-id"), again.text), (first.header("ce-id"), "a".into()));
}

#[tokio::test]
async fn a_subject_is_answered_on_the_embedded_bus() {
    let trigger = dunlin_api::trigger::SubjectTrigger { subject: "quotes.*".into(), concurrency: 4 };
    let settings = Settings { nats: vec![trigger], ..Settings::default() };
    let world = World::embedded(&[("f", settings)], |_| std::future::ready(status(404)));
    let reply = async {
        loop {
            let asked = world.stores.bus.request(Message::new("quotes.tea", "a"), PATIENCE).await;
            match asked {
                Ok(reply) => return reply,
                // The trigger does not listen yet.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let reply = timeout(PATIENCE, reply).await.unwrap();
    assert_eq!(reply.header("Nats-Service-Error-Code"), Some("404"));
    assert!(world.stores.streams.list(Own::Dead, None, 0, 1).await.unwrap().is_empty());
}
