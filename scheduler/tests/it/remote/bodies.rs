//! Bodies that stream: whole, in order, with bounded memory, or visibly broken.

use bytes::Bytes;
use dunlin_api::{Body, BodyError, ByteSize};
use dunlin_scheduler::remote::{RemoteCall, RemoteConfig, SendBody};
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use sha2::{Digest as _, Sha256};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{Gone, Pair, Scripted, call, name, ok, signal, small, text, within};

const PART: usize = 50_000;
const PARTS: usize = 2_100;
/// A window, what travels with the head, what one read takes, and the rest of a part.
const FLIGHT: u64 = (1 << 20) + 2 * (128 << 10) + 2 * (64 << 10) + PART as u64;

/// Counts bytes that were produced and not yet consumed.
#[derive(Default)]
struct Gauge {
    now: AtomicU64,
    most: AtomicU64,
}

impl Gauge {
    fn more(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes as u64, Ordering::SeqCst) + bytes as u64;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn less(&self, bytes: usize) {
        self.now.fetch_sub(bytes as u64, Ordering::SeqCst);
    }
}

fn part(number: usize) -> Bytes {
    let seed = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PART).map(|i| (seed >> (i % 57)) as u8).collect::<Vec<_>>().into()
}

/// A body of many parts, counted as they are made.
fn large(parts: usize, gauge: Arc<Gauge>) -> Body {
    let parts = stream::iter(0..parts).map(move |number| {
        gauge.more(PART);
        Ok::<_, BodyError>(Frame::data(part(number)))
    });
    Body::stream(StreamBody::new(parts))
}

async fn digest(mut body: Body, gauge: &Gauge) -> (usize, [u8; 32]) {
    let (mut hash, mut total) = (Sha256::new(), 0);
    while let Some(part) = body.frame().await {
        let data = part.unwrap().into_data().unwrap();
        hash.update(&data);
        gauge.less(data.len());
        total += data.len();
    }
    (total, hash.finalize().into())
}

fn expected() -> (usize, [u8; 32]) {
    let mut hash = Sha256::new();
    (0..PARTS).for_each(|number| hash.update(part(number)));
    (PART * PARTS, hash.finalize().into())
}

