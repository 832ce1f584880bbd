//! Frames as bytes: nodes that are silent, late, wrong, or of another version. The bytes stand here as the format
//! says they are, so that a change of the format that breaks older nodes breaks these tests.

use async_nats::{Message, Subject, Subscriber};
use bytes::Bytes;
use dunlin_api::{Body, InvokeError};
use dunlin_scheduler::{nats::Nats, remote::Seen};
use futures::StreamExt;
use http_body_util::BodyExt;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::Instant;

use super::{Pair, connect, name, ok, small, text, within};

const INVOKE: u8 = 1;
const ACCEPT: u8 = 2;
const ANSWER: u8 = 5;
const CHUNK: u8 = 9;
const END: u8 = 10;
const UNREADABLY: u8 = 17;
/// Load 1 of 2, no timing, status, not streamed, no fields, no body.
const OK: &[u8] = &[1, 2, 0, 0xc8, 1, 0, 0, 0];
const TEAPOT: &[u8] = &[1, 2, 0, 0xa2, 3, 0, 0, 0];
const STREAMED: &[u8] = &[1, 2, 0, 0xc8, 1, 1, 0, 0];
/// Load 1 of 2, no credit.
const ACCEPTED: &[u8] = &[1, 2, 0];

/// A node that only the test knows.
struct Raw {
    nats: Nats,
    calls: Subscriber,
}

impl Raw {
    async fn of(pair: &Pair, node: &str) -> Self {
        let nats = connect(&pair.server).await;
        let calls = nats.control.subscribe(nats.subjects.invoke(&name(node))).await.unwrap();
        nats.control.flush().await.unwrap();
        // The subscription stands when something sent after it on the same connection has come back.
        let mut echo = nats.control.subscribe("echo").await.unwrap();
        nats.control.publish("echo", Bytes::new()).await.unwrap();
        within(echo.next()).await.unwrap();
        Self { nats, calls }
    }

    async fn next(&mut self) -> Message {
        within(self.calls.next()).await.unwrap()
    }

    async fn reply(&self, to: &Message, frame: Bytes) {
        self.nats.control.publish(to.reply.clone().unwrap(), frame).await.unwrap();
    }
}

