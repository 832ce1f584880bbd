//! Calls that are answered or refused.

use dunlin_api::{Body, ByteSize, InvocationId, InvokeError, Load, RanOn, Timing};
use dunlin_scheduler::remote::{RemoteConfig, Seen, SendBody};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

use super::{Pair, Scripted, call, hanging, name, ok, signal, small, text, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_small_call_is_answered_with_where_it_ran_and_how_busy_that_is() {
    let pair = Pair::of(|call| async move {
        let body = call.request.into_body().collect().await.unwrap().to_bytes();
        let mut response = Response::new(Body::full(body));
        response.extensions_mut().insert(Timing { cold: true, run: Duration::from_micros(5), ..Timing::default() });
        Ok(response)
    })
    .await;
    let response = pair.call(small()).await.unwrap();
    let extensions = response.extensions();
    assert_eq!(extensions.get::<RanOn>().unwrap().0, name("worker"));
    assert_eq!(extensions.get::<Load>(), Some(&Load { in_flight: 3, slots: 8 }));
    let timing = extensions.get::<Timing>().unwrap();
    assert!(timing.cold && timing.run == Duration::from_micros(5));
    assert_eq!(text(response).await, "hello");
    assert_eq!(pair.remotes.in_flight(&name("worker")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn method_uri_fields_id_trace_and_deadline_survive() {
    let seen = Arc::new(Mutex::new(None));
    let keep = seen.clone();
    let pair = Pair::of(move |call| {
        *keep.lock().unwrap() = Some(call);
        async {
            let response = Response::builder().status(418).header("set-cookie", "a=1").header("set-cookie", "b=2");
            Ok(response.header("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap()).body(Body::Empty).unwrap())
        }
    })
    .await;
    let mut sent = small();
    let head = Request::patch("http://shop.example.com:81/a%20b/c?x=1&y=%2F").header("x-twice", "1");
    let head = head.header("x-twice", "2").header("x-empty", "");
    let head = head.header("x-bytes", HeaderValue::from_bytes(b"\xe9").unwrap()).body(()).unwrap();
    sent.head = Arc::new(head.into_parts().0);
    let (head, id, deadline) = (sent.head.clone(), sent.id, sent.deadline);
    let response = pair.call(sent).await.unwrap();
    assert_eq!(response.status(), 418);
    let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().map(HeaderValue::as_bytes).collect();
    assert_eq!((cookies, response.headers()["x-bytes"].as_bytes()), (vec![&b"a=1"[..], b"b=2"], &b"\xff\xfe"[..]));
    let seen = seen.lock().unwrap().take().unwrap();
    assert_eq!((seen.request.method(), seen.request.uri()), (&head.method, &head.uri));
    assert_eq!(seen.request.headers(), &head.headers);
    assert_eq!((seen.id, seen.trace.trace_id, seen.trace.parent_id, seen.trace.flags), (id, 11, 12, 1));
    // The receiver can only know that less than all of the time is left.
    assert!(seen.deadline <= deadline + Duration::from_millis(100));
    assert!(seen.deadline + Duration::from_secs(10) > deadline);
    assert_eq!(seen.revision.id, super::revision().id);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_arrives_as_it_was_and_says_whether_the_guest_had_begun() {
    use InvokeError as E;
    let next = Arc::new(Mutex::new((E::Draining, false)));
    let errors = next.clone();
    let pair = Pair::of(move |call| {
        let (error, started) = errors.lock().unwrap().clone();
        if started {
            call.started.set();
        }
        async { Err(error) }
    })
    .await;
    let second = Duration::from_millis(1_234);
    let busy = E::Busy(Load { in_flight: 9, slots: 8 });
    let all = [
        E::NoRoute("a".into()),
        E::Method("GET, PUT".into()),
        E::NoFunction("f".parse().unwrap()),
        E::BadRequest("b".into()),
        E::BodyTooLarge(ByteSize(5)),
        E::BodyTimeout(second),
        E::Concurrency { limit: 4 },
        E::Trap("unreachable\nat é".into()),
        E::NoResponse("n".into()),
        E::BadResponse("r".into()),
        E::Cpu(second),
        E::Memory(ByteSize::mib(64)),
        E::Deadline(second),
        busy.clone(),
        E::Draining,
        E::NotReady("x".into()),
        E::Internal("i".into()),
    ];
    for error in all {
        for started in [true, false] {
            *next.lock().unwrap() = (error.clone(), started);
            let failed = pair.call(small()).await.unwrap_err();
            let nothing_ran = matches!(error, E::Busy(_) | E::Draining | E::NotReady(_) | E::Concurrency { .. });
            let answered = Seen::Answered { error: error.clone(), started };
            let expected = if nothing_ran && !started { Seen::Refused(error.clone()) } else { answered };
            assert_eq!(failed.seen, expected);
            assert_eq!(failed.load, Some(Load { in_flight: 3, slots: 8 }));
            assert!(matches!(failed.call.unwrap().body, SendBody::Kept(body) if body == "hello"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_declines_runs_nothing_and_the_call_comes_back() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    for why in [InvokeError::Busy(Load { in_flight: 8, slots: 8 }), InvokeError::Concurrency { limit: 1 }] {
        *pair.node.declines.lock().unwrap() = Some(why.clone());
        let first = bytes::Bytes::from_static(b"first");
        let failed = pair.call(call(SendBody::Stream { first, rest: Body::full("rest") })).await.unwrap_err();
        assert_eq!(failed.seen, Seen::Refused(why));
        let Some(SendBody::Stream { first, rest }) = failed.call.map(|call| call.body) else { panic!("it was kept") };
        assert_eq!((&first[..], &rest.collect().await.unwrap().to_bytes()[..]), (&b"first"[..], &b"rest"[..]));
    }
    assert_eq!(pair.node.began.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_ready_loads_only_for_calls_that_may_load_and_else_gets_ready_once() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    *pair.node.declines.lock().unwrap() = Some(InvokeError::NotReady("cold".into()));
    pair.node.prepares.forget_permits(1_000);
    for _ in 0..3 {
        assert!(matches!(pair.seen(small()).await, Seen::Refused(InvokeError::NotReady(_))));
    }
    signal(&pair.node.asked).await;
    assert_eq!((pair.node.asked.available_permits(), pair.node.loaded.load(Ordering::SeqCst)), (0, 0));
    let mut willing = small();
    willing.may_load = true;
    assert!(pair.call(willing).await.is_ok());
    assert_eq!(pair.node.loaded.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_the_node_does_not_know_is_refused() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    pair.revisions.0.lock().unwrap().clear();
    let refused = pair.seen(small()).await;
    assert!(matches!(refused, Seen::Refused(InvokeError::NotReady(why)) if why.contains("`f`")));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_known_at_once() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let failed = pair.remotes.invoke(&name("nobody"), small(), 0).await.unwrap_err();
    assert_eq!(failed.seen, Seen::NoResponders);
    assert!(failed.call.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_call_drops_the_guest() {
    let (began, gone, script) = hanging();
    let pair = Pair::of(script).await;
    let waiting = pair.begin(small());
    signal(&began).await;
    assert_eq!(pair.remotes.in_flight(&name("worker")), 1);
    waiting.abort();
    signal(&gone).await;
    within(pair.worker.idle()).await;
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(pair.remotes.in_flight(&name("worker")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_the_wait_and_the_guest() {
    let (began, gone, script) = hanging();
    let pair = Pair::of(script).await;
    let mut hasty = small();
    hasty.deadline = Instant::now() + Duration::from_millis(700);
    let waiting = pair.begin(hasty);
    signal(&began).await;
    assert_eq!(within(waiting).await.unwrap().unwrap_err().seen, Seen::Deadline);
    signal(&gone).await;
    let mut late = small();
    late.deadline = Instant::now();
    assert_eq!(pair.seen(late).await, Seen::Deadline);
    assert_eq!(pair.node.began.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_may_take_longer_than_signs_of_life_may_be_missing() {
    let pair = Pair::of(|_| async {
        tokio::time::sleep(Duration::from_millis(4_500)).await;
        ok("done".to_owned())
    })
    .await;
    assert_eq!(text(pair.call(small()).await.unwrap()).await, "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_refuses_new_calls_while_running_ones_end() {
    let (began, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (b, g) = (began.clone(), go.clone());
    let mut pair = Pair::of(move |_| {
        let (began, go) = (b.clone(), g.clone());
        async move {
            began.add_permits(1);
            go.acquire().await.unwrap().forget();
            ok("done".to_owned())
        }
    })
    .await;
    let running = pair.begin(small());
    signal(&began).await;
    pair.worker.set_draining(true);
    assert_eq!(pair.seen(small()).await, Seen::Refused(InvokeError::Draining));
    let idle = tokio::time::timeout(Duration::from_millis(20), pair.worker.idle()).await;
    assert!(idle.is_err());
    go.add_permits(1);
    within(pair.worker.idle()).await;
    assert_eq!(text(running.await.unwrap().unwrap()).await, "done");
    // The worker stops; the gateway, with a stop of its own, learns that nobody listens.
    let (other, stop) = (super::connect(&pair.server).await, tokio_util::sync::CancellationToken::new());
    let config = RemoteConfig::default();
    let remotes = dunlin_scheduler::remote::Remotes::start(&other, &name("other"), config).await.unwrap();
    pair.tasks.spawn(remotes.clone().run(stop));
    pair.stop.cancel();
    within(pair.tasks.join_next()).await;
    within(pair.tasks.join_next()).await;
    assert_eq!(remotes.invoke(&name("worker"), small(), 0).await.unwrap_err().seen, Seen::NoResponders);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_may_be_in_flight_are_not_sent() {
    let (began, _gone, script) = hanging();
    let config = RemoteConfig { max_in_flight: 1, ..RemoteConfig::default() };
    let pair = Pair::with(config, Scripted::new(script)).await;
    let first = pair.begin(small());
    signal(&began).await;
    assert!(matches!(pair.seen(small()).await, Seen::NotSent(why) if why.starts_with("1 calls")));
    first.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_panics_loses_that_call_only() {
    let pair = Pair::of(|call| async move {
        call.started.set();
        assert!(call.id != InvocationId::from_u128(5), "as the test wants");
        ok(Body::Empty)
    })
    .await;
    let mut fatal = small();
    fatal.id = InvocationId::from_u128(5);
    assert!(matches!(pair.seen(fatal).await, Seen::Answered { error: InvokeError::Internal(_), started: true }));
    assert!(pair.call(small()).await.is_ok());
}
