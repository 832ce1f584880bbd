//! Running calls: what the function sees, what is kept of its answer, what stops it.

use super::*;
use crate::gateway::echo;
use dunlin_api::{ByteSize, InvokeError};
use dunlin_scheduler::calls::Cancelled;
use std::time::Duration;
use tokio::sync::Notify;

#[tokio::test]
async fn the_function_sees_the_request_as_it_was_and_its_answer_is_kept() {
    let mut bench = Bench::new(|call: Invocation| async {
        let seen = echo(call).await?;
        let (mut parts, body) = seen.into_parts();
        parts.status = http::StatusCode::CREATED;
        parts.headers.insert("x-mine", http::HeaderValue::from_bytes(b"\xfc").unwrap());
        Ok(Response::from_parts(parts, body))
    })
    .await;
    let id = bench.submit(post("/a%20b?c=d", "body")).await;
    assert_eq!(bench.run_next().await, Outcome::Done);
    let call = bench.status(id).await;
    assert_eq!((call.state, call.attempts, call.node.as_ref().unwrap().as_str()), (State::Done, 1, "here"));
    assert!(call.started_ms.unwrap() >= call.submitted_ms && call.ended_ms >= call.started_ms);
    let result = bench.calls.result(id).await.unwrap().unwrap();
    assert_eq!((result.status().as_u16(), result.headers()["x-mine"].as_bytes()), (201, b"\xfc".as_slice()));
    assert_eq!(text(result.into_body()).await, "POST /a%20b?c=d\nx-a: 1\nbody");
    assert_eq!(bench.memory.queued(), 0);
}

#[tokio::test]
async fn a_delivery_after_the_result_runs_nothing() {
    let mut bench = Bench::new(echo).await;
    let id = bench.submit(post("/", "a")).await;
    let delivery = bench.next().await;
    for _ in 0..2 {
        assert_eq!(bench.calls.run(&delivery, 1).await, Outcome::Done);
    }
    assert_eq!((bench.ran(), bench.state(id).await), (1, State::Done));
}

