//! Connections and invocations over time: who leaves, who stays, who is cut.

use super::*;
use tokio::sync::{Notify, oneshot};

/// Says when it is dropped.
struct Guard(Option<oneshot::Sender<()>>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.take().map(|gone| gone.send(()));
    }
}

fn guard() -> (std::sync::Mutex<Option<Guard>>, oneshot::Receiver<()>) {
    let (send, receive) = oneshot::channel();
    (std::sync::Mutex::new(Some(Guard(Some(send)))), receive)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it did not happen")
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_client_that_leaves_cancels_its_invocation() {
    let ((held, gone), begun) = (guard(), Arc::new(Notify::new()));
    let notify = begun.clone();
    let front = Front::start(Config::default(), move |_| {
        let (held, begun) = (held.lock().unwrap().take(), notify.clone());
        async move {
            let _held = held;
            begun.notify_one();
            std::future::pending().await
        }
    })
    .await;
    let mut peer = front.connect().await;
    peer.write(GET).await;
    soon(begun.notified()).await;
    drop(peer);
    soon(gone).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_response_cancels_it() {
    let (held, gone) = guard();
    let front = Front::start(Config::default(), move |_| {
        let held = held.lock().unwrap().take();
        async move {
            let first = futures::stream::once(async { data("first") });
            let never = futures::stream::once(async move {
                let _held = held;
                std::future::pending().await
            });
            Ok(Response::new(Body::stream(http_body_util::StreamBody::new(Box::pin(first.chain(never))))))
        }
    })
    .await;
    let mut peer = front.connect().await;
    peer.write(GET).await;
    peer.until("first\r\n").await;
    drop(peer);
    soon(gone).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let (held, gone) = guard();
    let front = Front::start(Config { write_timeout: SHORT, ..Config::default() }, move |_| {
        let held = held.lock().unwrap().take();
        async move {
            let chunk = Bytes::from(vec![b'x'; 64 << 10]);
            let frames = futures::stream::repeat_with(move || {
                let _held = &held;
                data(chunk.clone())
            });
            Ok(Response::new(Body::stream(http_body_util::StreamBody::new(frames))))
        }
    })
    .await;
    let mut peer = front.connect().await;
    peer.write(GET).await;
    soon(gone).await.unwrap();
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let front = Front::start(Config::default(), hello).await;
    let mut peer = front.connect().await;
    for _ in 0..3 {
        peer.write(GET).await;
        let answer = peer.until("hello").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn a_stop_closes_what_is_idle_and_finishes_what_is_in_flight() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (notify, wait) = (begun.clone(), go.clone());
    let mut front = Front::start(Config::default(), move |call: Invocation| {
        let (begun, go) = (notify.clone(), wait.clone());
        async move {
            if call.request.uri().path() == "/slow" {
                begun.notify_one();
                go.notified().await;
            }
            hello(call).await
        }
    })
    .await;
    let (mut idle, mut fresh, mut busy) = (front.connect().await, front.connect().await, front.connect().await);
    idle.write(GET).await;
    idle.until("hello").await;
    busy.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    soon(begun.notified()).await;
    front.stop.cancel();
    assert_eq!(idle.rest().await, "");
    assert_eq!(fresh.rest().await, "");
    assert!(TcpStream::connect(front.address).await.is_err());
    go.notify_one();
    let answer = busy.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    front.ended().await;
}

#[tokio::test]
async fn a_request_that_waits_to_be_accepted_when_the_gateway_stops_is_answered() {
    let mut front = Front::start(Config { connections: 1, ..Config::default() }, hello).await;
    let mut first = front.connect().await;
    first.write(GET).await;
    first.until("hello").await;
    let (mut second, mut late) = (front.connect().await, front.connect().await);
    second.write(GET).await;
    front.stop.cancel();
    late.write(GET).await;
    assert!(second.rest().await.ends_with("hello") && late.rest().await.ends_with("hello"));
    front.ended().await;
}

#[tokio::test]
async fn what_outlives_the_grace_is_cut() {
    let ((held, gone), begun) = (guard(), Arc::new(Notify::new()));
    let notify = begun.clone();
    let mut front = Front::start(Config { grace: SHORT, ..Config::default() }, move |_| {
        let (held, begun) = (held.lock().unwrap().take(), notify.clone());
        async move {
            let _held = held;
            begun.notify_one();
            std::future::pending().await
        }
    })
    .await;
    let mut peer = front.connect().await;
    peer.write(GET).await;
    soon(begun.notified()).await;
    front.stop.cancel();
    front.ended().await;
    soon(gone).await.unwrap();
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn connections_over_the_bound_wait_for_one_that_ends() {
    let front = Front::start(Config { connections: 1, ..Config::default() }, hello).await;
    let mut first = front.connect().await;
    first.write(GET).await;
    first.until("hello").await;
    let mut second = front.connect().await;
    second.write(GET).await;
    let early = tokio::time::timeout(SHORT, second.0.readable()).await;
    assert!(early.is_err(), "the second connection was served beside the first");
    drop(first);
    second.until("hello").await;
}

#[tokio::test]
async fn a_function_that_panics_costs_its_connection_only() {
    let front = Front::start(Config::default(), |call: Invocation| async move {
        assert_ne!(call.request.uri().path(), "/panic", "on purpose");
        hello(call).await
    })
    .await;
    assert_eq!(front.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await, "");
    assert!(front.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ends_with("hello"));
}
