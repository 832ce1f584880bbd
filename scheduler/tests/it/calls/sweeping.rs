//! What is removed when its time is over, and what is not.

use super::*;
use crate::gateway::echo;
use dunlin_api::Message;
use dunlin_scheduler::{dead_letters::DeadLetters, store::events::Own};

const HOUR_MS: u64 = 3_600_000;

fn left(bench: &Bench) -> (usize, usize) {
    (bench.memory.records.lock().unwrap().len(), bench.memory.blobs.lock().unwrap().len())
}

#[tokio::test]
async fn an_ended_call_is_kept_for_its_time_and_then_gone_with_its_key_and_body() {
    let config = Config { inline_response: 10, ..Config::default() };
    let mut bench = Bench::with(config, echo).await;
    let id = bench.submit(keyed(post("/", "a"), "k")).await;
    bench.run_next().await;
    let ended = bench.status(id).await.ended_ms.unwrap();
    let keep = bench.revision().settings.calls.keep.as_millis() as u64;
    bench.calls.sweep_all(ended + keep - 1).await.unwrap();
    assert_eq!(left(&bench), (2, 1));
    bench.calls.sweep_all(ended + keep).await.unwrap();
    assert_eq!(left(&bench), (0, 0));
    assert!(bench.calls.status(id).await.unwrap().is_none());
    assert_ne!(bench.submit(keyed(post("/", "a"), "k")).await, id);
}

#[tokio::test]
async fn a_call_that_waits_is_not_swept_for_a_month() {
    let bench = Bench::new(echo).await;
    let id = bench.submit(keyed(chunked(LARGE), "k")).await;
    let submitted = bench.status(id).await.submitted_ms;
    bench.calls.sweep_all(submitted + 30 * 24 * HOUR_MS).await.unwrap();
    assert_eq!(left(&bench), (2, 1));
    bench.calls.sweep_all(submitted + 32 * 24 * HOUR_MS).await.unwrap();
    // The message still names its body.
    assert_eq!(left(&bench), (0, 1));
}

#[tokio::test]
async fn blobs_that_nothing_names_are_swept_when_they_are_an_hour_old() {
    let mut bench = Bench::new(echo).await;
    let stores = bench.memory.stores();
    let work = Message::new("f.async", "").with(item::BLOB, "work");
    stores.streams.append(Own::Work, work, None).await.unwrap();
    let mut delivery = bench.next().await;
    delivery.stored.message.headers = vec![(item::BLOB.into(), "dead".into())];
    let (function, trigger) = ("f".parse().unwrap(), dunlin_api::trigger::TriggerId::calls());
    DeadLetters::new(stores).bury(&function, &trigger, &delivery, 5, "why", Vec::new()).await.unwrap();
    for name in ["orphan", "dead", "work"] {
        bench.memory.blobs.lock().unwrap().insert(name.into(), (1_000, Bytes::new()));
    }
    bench.calls.sweep_all(HOUR_MS + 999).await.unwrap();
    assert_eq!(left(&bench), (0, 3));
    bench.calls.sweep_all(HOUR_MS + 1_000).await.unwrap();
    let names: Vec<_> = bench.memory.blobs.lock().unwrap().keys().cloned().collect();
    assert_eq!(names, ["dead", "work"]);
}

#[tokio::test]
async fn a_key_whose_request_broke_off_is_free_again_after_its_time() {
    let bench = Bench::new(echo).await;
    bench.memory.full.store(true, SeqCst);
    let _ = bench.calls.submit(&bench.revision(), keyed(post("/", "a"), "k"), None).await;
    assert_eq!(left(&bench), (1, 0));
    let far = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    bench.calls.sweep_all(far).await.unwrap();
    assert_eq!(left(&bench), (1, 0));
    bench.calls.sweep_all(far + 26 * HOUR_MS).await.unwrap();
    assert_eq!(left(&bench), (0, 0));
}

#[tokio::test]
async fn sweeping_ends_when_it_is_told_to() {
    let bench = Bench::new(echo).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let sweeping = bench.calls.clone().sweep(stop.clone());
    let stopping = async { stop.cancel() };
    tokio::time::timeout(PATIENCE, async { tokio::join!(sweeping, stopping) }).await.expect("it goes on");
}
