//! Dead letters: complete, shown, tried again both ways, deleted.

use dunlin_api::{InvocationId, LogLine, LogStream, Logs, Message};
use dunlin_scheduler::{dead_letters::DeadLetters, store::events::MAX_MESSAGE_BYTES};
use futures::StreamExt;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use super::{Call, World, memory::How, on, order, status};

/// A function that rejects everything until it is mended, and what it saw.
async fn broken() -> (World, DeadLetters, Arc<AtomicBool>, Arc<Mutex<Vec<Call>>>) {
    let (mended, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let (is_mended, calls) = (mended.clone(), seen.clone());
    let world = World::start(&[("f", on("orders.new"))], move |call| {
        calls.lock().unwrap().push(call);
        std::future::ready(status(if is_mended.load(SeqCst) { 200 } else { 422 }))
    })
    .await;
    let letters = DeadLetters::new(world.stores.clone());
    (world, letters, mended, seen)
}

fn big() -> Message {
    order(&"x".repeat(MAX_MESSAGE_BYTES)).with("Shop", "berlin")
}

#[tokio::test(start_paused = true)]
async fn a_letter_has_everything() {
    let (world, letters, _, _) = broken().await;
    let headers = [("Shop", "berlin"), ("Nats-Msg-Id", "7"), ("Content-Type", "text/plain")];
    let message = headers.iter().fold(order("a"), |message, (name, value)| message.with(*name, *value));
    let origin = world.memory.put(message.clone());
    world.settled(1).await;
    let trigger = on("orders.new").stream[0].id();
    let letter = letters.list(None, 0, 10).await.unwrap().remove(0);
    assert_eq!((letter.function.as_str(), &letter.trigger), ("f", &trigger));
    assert_eq!((letter.stream.as_str(), letter.origin, letter.attempts), ("ORDERS", origin, 1));
    assert_eq!((letter.reason.as_str(), letter.size), ("422 Unprocessable Entity", 1));
    assert_eq!(letter.message, message);
    assert_eq!(letters.show(letter.sequence).await.unwrap().unwrap(), letter);
    assert_eq!(letters.list(Some(&"f".parse().unwrap()), 0, 10).await.unwrap().len(), 1);
    assert!(letters.list(Some(&"g".parse().unwrap()), 0, 10).await.unwrap().is_empty());
    assert!(letters.list(None, letter.sequence, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_letter_has_the_last_lines_of_its_own_tries() {
    let hub = Arc::new(std::sync::OnceLock::<Arc<dunlin_scheduler::log_hub::LogHub>>::new());
    let inside = hub.clone();
    let (function, settings) = ("f".parse::<dunlin_api::FunctionName>().unwrap(), on("orders.new"));
    let revision = dunlin_api::RevisionId::of(&dunlin_api::Digest::of(b"x"), &settings);
    let world = World::start(&[("f", settings)], move |call| {
        let print = |invocation, text: String| {
            let (function, revision) = (function.clone(), revision.clone());
            inside.get().unwrap().line(LogLine {
                time_ms: 0,
                function,
                revision,
                invocation,
                stream: LogStream::Stdout,
                text,
            });
        };
        print(InvocationId::new(), "of someone else".into());
        (0..30).for_each(|n| print(call.id, format!("line {n}")));
        std::future::ready(status(422))
    })
    .await;
    hub.set(world.logs.clone()).ok().unwrap();
    world.memory.put(order("a"));
    world.settled(1).await;
    let letter = DeadLetters::new(world.stores.clone()).show(1).await.unwrap().unwrap();
    assert_eq!(letter.log, (10..30).map(|n| format!("line {n}")).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_letter_goes_back_to_its_function_as_the_same_event() {
    let (world, letters, mended, seen) = broken().await;
    for message in [order("a").with("Shop", "berlin").with("Nats-Msg-Id", "7"), big()] {
        world.memory.put(message);
    }
    world.settled(2).await;
    mended.store(true, SeqCst);
    for letter in letters.list(None, 0, 10).await.unwrap() {
        assert!(letters.redrive(letter.sequence, None).await.unwrap().starts_with("queue f.stream-"));
    }
    let settled = world.settled(4).await;
    assert!(settled[2..].iter().all(|(_, how)| *how == How::Ack), "{settled:?}");
    assert_eq!((world.memory.dead(), letters.list(None, 0, 10).await.unwrap().len()), (0, 0));
    assert_eq!(world.memory.blobs(), Vec::<String>::new());
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 4);
    for (before, text) in [(&seen[0], "a"), (&seen[1], "x")] {
        let same = |call: &&Call| call.header("ce-id") == before.header("ce-id");
        let after = seen[2..].iter().find(same).expect("it has the same id");
        for name in ["ce-source", "ce-type", "ce-time", "ce-subject", "dunlin-subject", "nats-shop", "content-length"] {
            assert_eq!(after.header(name), before.header(name), "{name}");
        }
        assert!(after.text.starts_with(text) && after.attempt() == 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_goes_to_another_subject_as_it_was() {
    let (world, letters, _, _) = broken().await;
    world.memory.put(order("a").with("Shop", "berlin").with("Nats-Msg-Id", "7"));
    world.settled(1).await;
    for bad in ["a b", "a.*", "dl.v1.x", "$JS.API.x"] {
        assert!(letters.redrive(1, Some(bad)).await.is_err(), "{bad}");
    }
    let mut heard = world.stores.bus.subscribe("*.again", None).await.unwrap();
    assert!(letters.redrive(1, Some("nobody.again")).await.unwrap_err().to_string().contains("stays"));
    assert_eq!(heard.next().await.unwrap().message.payload, "a");
    assert_eq!(world.memory.dead(), 1);
    letters.redrive(1, Some("orders.again")).await.unwrap();
    let sent = heard.next().await.unwrap().message;
    assert_eq!(sent, Message::new("orders.again", "a").with("Shop", "berlin"));
    assert_eq!(world.memory.dead(), 0);
    assert!(letters.redrive(1, Some("orders.again")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn large_letters_are_kept_whole_and_purged_whole() {
    let (world, letters, _, _) = broken().await;
    world.memory.put(big());
    world.settled(1).await;
    let listed = letters.list(None, 0, 10).await.unwrap().remove(0);
    assert_eq!((listed.size, listed.message.payload.len()), (MAX_MESSAGE_BYTES as u64, 0));
    assert_eq!(letters.show(1).await.unwrap().unwrap().message, big());
    assert_eq!(world.memory.blobs().len(), 1);
    assert!(letters.purge(1).await.unwrap());
    assert!(world.memory.blobs().is_empty() && letters.show(1).await.unwrap().is_none());
    assert!(!letters.purge(1).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_malformed_cloud_event_is_a_dead_letter_that_says_why() {
    let (world, letters, _, seen) = broken().await;
    world.memory.put(order("{").with("content-type", "application/cloudevents+json"));
    world
        .memory
        .put(order("a").with("ce-specversion", "0.3").with("ce-id", "1").with("ce-source", "/").with("ce-type", "t"));
    world.settled(2).await;
    let reasons: Vec<_> = letters.list(None, 0, 10).await.unwrap().into_iter().map(|letter| letter.reason).collect();
    assert!(reasons.iter().all(|reason| reason.contains("malformed CloudEvent")), "{reasons:?}");
    assert!(seen.lock().unwrap().is_empty());
}