async fn streamed(body: Body) -> RemoteCall {
    call(SendBody::of(body).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_go_up_whole_and_with_flat_buffers() {
    let gauge = Arc::new(Gauge::default());
    let (read, found) = (gauge.clone(), Arc::new(Mutex::new(None)));
    let keep = found.clone();
    let pair = Pair::of(move |call| {
        let (gauge, found) = (read.clone(), keep.clone());
        async move {
            let digest = digest(call.request.into_body(), &gauge).await;
            *found.lock().unwrap() = Some(digest);
            ok("read".to_owned())
        }
    })
    .await;
    let response = pair.call(streamed(large(PARTS, gauge.clone())).await).await.unwrap();
    assert_eq!(text(response).await, "read");
    assert_eq!(found.lock().unwrap().take(), Some(expected()));
    let most = gauge.most.load(Ordering::SeqCst);
    assert!(most <= FLIGHT, "{most} bytes were under way at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_come_down_whole_and_with_flat_buffers() {
    let gauge = Arc::new(Gauge::default());
    let made = gauge.clone();
    let pair = Pair::of(move |_| {
        let body = large(PARTS, made.clone());
        async { ok(body) }
    })
    .await;
    let response = pair.call(small()).await.unwrap();
    assert_eq!(digest(response.into_body(), &gauge).await, expected());
    let most = gauge.most.load(Ordering::SeqCst);
    assert!(most <= FLIGHT, "{most} bytes were under way at once");
    within(pair.worker.idle()).await;
    assert_eq!(pair.remotes.in_flight(&name("worker")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_room_to_spare_streams_in_small_steps() {
    let gauge = Arc::new(Gauge::default());
    let made = gauge.clone();
    let config = RemoteConfig { buffer: ByteSize(0), ..RemoteConfig::default() };
    let script = move |_| {
        let body = large(100, made.clone());
        async { ok(body) }
    };
    let pair = Pair::with(config, Scripted::new(script)).await;
    let response = pair.call(small()).await.unwrap();
    assert_eq!(digest(response.into_body(), &gauge).await.0, 100 * PART);
    // What travels with the head, the first window, and what is read of the next parts.
    let most = gauge.most.load(Ordering::SeqCst);
    assert!(most <= (128 << 10) + (16 << 10) + 2 * PART as u64, "{most} bytes were under way at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_stops_the_guest_and_small_calls_go_on() {
    let gauge = Arc::new(Gauge::default());
    let made = gauge.clone();
    let pair = Pair::of(move |call| {
        let all = if call.id.as_u128() == 1 { PARTS } else { 0 };
        let body = if all > 0 { large(all, made.clone()) } else { Body::full("small") };
        async { ok(body) }
    })
    .await;
    let mut slow = small();
    slow.id = dunlin_api::InvocationId::from_u128(1);
    let mut body = pair.call(slow).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    for _ in 0..200 {
        assert_eq!(text(pair.call(small()).await.unwrap()).await, "small");
    }
    let held = gauge.now.load(Ordering::SeqCst);
    assert!(held <= FLIGHT, "the guest made {held} bytes that nobody read");
    let rest = body.collect().await.unwrap().to_bytes().len();
    assert!(rest > PARTS * PART - (256 << 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bodies_at_once_do_not_mix() {
    let pair = Arc::new(
        Pair::of(|call| async move {
            let number = call.id.as_u128() as usize;
            let sent = call.request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(sent.len(), 5 * PART);
            let echo = stream::iter([part(number), sent, part(number + 1)]).map(|d| Ok::<_, BodyError>(Frame::data(d)));
            ok(Body::stream(StreamBody::new(echo)))
        })
        .await,
    );
    let calls = (0..80_usize).map(|number| {
        let pair = pair.clone();
        tokio::spawn(async move {
            let parts = (0..5).map(move |n| Ok::<_, BodyError>(Frame::data(part(number * 7 + n))));
            let mut sent = streamed(Body::stream(StreamBody::new(stream::iter(parts)))).await;
            sent.id = dunlin_api::InvocationId::from_u128(number as u128);
            let answer = pair.call(sent).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            let middle = (0..5).flat_map(|n| part(number * 7 + n));
            let whole: Bytes = part(number).into_iter().chain(middle).chain(part(number + 1)).collect();
            assert!(answer == whole, "the body of call {number} is another");
        })
    });
    for call in calls.collect::<Vec<_>>() {
        within(call).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_as_they_are_written() {
    let (send, receive) = mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let receive = Mutex::new(Some(receive));
    let pair = Pair::of(move |_| {
        let events = ReceiverStream::new(receive.lock().unwrap().take().unwrap());
        async { ok(Body::stream(StreamBody::new(events))) }
    })
    .await;
    let mut body = pair.call(small()).await.unwrap().into_body();
    for number in 0..100 {
        let event = Bytes::from(format!("data: {number}\n\n"));
        send.send(Ok(Frame::data(event.clone()))).await.unwrap();
        // Without the next event: the guest waits for this one to be read.
        let read = within(body.frame()).await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(read, event);
    }
    drop(send);
    assert!(within(body.frame()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_follow_the_body_in_both_directions() {
    let pair = Pair::of(|call| async move {
        let sent = call.request.into_body().collect().await.unwrap();
        let trailers = sent.trailers().cloned().unwrap();
        let parts = [Frame::data(sent.to_bytes()), Frame::trailers(trailers)];
        ok(Body::stream(StreamBody::new(stream::iter(parts.map(Ok::<_, BodyError>)))))
    })
    .await;
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
    let parts = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers.clone())];
    let body = Body::stream(StreamBody::new(stream::iter(parts.map(Ok::<_, BodyError>))));
    let answer = pair.call(streamed(body).await).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers(), Some(&trailers));
    assert_eq!(answer.to_bytes(), "body");
    within(pair.worker.idle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_never_ends_cleanly() {
    let heard = Arc::new(Mutex::new(None));
    let keep = heard.clone();
    let broken = || {
        let parts = (0..10).map(|n| Ok(Frame::data(part(n)))).chain([Err(BodyError::from("the source broke"))]);
        Body::stream(StreamBody::new(stream::iter(parts)))
    };
    let pair = Pair::of(move |call| {
        let heard = keep.clone();
        async move {
            let error = call.request.into_body().collect().await.err().map(|error| error.to_string());
            *heard.lock().unwrap() = error;
            ok(broken())
        }
    })
    .await;
    let body = pair.call(streamed(broken()).await).await.unwrap().into_body();
    let error = within(body.collect()).await.unwrap_err().to_string();
    assert_eq!(heard.lock().unwrap().take().as_deref(), Some("the source broke"));
    assert_eq!(error, "the source broke");
    // One that breaks before its head has left is no call at all.
    let early = stream::iter([Err::<Frame<Bytes>, _>(BodyError::from("early"))]);
    assert!(SendBody::of(Body::stream(StreamBody::new(early))).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_body_of_an_answer_drops_the_guest() {
    let gone = Arc::new(Semaphore::new(0));
    let tell = gone.clone();
    let pair = Pair::of(move |_| {
        let gone = Gone(tell.clone());
        let endless = stream::repeat_with(move || {
            let _ = &gone;
            Ok::<_, BodyError>(Frame::data(Bytes::from(vec![1; 1_000])))
        });
        async { ok(Body::stream(StreamBody::new(endless))) }
    })
    .await;
    let mut body = pair.call(small()).await.unwrap().into_body();
    for _ in 0..300 {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(gone.available_permits(), 0);
    drop(body);
    signal(&gone).await;
    within(pair.worker.idle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_may_answer_before_it_has_read_the_request() {
    let pair = Pair::of(|call| async move {
        let body = call.request.into_body().into_data_stream().map_ok(Frame::data);
        Ok(Response::new(Body::stream(StreamBody::new(body))))
    })
    .await;
    let (send, receive) = mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let first = Bytes::from_static(b"first");
    let rest = Body::stream(StreamBody::new(ReceiverStream::new(receive)));
    let mut body = pair.call(call(SendBody::Stream { first, rest })).await.unwrap().into_body();
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "first");
    for word in ["a", "b", "c"] {
        send.send(Ok(Frame::data(Bytes::from(word)))).await.unwrap();
        assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), word);
    }
    drop(send);
    assert!(within(body.frame()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_not_waited_for() {
    let (send, receive) = mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let pair = Pair::of(|call| async move { ok(call.request.into_body().collect().await.unwrap().to_bytes()) }).await;
    let sent = within(SendBody::of(Body::stream(StreamBody::new(ReceiverStream::new(receive))))).await.unwrap();
    assert!(matches!(&sent, SendBody::Stream { first, .. } if first.is_empty()));
    let waiting = pair.begin(call(sent));
    send.send(Ok(Frame::data(Bytes::from_static(b"late")))).await.unwrap();
    drop(send);
    assert_eq!(text(within(waiting).await.unwrap().unwrap()).await, "late");
}
