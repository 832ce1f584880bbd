//! Bodies stream, heads arrive as sent, failures after the head are failures of the body.

use crate::support::*;
use bytes::Bytes;
use dunlin_api::*;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// `chunks` MiB of the same byte.
fn megabytes(chunks: u64) -> Body {
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let frames = stream::iter(0..chunks).map(move |_| Ok::<_, std::io::Error>(Frame::data(chunk.clone())));
    Body::stream(StreamBody::new(frames))
}

#[test]
fn a_large_body_goes_through_an_echo_in_flat_memory() {
    run(async {
        let node = Node::start();
        for (name, path, cpu) in [("echo", "/", 60), ("hostile3", "/echo", 60)] {
            let revision = node.deploy(name, limits(|l| (l.timeout, l.cpu) = (300 * SECOND, cpu * SECOND))).await;
            let response = node.executor.invoke(call(&revision, post(path, megabytes(256)))).await.unwrap();
            let (mut body, mut bytes, before) = (response.into_body(), 0, resident_bytes());
            let mut most = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame.unwrap().into_data().map_or(0, |d| d.len() as u64);
                most = most.max(resident_bytes());
            }
            assert_eq!(bytes, 256 << 20, "{name}");
            assert!(most.saturating_sub(before) < 64 << 20, "{name}: grew by {} MiB", (most - before) >> 20);
        }
    });
}

#[test]
fn a_reader_that_stops_reading_stops_the_writer() {
    run(async {
        let node = Node::start();
        for name in ["hostile", "hostile3"] {
            let revision = node.deploy(name, limits(|l| l.timeout = 300 * SECOND)).await;
            let mut body = node.call(&revision, "/stream?mb=1024").await.unwrap().into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(!first.is_empty());
            let before = resident_bytes();
            // Other work goes on while nobody reads; the guest must not.
            for _ in 0..200 {
                node.text(&revision, "/ok").await;
            }
            assert!(resident_bytes().saturating_sub(before) < 32 << 20, "{name}");
        }
    });
}

#[test]
fn the_head_reaches_the_guest_as_it_was_sent() {
    run(async {
        let node = Node::start();
        for name in ["hostile", "hostile3"] {
            let revision = node.deploy(name, Settings::default()).await;
            let request = Request::builder()
                .method("PROPFIND")
                .uri("/a%2Fb/reflect?x=1&y=%20&x=2")
                .header("host", "test.example:8080")
                .header("x-many", "1")
                .header("accept", "*/*")
                .header("x-many", "2")
                .body(Body::Empty)
                .unwrap();
            let answer = text(node.executor.invoke(call(&revision, request)).await.unwrap()).await;
            for part in ["PROPFIND", "test.example:8080", "/a%2Fb/reflect?x=1&y=%20&x=2"] {
                assert!(answer.contains(part), "{name}: no {part} in\n{answer}");
            }
            let (one, two) = (answer.find("x-many: 1").unwrap(), answer.find("x-many: 2").unwrap());
            assert!(one < two && answer.to_lowercase().contains("http"), "{name}:\n{answer}");
        }
    });
}

#[test]
fn trailers_pass_both_ways() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("hostile", Settings::default()).await;
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("abc"))]);
        let frames = [Ok::<_, std::io::Error>(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
        let body = Body::stream(StreamBody::new(stream::iter(frames)));
        let response = node.executor.invoke(call(&revision, post("/trailers", body))).await.unwrap();
        let answer = response.into_body().collect().await.unwrap();
        assert!(answer.trailers().is_some_and(|t| !t.is_empty()));
        let body = String::from_utf8(answer.to_bytes().to_vec()).unwrap();
        assert!(body.contains("x-sum") && body.contains("abc"), "{body}");
    });
}

#[test]
fn a_trap_after_the_head_fails_the_body() {
    run(async {
        let node = Node::start();
        for name in ["hostile", "hostile3"] {
            let revision = node.deploy(name, Settings::default()).await;
            match node.call(&revision, "/trap-mid-stream").await {
                // It trapped before anybody looked: there is still time for an honest status.
                Err(error) => assert_eq!(error.code(), "trap", "{name}"),
                Ok(response) => assert!(response.into_body().collect().await.is_err(), "{name}: ended cleanly"),
            }
            assert_eq!(node.text(&revision, "/ok").await, "ok\n", "{name}: the next call is not affected");
        }
    });
}

#[test]
fn a_body_shorter_than_its_declared_length_fails() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("hostile", Settings::default()).await;
        let outcome = match node.call(&revision, "/bad-content-length?says=100").await {
            Ok(response) => response.into_body().collect().await.is_err(),
            Err(_) => true,
        };
        assert!(outcome);
    });
}

#[test]
fn work_after_the_response_goes_on_and_keeps_its_slot() {
    run(async {
        let node = Node::start();
        for name in ["hostile", "hostile3"] {
            let revision = node.deploy(name, Settings::default()).await;
            node.text(&revision, "/after?ms=50").await;
            node.logs.with("after").await;
            assert!(node.executor.drain(10 * SECOND).await || node.executor.load().in_flight == 0, "{name}");
            if name == "hostile" {
                assert_eq!(node.call(&revision, "/ok").await.err(), Some(InvokeError::Draining));
                return;
            }
        }
    });
}

#[test]
fn a_caller_that_leaves_takes_the_guest_along() {
    run(async {
        let node = Node::start();
        for name in ["hostile", "hostile3"] {
            let revision = node.deploy(name, limits(|l| l.timeout = 300 * SECOND)).await;
            let response = node.call(&revision, "/stream?mb=1024").await.unwrap();
            assert_eq!(node.executor.load().in_flight, 1, "{name}");
            drop(response);
            assert_eq!(node.executor.load().in_flight, 0, "{name}");
        }
    });
}

#[test]
fn a_response_larger_than_its_limit_is_cut() {
    run(async {
        let node = Node::start();
        for (allowed, whole) in [(3, true), (1, false)] {
            let settings = limits(|l| l.response_body = Some(ByteSize::mib(allowed)));
            let revision = node.deploy("hostile", settings).await;
            let body = node.call(&revision, "/stream?mb=2").await.unwrap().into_body();
            assert_eq!(body.collect().await.is_ok(), whole, "{allowed} MiB allowed");
        }
    });
}