/// A frame for the call that `invoke` is.
fn frame(kind: u8, invoke: &Message, rest: &[u8]) -> Bytes {
    let mut frame = vec![1, kind];
    frame.extend_from_slice(&invoke.payload[2..19]);
    frame.extend_from_slice(rest);
    frame.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_the_call_when_its_time_to_begin_is_over_and_cancels_it() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let mut mute = Raw::of(&pair, "mute").await;
    let mut control = mute.nats.control.subscribe(mute.nats.subjects.control(&name("mute"))).await.unwrap();
    let began = Instant::now();
    let failed = pair.remotes.invoke(&name("mute"), small(), 0).await.unwrap_err();
    assert_eq!(failed.seen, Seen::Silent);
    assert!(began.elapsed() >= Duration::from_millis(750));
    assert!(failed.call.is_some());
    let invoke = mute.next().await;
    assert_eq!(invoke.payload[..2], [1, INVOKE]);
    let cancel = within(control.next()).await.unwrap();
    assert_eq!(cancel.payload, frame(8, &invoke, &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_while_a_call_waits_for_it_is_found() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let mut node = Raw::of(&pair, "raw").await;
    let remotes = pair.remotes.clone();
    let call = tokio::spawn(async move { remotes.invoke(&name("raw"), small(), 0).await });
    node.next().await;
    drop(node);
    let found = async {
        loop {
            let gone = pair.remotes.gone().await;
            if !gone.is_empty() {
                return gone;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(within(found).await, [name("raw")]);
    pair.remotes.lost(&name("raw"));
    assert_eq!(within(call).await.unwrap().unwrap_err().seen, Seen::Silent);
    assert!(pair.remotes.gone().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_does_not_meet_the_call_that_took_the_place() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let mut node = Raw::of(&pair, "raw").await;
    let call = || {
        let remotes = pair.remotes.clone();
        tokio::spawn(async move { remotes.invoke(&name("raw"), small(), 0).await })
    };
    let first = call();
    let one = node.next().await;
    // Accepted, so that the place is used again at once; then the caller leaves.
    node.reply(&one, frame(ACCEPT, &one, ACCEPTED)).await;
    assert_eq!(within(pair.remotes.ping(&name("worker"), Duration::from_secs(20))).await.unwrap().boot, 7);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = call();
    let two = node.next().await;
    assert_eq!(one.reply, two.reply);
    node.reply(&two, frame(ANSWER, &one, TEAPOT)).await;
    node.reply(&two, frame(ANSWER, &two, OK)).await;
    assert_eq!(within(second).await.unwrap().unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_call_twice_runs_once_and_one_that_is_too_late_not_at_all() {
    let pair = Pair::of(|_| async { ok("done".to_owned()) }).await;
    // Hears what the worker hears.
    let mut spy = Raw::of(&pair, "worker").await;
    assert_eq!(text(pair.call(small()).await.unwrap()).await, "done");
    let invoke = spy.next().await;
    let mut replies = spy.nats.control.subscribe("replies").await.unwrap();
    let client = &spy.nats.control;
    let send = |payload: Bytes| client.publish_with_reply(invoke.subject.clone(), Subject::from("replies"), payload);
    // Longer than a call may take to begin.
    tokio::time::sleep(Duration::from_millis(600)).await;
    send(invoke.payload.clone()).await.unwrap();
    let mut late = invoke.payload.to_vec();
    late[18] = 9;
    send(late.into()).await.unwrap();
    // The copy is answered by nobody, the late one is refused.
    let reply = within(replies.next()).await.unwrap();
    assert_eq!((reply.payload[1], reply.payload[18]), (3, 9));
    assert!(String::from_utf8_lossy(&reply.payload).contains("too late"));
    assert_eq!(pair.node.began.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_cannot_be_read_are_answered_at_both_ends() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let mut node = Raw::of(&pair, "raw").await;
    // The worker says so.
    let mut replies = node.nats.control.subscribe("replies").await.unwrap();
    let key = [7; 17];
    let other_version = [&[9, INVOKE][..], &key].concat();
    let other_kind = [&[1, 99][..], &key].concat();
    let cut = [&[1, INVOKE][..], &key, &[200]].concat();
    let worker = name("worker");
    for subject in [pair.gateway.subjects.invoke(&worker), pair.gateway.subjects.control(&worker)] {
        for payload in [&other_version, &other_kind, &cut] {
            let payload = payload.clone().into();
            node.nats.control.publish_with_reply(subject.clone(), "replies", payload).await.unwrap();
            let reply = within(replies.next()).await.unwrap();
            assert_eq!((&reply.payload[..2], &reply.payload[2..19]), (&[1, UNREADABLY][..], &key[..]));
        }
    }
    // The gateway understands that, also from a later version.
    let answers = [(vec![2], true), (vec![1], true), (vec![2], false)];
    for (version, refuses) in answers {
        let remotes = pair.remotes.clone();
        let waiting = tokio::spawn(async move { remotes.invoke(&name("raw"), small(), 0).await });
        let invoke = node.next().await;
        let mut answer = frame(if refuses { UNREADABLY } else { ANSWER }, &invoke, b"\x01x").to_vec();
        answer[0] = version[0];
        node.reply(&invoke, answer.into()).await;
        match within(waiting).await.unwrap().unwrap_err().seen {
            Seen::Refused(InvokeError::Internal(_)) => assert!(refuses),
            Seen::Answered { error: InvokeError::Internal(_), started: true } => assert!(!refuses),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_with_a_missing_chunk_or_a_wrong_end_breaks() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let mut node = Raw::of(&pair, "raw").await;
    // Sequence numbers of chunks "a" and "b", then number and total of the end.
    let cases = [([0, 1], [2, 2], true), ([0, 2], [3, 2], false), ([0, 1], [3, 3], false), ([0, 0], [2, 2], false)];
    for (chunks, end, whole) in cases {
        let remotes = pair.remotes.clone();
        let waiting = tokio::spawn(async move { remotes.invoke(&name("raw"), small(), 0).await });
        let invoke = node.next().await;
        node.reply(&invoke, frame(ANSWER, &invoke, STREAMED)).await;
        let response = within(waiting).await.unwrap().unwrap();
        let down = node.nats.subjects.download(&name("gateway"));
        for (seq, byte) in chunks.into_iter().zip(*b"ab") {
            node.nats.bulk.publish(down.clone(), frame(CHUNK, &invoke, &[seq, 1, byte])).await.unwrap();
        }
        node.nats.bulk.publish(down, frame(END, &invoke, &[end[0], end[1], 0])).await.unwrap();
        let read = within(response.into_body().collect()).await;
        assert_eq!(read.map(|body| body.to_bytes()).ok(), whole.then(|| Bytes::from_static(b"ab")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_there_is_credit_for_breaks_the_body() {
    let pair = Pair::of(|_| async { ok(Body::Empty) }).await;
    let mut node = Raw::of(&pair, "raw").await;
    let remotes = pair.remotes.clone();
    let waiting = tokio::spawn(async move { remotes.invoke(&name("raw"), small(), 0).await });
    let invoke = node.next().await;
    node.reply(&invoke, frame(ANSWER, &invoke, STREAMED)).await;
    let response = within(waiting).await.unwrap().unwrap();
    // 32 KiB, where 16 are granted.
    let chunk = [&[0, 0x80, 0x80, 2][..], &[0; 32 << 10]].concat();
    node.nats.bulk.publish(node.nats.subjects.download(&name("gateway")), frame(CHUNK, &invoke, &chunk)).await.unwrap();
    let error = within(response.into_body().collect()).await.unwrap_err();
    assert!(error.to_string().contains("credit"), "{error}");
}
