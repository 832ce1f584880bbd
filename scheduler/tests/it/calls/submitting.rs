//! Accepting calls: what is stored, what is refused, what a repeat gets, what a crash leaves.

use super::*;
use crate::gateway::echo;
use dunlin_api::InvokeError;
use dunlin_scheduler::calls::{Accepted, SubmitError};

async fn refused(bench: &Bench, request: Request<Body>) -> SubmitError {
    bench.calls.submit(&bench.revision(), request, None).await.unwrap_err()
}

#[tokio::test]
async fn a_call_is_queued_and_known_when_it_is_accepted() {
    let bench = Bench::new(echo).await;
    let accepted = bench.calls.submit(&bench.revision(), post("/a", "b"), Some("h".into())).await.unwrap();
    assert_eq!((accepted.replayed, accepted.state, bench.memory.queued()), (false, State::Queued, 1));
    let call = bench.status(accepted.id).await;
    assert_eq!((call.state, call.attempts, call.host.as_deref()), (State::Queued, 0, Some("h")));
    assert_eq!(bench.ran(), 0);
    assert!(bench.calls.status(InvocationId::new()).await.unwrap().is_none());
}

#[tokio::test]
async fn small_bodies_stay_in_the_message_and_large_ones_become_blobs() {
    for (size, blobs) in [(0, 0), (512 << 10, 0), ((512 << 10) + 1, 1), (LIMIT as usize, 1)] {
        let mut bench = Bench::new(|call: Invocation| async {
            let size = call.request.into_body().collect().await.unwrap().to_bytes().len();
            answer(200, size.to_string())
        })
        .await;
        let id = bench.submit(chunked(size)).await;
        assert_eq!(bench.memory.blobs.lock().unwrap().len(), blobs, "{size}");
        assert_eq!(bench.run_next().await, Outcome::Done);
        let result = bench.calls.result(id).await.unwrap().unwrap();
        assert_eq!(text(result.into_body()).await, size.to_string());
        assert!(bench.memory.blobs.lock().unwrap().is_empty(), "the body of {size} bytes stays");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_leaves_nothing() {
    let bench = Bench::new(echo).await;
    let over = LIMIT as usize + 1;
    for request in [post("/", vec![0; over]), chunked(over)] {
        assert!(matches!(refused(&bench, request).await, SubmitError::Refused(InvokeError::BodyTooLarge(_))));
    }
    let broken = StreamBody::new(futures::stream::iter([data("a"), Err("gone".into())]));
    let request = Request::new(Body::stream(broken));
    assert!(matches!(refused(&bench, request).await, SubmitError::Refused(InvokeError::BadRequest(_))));
    assert_eq!((bench.memory.queued(), bench.memory.records.lock().unwrap().len()), (0, 0));
    assert!(bench.memory.blobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_accepted() {
    let bench = Bench::new(echo).await;
    bench.memory.full.store(true, SeqCst);
    assert!(matches!(refused(&bench, post("/", "a")).await, SubmitError::Store(_)));
    assert!(bench.memory.records.lock().unwrap().is_empty());
    bench.memory.full.store(false, SeqCst);
    let mut huge = post("/", vec![0; 500 << 10]);
    huge.headers_mut().insert("x-huge", "x".repeat(600 << 10).parse().unwrap());
    assert!(matches!(refused(&bench, huge).await, SubmitError::Refused(InvokeError::BadRequest(_))));
}

#[tokio::test]
async fn a_call_without_a_record_is_known_when_it_runs() {
    let mut bench = Bench::new(echo).await;
    bench.memory.forgetful.store(true, SeqCst);
    let id = bench.submit(post("/", "a")).await;
    assert!(bench.calls.status(id).await.unwrap().is_none());
    bench.memory.forgetful.store(false, SeqCst);
    assert_eq!(bench.run_next().await, Outcome::Done);
    assert_eq!(bench.state(id).await, State::Done);
}

#[tokio::test]
async fn the_same_key_is_the_same_call_and_another_request_is_refused() {
    let mut bench = Bench::new(echo).await;
    let first = bench.submit(keyed(post("/a", "b"), "k")).await;
    let revision = bench.revision();
    let again = bench.calls.submit(&revision, keyed(post("/a", "b"), "\"k\""), None).await.unwrap();
    assert_eq!(again, Accepted { id: first, replayed: true, state: State::Queued });
    for other in [post("/x", "b"), post("/a", "c"), chunked(1), chunked(LARGE)] {
        assert!(matches!(refused(&bench, keyed(other, "k")).await, SubmitError::KeyReused));
    }
    bench.run_next().await;
    let done = bench.calls.submit(&revision, keyed(post("/a", "b"), "k"), None).await.unwrap();
    assert_eq!(done, Accepted { id: first, replayed: true, state: State::Done });
    assert_ne!(bench.submit(keyed(post("/a", "b"), "other")).await, first);
    assert_eq!((bench.memory.queued(), bench.ran()), (1, 1));
    assert!(bench.memory.blobs.lock().unwrap().is_empty());
    let malformed = refused(&bench, keyed(post("/", ""), "\"")).await;
    assert!(matches!(malformed, SubmitError::Refused(InvokeError::BadRequest(_))));
}

#[tokio::test]
async fn large_bodies_have_a_fingerprint_too() {
    let bench = Bench::new(echo).await;
    let first = bench.submit(keyed(chunked(LARGE), "k")).await;
    assert_eq!(bench.submit(keyed(chunked(LARGE), "k")).await, first);
    assert_eq!((bench.memory.queued(), bench.memory.blobs.lock().unwrap().len()), (1, 1));
    assert!(matches!(refused(&bench, keyed(chunked(LARGE + 1), "k")).await, SubmitError::KeyReused));
}

#[tokio::test]
async fn wherever_a_caller_breaks_off_a_repeat_with_its_key_runs_once() {
    for size in [10, LARGE] {
        let mut ended = false;
        let mut steps = 1;
        while !ended {
            let mut bench = Bench::new(|call: Invocation| async {
                let size = call.request.into_body().collect().await.unwrap().to_bytes().len();
                answer(200, size.to_string())
            })
            .await;
            let (calls, revision) = (bench.calls.clone(), bench.revision());
            let mut first = Box::pin(calls.submit(&revision, keyed(chunked(size), "k"), None));
            for _ in 0..steps {
                ended = step(&mut first).await.is_some();
                if ended {
                    break;
                }
            }
            drop(first);
            let queued = bench.memory.queued();
            let id = bench.submit(keyed(chunked(size), "k")).await;
            assert_eq!(bench.memory.queued(), 1, "after {steps} steps, {queued} were queued");
            assert_eq!(bench.run_next().await, Outcome::Done);
            assert_eq!((bench.state(id).await, bench.ran(), bench.memory.queued()), (State::Done, 1, 0));
            let result = bench.calls.result(id).await.unwrap().unwrap();
            assert_eq!(text(result.into_body()).await, size.to_string(), "after {steps} steps");
            // The chunks of a large body are hundreds of steps that are all alike.
            steps += if size == LARGE && steps < (size >> 10) - 20 { 97 } else { 1 };
        }
    }
}
