//! Request bodies: limits, waiting, trailers, and streaming without end.

use super::*;
use std::sync::Mutex;

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_body_of_the_limit_passes() {
    let front = Front::start(Config::default(), count).await;
    let body = "x".repeat(LIMIT as usize);
    let answer = front.send(&post(&format!("Content-Length: {LIMIT}"), &body)).await;
    assert!(answer.ends_with("1048576 bytes"), "{answer}");
    let answer = front.send(&post("Transfer-Encoding: chunked", &format!("{LIMIT:x}\r\n{body}\r\n0\r\n\r\n"))).await;
    assert!(answer.ends_with("1048576 bytes"), "{answer}");
}

#[tokio::test]
async fn a_length_over_the_limit_is_413_before_anything_is_sent() {
    let front = Front::start(Config::default(), count).await;
    for expect in ["", "Expect: 100-continue\r\n"] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: {}\r\n\r\n", LIMIT + 1);
        let mut peer = front.connect().await;
        peer.write(&head).await;
        let answer = peer.rest().await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
        assert!(answer.contains("limits.request_body = 1.0 MiB"), "{answer}");
    }
    assert_eq!(front.calls(), 0);
}

#[tokio::test]
async fn chunks_over_the_limit_are_413_though_the_function_says_500() {
    let front = Front::start(Config::default(), count).await;
    let chunk = format!("{:x}\r\n{}\r\n", LIMIT, "x".repeat(LIMIT as usize));
    let mut peer = front.connect().await;
    peer.write(post("Transfer-Encoding: chunked", "")).await;
    // The gateway may close before it has all of it.
    for _ in 0..20 {
        let _ = peer.0.write_all(chunk.as_bytes()).await;
    }
    let answer = peer.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_function_may_answer_a_body_that_broke_off_itself() {
    let front = Front::start(Config::default(), |call: Invocation| async {
        assert!(call.request.into_body().collect().await.is_err());
        Ok(Response::builder().status(422).body(Body::full("mine")).unwrap())
    })
    .await;
    let body = format!("{:x}\r\n{}\r\n", LIMIT + 1, "x".repeat(LIMIT as usize + 1));
    let answer = front.send(&post("Transfer-Encoding: chunked", &body)).await;
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_stops_is_408() {
    let front = Front::start(Config { body_timeout: SHORT, ..Config::default() }, count).await;
    let answer = front.send(&post("Content-Length: 10", "half")).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_body_that_stops_after_the_head_of_the_response_cuts_it() {
    let front = Front::start(Config { body_timeout: SHORT, ..Config::default() }, echo).await;
    let answer = front.send(&post("Content-Length: 10", "half")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("half"), "{answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn continue_is_sent_when_the_function_reads() {
    let front = Front::start(Config::default(), count).await;
    let mut peer = front.connect().await;
    peer.write(post("Expect: 100-continue\r\nContent-Length: 5", "")).await;
    assert_eq!(peer.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    peer.write("12345").await;
    assert!(peer.rest().await.ends_with("5 bytes"));
}

#[tokio::test]
async fn no_continue_for_a_function_that_does_not_read() {
    let front = Front::start(Config::default(), hello).await;
    let answer = front.send(&post("Expect: 100-continue\r\nContent-Length: 5", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_body_nobody_reads_does_not_keep_the_answer_or_the_connection() {
    let front = Front::start(Config::default(), hello).await;
    let mut peer = front.connect().await;
    peer.write(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LIMIT}\r\n\r\nsome")).await;
    assert!(peer.rest().await.ends_with("hello"));
}

#[tokio::test]
async fn an_empty_body_is_empty() {
    let front = Front::start(Config::default(), |call: Invocation| async move {
        assert!(matches!(call.request.body(), Body::Empty));
        hello(call).await
    })
    .await;
    assert!(front.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ends_with("hello"));
    assert!(front.send(&post("Content-Length: 0", "")).await.ends_with("hello"));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let front = Front::start(Config::default(), |call: Invocation| async {
        let body = call.request.into_body().collect().await.unwrap();
        let mut trailers = body.trailers().unwrap().clone();
        trailers.insert("x-back", "2".parse().unwrap());
        let frames = futures::stream::iter([data("body"), Ok(Frame::trailers(trailers))]);
        let body = Body::stream(http_body_util::StreamBody::new(frames));
        Ok(Response::builder().header("trailer", "x-sum, x-back").body(body).unwrap())
    })
    .await;
    let answer =
        front.send(&post("TE: trailers\r\nTransfer-Encoding: chunked", "1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")).await;
    assert!(answer.contains("4\r\nbody\r\n0\r\n"), "{answer}");
    assert!(answer.contains("x-sum: 1\r\n") && answer.contains("x-back: 2\r\n"), "{answer}");
}

#[tokio::test]
async fn a_quarter_of_a_gigabyte_streams_through_in_little_memory() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 4 << 10;
    let front = Front::start(Config::default(), |call: Invocation| async {
        drop(call);
        let chunk = Bytes::from(vec![b'x'; CHUNK]);
        let frames = futures::stream::iter((0..CHUNKS).map(move |_| data(chunk.clone())));
        Ok(Response::new(Body::stream(http_body_util::StreamBody::new(frames))))
    })
    .await;
    let mut peer = front.connect().await;
    peer.write("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let before = resident_kib();
    let (mut total, mut buffer, peak) = (0, vec![0; CHUNK], Mutex::new(0));
    while let Ok(read @ 1..) = peer.0.read(&mut buffer).await {
        total += read;
        if total % (16 << 20) < CHUNK {
            let mut peak = peak.lock().unwrap();
            *peak = resident_kib().max(*peak);
        }
    }
    assert!(total > CHUNK * CHUNKS);
    let growth = peak.into_inner().unwrap().saturating_sub(before);
    // Other tests of this process run beside it.
    assert!(growth < 64 << 10, "grew by {growth} KiB");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
