//! NATS or a node is lost while calls are in flight.

use bytes::Bytes;
use dunlin_api::Body;
use dunlin_scheduler::remote::{Seen, SendBody};
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::Instant};

use super::{Pair, call, name, ok, signal, small, within};

/// A pair whose guest reads a streamed body to its second part and then hangs, and a call that is that far: it was
/// accepted, because the second part is only sent then.
async fn accepted() -> (Pair, tokio::task::JoinHandle<Result<http::Response<Body>, dunlin_scheduler::remote::Failed>>) {
    let reading = Arc::new(Semaphore::new(0));
    let read = reading.clone();
    let pair = Pair::of(move |call| {
        let reading = read.clone();
        async move {
            call.started.set();
            let mut body = call.request.into_body();
            while let Some(Ok(part)) = body.frame().await {
                if part.into_data().is_ok_and(|data| data == "rest") {
                    reading.add_permits(1);
                }
            }
            std::future::pending().await
        }
    })
    .await;
    let rest = futures::stream::iter([Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"rest")))]);
    let rest = Body::stream(StreamBody::new(rest.chain(futures::stream::pending())));
    let waiting = pair.begin(call(SendBody::Stream { first: Bytes::from_static(b"first"), rest }));
    signal(&reading).await;
    (pair, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_call_is_lost_with_the_connection_and_its_body_is_gone() {
    let (mut pair, waiting) = accepted().await;
    let killed = Instant::now();
    pair.server.kill();
    let failed = within(waiting).await.unwrap().unwrap_err();
    assert_eq!(failed.seen, Seen::Lost);
    assert!(failed.call.is_none() && failed.load.is_some());
    assert!(killed.elapsed() < Duration::from_secs(2), "it waited for a timeout: {:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_call_is_lost_when_nothing_comes_any_more() {
    let (pair, waiting) = accepted().await;
    pair.server.freeze();
    assert_eq!(within(waiting).await.unwrap().unwrap_err().seen, Seen::Lost);
    pair.server.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_knows_that_a_node_is_lost_fails_its_calls() {
    let (pair, waiting) = accepted().await;
    pair.remotes.lost(&name("another"));
    assert_eq!(pair.remotes.in_flight(&name("worker")), 1);
    pair.remotes.lost(&name("worker"));
    assert_eq!(within(waiting).await.unwrap().unwrap_err().seen, Seen::Lost);
    assert_eq!(pair.remotes.in_flight(&name("worker")), 0);
    // A node that is back is used again.
    assert!(pair.remotes.ping(&name("worker"), Duration::from_secs(20)).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_not_accepted_is_silent_and_none_is_sent_while_nats_is_away() {
    let mut pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let mut mute = pair.gateway.control.subscribe(pair.gateway.subjects.invoke(&name("mute"))).await.unwrap();
    let remotes = pair.remotes.clone();
    let waiting = tokio::spawn(async move { remotes.invoke(&name("mute"), small(), 0).await });
    within(mute.next()).await.unwrap();
    pair.server.kill();
    assert_eq!(within(waiting).await.unwrap().unwrap_err().seen, Seen::Silent);
    let mut connected = pair.gateway.connection();
    within(connected.wait_for(|up| !up)).await.unwrap();
    let failed = pair.call(small()).await.unwrap_err();
    assert!(matches!(failed.seen, Seen::NotSent(why) if why.contains("NATS")));
    assert!(failed.call.is_some());
    pair.server.restart();
    within(connected.wait_for(|up| *up)).await.unwrap();
    within(async {
        // Nobody listens until the worker has reconnected too.
        while let Err(failed) = pair.call(small()).await {
            assert!(matches!(failed.seen, Seen::NoResponders | Seen::NotSent(_) | Seen::Silent), "{:?}", failed.seen);
        }
    })
    .await;
}

/// A pair whose guest writes one part and then nothing, and the body of such an answer.
async fn streaming() -> (Pair, Body) {
    let pair = Pair::of(|_| async {
        let parts = futures::stream::iter([Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"a")))]);
        ok(Body::stream(StreamBody::new(parts.chain(futures::stream::pending()))))
    })
    .await;
    let mut body = pair.call(small()).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    (pair, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_on_its_way_breaks_with_the_connection() {
    let (mut pair, mut body) = streaming().await;
    pair.server.kill();
    assert!(within(body.frame()).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_on_its_way_breaks_when_only_the_bulk_connection_was_renewed() {
    for worker in [false, true] {
        let (pair, mut body) = streaming().await;
        let bulk = if worker { &pair.workers.bulk } else { &pair.gateway.bulk };
        bulk.force_reconnect().await.unwrap();
        assert!(within(body.frame()).await.unwrap().is_err());
        drop(body);
        within(pair.worker.idle()).await;
    }
}
