//! Heads that are late, too large, malformed, or not what a function may see.

use super::*;

#[tokio::test]
async fn half_a_head_is_answered_408_and_closed() {
    let front = Front::start(Config { head_timeout: SHORT, ..Config::default() }, hello).await;
    let answer = front.send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let front = Front::start(Config { head_timeout: SHORT, ..Config::default() }, hello).await;
    assert_eq!(front.send("").await, "");
    assert_eq!(front.send("PRI * HT").await, "");
}

#[tokio::test]
async fn a_head_that_comes_bit_by_bit_gets_no_more_time() {
    let front = Front::start(Config { head_timeout: SHORT, ..Config::default() }, hello).await;
    let mut peer = front.connect().await;
    peer.write("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
    let (mut read, mut write) = peer.0.split();
    let drip = async {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut first = [0; 12];
    tokio::select! {
        () = drip => panic!("closed without an answer"),
        answer = tokio::time::timeout(PATIENCE, read.read_exact(&mut first)) => assert!(answer.unwrap().is_ok()),
    }
    assert_eq!(&first, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_second_half_head_is_late_too() {
    let config = Config { head_timeout: SHORT, idle_timeout: PATIENCE * 2, ..Config::default() };
    let front = Front::start(config, hello).await;
    let mut peer = front.connect().await;
    peer.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    peer.until("hello").await;
    peer.write("GET /").await;
    assert!(peer.rest().await.starts_with("HTTP/1.1 408 "));
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let front = Front::start(Config { idle_timeout: SHORT, ..Config::default() }, hello).await;
    let mut peer = front.connect().await;
    peer.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    peer.until("hello").await;
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn a_hundred_fields_pass_and_one_more_is_431() {
    let front = Front::start(Config::default(), hello).await;
    for (fields, status) in [(98, "200"), (99, "431")] {
        let fields: String = (0..fields).map(|n| format!("x-{n}: 1\r\n")).collect();
        let answer = front.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn a_head_is_bounded_in_bytes() {
    let front = Front::start(Config::default(), hello).await;
    for (bytes, status) in [(60 << 10, "200"), (70 << 10, "431"), (600 << 10, "431")] {
        let long = "x".repeat(bytes);
        let mut peer = front.connect().await;
        // The gateway may close before it has all of it.
        let _ = peer
            .0
            .write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {long}\r\n\r\n").as_bytes())
            .await;
        let answer = peer.rest().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) || answer.is_empty() && status == "431", "{answer}");
    }
}

#[tokio::test]
async fn a_long_target_is_414() {
    let front = Front::start(Config::default(), hello).await;
    for (bytes, status) in [(8 << 10, "200"), ((8 << 10) + 1, "414"), (60 << 10, "414")] {
        let path = format!("/{}", "x".repeat(bytes - 1));
        let answer = front.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}", &answer[..80]);
    }
}

#[tokio::test]
async fn a_host_that_is_missing_double_or_malformed_is_400_and_closes() {
    let front = Front::start(Config::default(), hello).await;
    for hosts in
        ["", "Host:\r\n", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: a/b\r\n", "Host: u@a\r\n", "Host: a:x\r\n"]
    {
        let answer = front.send(&format!("GET / HTTP/1.1\r\n{hosts}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close"), "{hosts:?}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    assert_eq!(front.calls(), 0);
    assert!(front.send("GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 "));
}

#[tokio::test]
async fn an_absolute_target_names_the_host() {
    let front = Front::start(Config::default(), echo).await;
    let answer = front.send("GET http://b.example:81/x?y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("GET http://b.example:81/x?y\n") && answer.contains("host: b.example:81\n"), "{answer}");
    assert!(!answer.contains("host: a\n"), "{answer}");
}

#[tokio::test]
async fn targets_that_are_no_paths_are_refused() {
    let front = Front::start(Config::default(), hello).await;
    for (line, status) in [
        ("CONNECT a:80 HTTP/1.1", "501"),
        ("OPTIONS * HTTP/1.1", "204"),
        ("GET * HTTP/1.1", "400"),
        ("GET a HTTP/1.1", "400"),
        ("GET ftp://a/ HTTP/1.1", "400"),
        ("GET /a/../b HTTP/1.1", "400"),
        ("GET /a/. HTTP/1.1", "400"),
        ("GET /a/%2e%2e/b HTTP/1.1", "200"),
    ] {
        let answer = front.send(&format!("{line}\r\nHost: a:80\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
    }
    assert_eq!(front.calls(), 1);
}

#[tokio::test]
async fn fields_of_one_hop_stop_here_and_all_others_reach_the_function_in_order() {
    let front = Front::start(Config::default(), echo).await;
    let answer = front
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nX-B: 2\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AA\r\nProxy-Connection: x\r\nTE: gzip\r\nX-A: 1\r\nX-B: 1\r\nDunlin-Timing: 1\r\n\r\n",
        )
        .await;
    let (_, seen) = answer.split_once("GET /\n").unwrap();
    let fields: Vec<_> =
        seen.lines().filter(|l| !l.starts_with("x-request-id") && !l.starts_with("traceparent")).collect();
    assert_eq!(fields, ["host: a", "x-b: 2", "x-b: 1", "x-a: 1"]);
}