#[tokio::test]
async fn results_are_kept_in_the_record_or_as_a_blob_and_not_over_their_bound() {
    let config = Config { inline_response: 10, response: ByteSize(20), ..Config::default() };
    for (size, blobs) in [(0, 0), (10, 0), (11, 1), (20, 1)] {
        let mut bench = Bench::with(config, move |_| async move { answer(200, vec![b'r'; size]) }).await;
        let id = bench.submit(post("/", "")).await;
        assert_eq!(bench.run_next().await, Outcome::Done);
        assert_eq!(bench.memory.blobs.lock().unwrap().len(), blobs, "{size}");
        assert_eq!(bench.status(id).await.response.unwrap().bytes, size as u64);
        let result = bench.calls.result(id).await.unwrap().unwrap();
        assert_eq!(text(result.into_body()).await, "r".repeat(size));
    }
    let mut bench = Bench::with(config, |_| async { answer(200, vec![b'r'; 21]) }).await;
    let id = bench.submit(post("/", "")).await;
    assert!(matches!(bench.run_next().await, Outcome::Rejected { reason } if reason.contains("larger than 20 B")));
    assert_eq!(bench.state(id).await, State::Dead);
    assert!(bench.calls.result(id).await.unwrap().is_none());
    assert!(bench.memory.blobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_failed_waits_for_its_next_try_and_says_why() {
    let tries = AtomicU32::new(0);
    let mut bench = Bench::new(move |_| {
        let first = tries.fetch_add(1, SeqCst) == 0;
        async move { if first { answer(500, "not yet") } else { answer(200, "now") } }
    })
    .await;
    let id = bench.submit(post("/", "")).await;
    assert!(matches!(bench.run_next().await, Outcome::Failed { .. }));
    let call = bench.status(id).await;
    assert_eq!((call.state, call.attempts, call.response.unwrap().status), (State::Queued, 1, 500));
    assert!(call.reason.unwrap().contains("500") && call.ended_ms.is_none());
    assert!(bench.calls.result(id).await.unwrap().is_none());
    assert_eq!(bench.run_next().await, Outcome::Done);
    let call = bench.status(id).await;
    assert_eq!((call.state, call.reason, call.response.unwrap().status), (State::Done, None, 200));
}

#[tokio::test]
async fn what_did_not_run_does_not_count() {
    let mut bench = Bench::new(|_| async { Err(InvokeError::Draining) }).await;
    let id = bench.submit(post("/", "")).await;
    assert!(matches!(bench.run_next().await, Outcome::NotRun { .. }));
    let call = bench.status(id).await;
    assert_eq!((call.state, call.attempts), (State::Queued, 0));
}

#[tokio::test]
async fn a_call_that_is_dead_keeps_the_last_answer_and_may_be_put_back() {
    let tries = AtomicU32::new(0);
    let mut bench = Bench::new(move |_| {
        let first = tries.fetch_add(1, SeqCst) == 0;
        async move { answer(if first { 422 } else { 200 }, "said") }
    })
    .await;
    let id = bench.submit(post("/", "")).await;
    let delivery = bench.next().await;
    let outcome = bench.calls.run(&delivery, 1).await;
    assert!(matches!(outcome, Outcome::Rejected { .. }));
    assert_eq!(bench.state(id).await, State::Queued);
    settle(&bench.calls, &delivery, &outcome).await;
    let call = bench.status(id).await;
    assert_eq!((call.state, call.attempts), (State::Dead, 1));
    assert!(call.reason.unwrap().contains("422") && call.ended_ms.is_some());
    assert_eq!(bench.calls.result(id).await.unwrap().unwrap().status(), 422);
    assert_eq!(bench.calls.run(&delivery, 1).await, Outcome::Done);
    assert_eq!(bench.state(id).await, State::Done);
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_is_not_done() {
    let mut bench = Bench::new(echo).await;
    let id = bench.submit(post("/", "")).await;
    let memory = bench.memory.clone();
    let delivery = bench.next().await;
    // From the moment when the run is recorded nothing is stored any more.
    let calls = bench.calls.clone();
    let mut run = Box::pin(calls.run(&delivery, 1));
    while bench.state(id).await != State::Running {
        assert!(step(&mut run).await.is_none());
    }
    memory.forgetful.store(true, SeqCst);
    assert!(matches!(run.await, Outcome::NotRun { .. }));
    memory.forgetful.store(false, SeqCst);
    assert_eq!(bench.calls.run(&delivery, 1).await, Outcome::Done);
    assert_eq!((bench.state(id).await, bench.ran()), (State::Done, 2));
}

#[tokio::test]
async fn a_call_that_waits_is_cancelled_before_it_runs() {
    let mut bench = Bench::new(echo).await;
    let id = bench.submit(post("/", "")).await;
    assert!(
        matches!(bench.calls.cancel(id).await.unwrap(), Cancelled::Cancelled(call) if call.state == State::Cancelled)
    );
    assert_eq!(bench.run_next().await, Outcome::Done);
    assert_eq!((bench.ran(), bench.state(id).await, bench.memory.queued()), (0, State::Cancelled, 0));
    assert!(matches!(bench.calls.cancel(id).await.unwrap(), Cancelled::Ended(_)));
    assert_eq!(bench.calls.cancel(InvocationId::new()).await.unwrap(), Cancelled::Unknown);
}

/// Says when it is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_call_that_runs_is_cut_when_it_is_cancelled_also_if_the_signal_is_lost() {
    for deaf in [false, true] {
        let (began, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begins, drops) = (began.clone(), dropped.clone());
        let bench = Bench::new(move |_| {
            let (began, dropped) = (begins.clone(), Dropped(drops.clone()));
            async move {
                let _dropped = dropped;
                began.notify_one();
                std::future::pending().await
            }
        })
        .await;
        bench.memory.deaf.store(deaf, SeqCst);
        let _working = worker(bench.calls.clone(), bench.memory.stores());
        let id = bench.submit(post("/", "")).await;
        began.notified().await;
        assert_eq!(bench.state(id).await, State::Running);
        bench.calls.cancel(id).await.unwrap();
        tokio::time::timeout(PATIENCE, dropped.notified()).await.expect("the run goes on");
        assert_eq!(bench.state(id).await, State::Cancelled);
    }
}

#[tokio::test]
async fn who_waits_hears_of_the_end() {
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let bench = Bench::new(move |_| {
        let gate = gate.clone();
        async move {
            gate.notified().await;
            answer(200, "")
        }
    })
    .await;
    let _working = worker(bench.calls.clone(), bench.memory.stores());
    let id = bench.submit(post("/", "")).await;
    let early = bench.calls.wait(id, Duration::from_millis(5)).await.unwrap().unwrap();
    assert!(!early.state.has_ended());
    let (ended, ()) = tokio::join!(bench.calls.wait(id, PATIENCE), async { go.notify_one() });
    assert_eq!(ended.unwrap().unwrap().state, State::Done);
    assert!(bench.calls.wait(InvocationId::new(), PATIENCE).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_no_call_is_rejected() {
    let mut bench = Bench::new(echo).await;
    bench.submit(post("/", "")).await;
    let mut delivery = bench.next().await;
    delivery.stored.message.headers.clear();
    assert!(matches!(bench.calls.run(&delivery, 1).await, Outcome::Rejected { .. }));
    assert_eq!(bench.ran(), 0);
}
