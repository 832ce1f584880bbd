//! Requests whose length is ambiguous or malformed: at most one answer, and never a request that was not one.

use super::*;

/// Sends `bytes` and counts the answers and the function's calls.
async fn answers(bytes: &str) -> (String, usize, u32) {
    let config = Config { head_timeout: SHORT, body_timeout: SHORT, idle_timeout: SHORT, ..Config::default() };
    let front = Front::start(config, echo).await;
    let answer = front.send(bytes).await;
    let count = answer.matches("HTTP/1.1 ").count();
    (answer, count, front.calls())
}

const EVIL: &str = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn with_both_length_and_chunks_the_chunks_count_and_the_connection_closes() {
    // RFC 9112 §6.3: a server may process it by its chunks alone, and must close afterwards.
    for order in ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{order}\r\n\r\n0\r\n\r\n{EVIL}");
        let (answer, count, calls) = answers(&request).await;
        assert_eq!((count, calls), (1, 1), "{answer}");
        assert!(!answer.contains("evil") && !answer.contains("content-length: 4"), "{answer}");
    }
}

#[tokio::test]
async fn malformed_lengths_and_encodings_are_400_and_closed() {
    for framing in [
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: +4",
        "Content-Length: 4, 5",
        "Content-Length: -1",
        "Content-Length: 0x4",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Content-Length : 4",
        " Content-Length: 4",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "X: a\r\n b\r\nContent-Length: 4",
        "X\0: a",
    ] {
        let (answer, count, calls) =
            answers(&format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n0\r\n\r\n{EVIL}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && count == 1 && calls == 0, "{framing:?}: {answer}");
    }
    let (answer, count, calls) = answers("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    assert!(answer.contains(" 400 ") && count <= 1 && calls == 0, "{answer}");
}

#[tokio::test]
async fn malformed_chunks_end_the_body_and_the_connection() {
    for chunks in [
        "x\r\n\r\n",
        "-1\r\n\r\n",
        "1\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "1;\n\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{EVIL}");
        let (answer, _, calls) = answers(&request).await;
        assert!(calls <= 1 && !answer.contains("GET /evil"), "{chunks:?}: {answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "{chunks:?}: {answer}");
    }
}

#[tokio::test]
async fn a_length_that_is_too_short_makes_the_rest_another_request() {
    let (answer, count, calls) =
        answers(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab{EVIL}")).await;
    assert_eq!((count, calls), (2, 2), "{answer}");
}

#[tokio::test]
async fn a_body_on_get_is_its_own_and_no_request() {
    let request =
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{EVIL}", EVIL.len());
    let (answer, count, calls) = answers(&request).await;
    assert_eq!((count, calls), (1, 1), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let front = Front::start(Config::default(), echo).await;
    let mut requests: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    requests.push_str("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = front.send(&requests).await;
    let order: Vec<_> = answer.lines().filter_map(|line| line.strip_prefix("GET /")).map(ToOwned::to_owned).collect();
    let mut expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    expected.push("last".into());
    assert_eq!(order, expected);
}
