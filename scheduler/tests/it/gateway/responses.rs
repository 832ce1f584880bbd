//! Responses: what a client sees of a function's answer, of its failure, and of where the time went.

use super::*;
use dunlin_api::{Load, Timing};

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n")
}

/// A function that answers with `lines` as its head's fields and `body`.
async fn with(fields: &'static [(&'static str, &'static str)], body: fn() -> Body) -> Front {
    Front::start(Config::default(), move |_| async move {
        let mut response = Response::new(body());
        for (name, value) in fields {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        Ok(response)
    })
    .await
}

fn streamed(chunks: &'static [&'static str]) -> Body {
    Body::stream(http_body_util::StreamBody::new(futures::stream::iter(chunks.iter().map(|chunk| data(*chunk)))))
}

#[tokio::test]
async fn a_response_has_a_date_a_request_id_and_no_server() {
    let front = Front::start(Config::default(), hello).await;
    let answer = front.send(&get("X-Request-Id: mine\r\n")).await;
    assert!(answer.contains("\r\ndate: ") && answer.contains("\r\nx-request-id: mine\r\n"), "{answer}");
    assert!(!answer.contains("server") && !answer.contains("dunlin-"), "{answer}");
    let front = with(&[("x-request-id", "the-functions")], || Body::full("x")).await;
    let answer = front.send(&get("X-Request-Id: mine\r\n")).await;
    assert!(answer.contains("x-request-id: the-functions") && !answer.contains("mine"), "{answer}");
}

#[tokio::test]
async fn fields_of_one_hop_in_a_response_stop_here() {
    let fields =
        &[("connection", "x-mine"), ("x-mine", "1"), ("keep-alive", "1"), ("transfer-encoding", "gzip"), ("x-a", "1")];
    let answer = with(fields, || Body::full("x")).await.send(&get("")).await;
    assert!(answer.contains("x-a: 1") && answer.contains("content-length: 1"), "{answer}");
    assert!(!answer.contains("x-mine") && !answer.contains("keep-alive") && !answer.contains("encoding"), "{answer}");
}

#[tokio::test]
async fn timing_is_told_to_those_who_ask() {
    let function = |_| async {
        let mut response = Response::new(Body::full("x"));
        let timing = Timing { queue: Duration::from_micros(1500), cold: true, ..Timing::default() };
        response.extensions_mut().insert(timing);
        Ok(response)
    };
    let front = Front::start(Config::default(), function).await;
    let answer = front.send(&get("Dunlin-Timing: 1\r\n")).await;
    let line = answer.lines().find_map(|line| line.strip_prefix("server-timing: ")).unwrap();
    assert!(
        line.starts_with("queue;dur=1.500, load;dur=0.000, instantiate;dur=0.000, run;dur=0.000, total;dur="),
        "{line}"
    );
    for part in ["dunlin-start: cold", "dunlin-revision: ", "dunlin-node: local"] {
        assert!(answer.contains(part), "{answer}");
    }
    let front = Front::start(Config { always_timing: true, ..Config::default() }, function).await;
    assert!(front.send(&get("")).await.contains("server-timing: "));
}

#[tokio::test]
async fn failures_are_problem_documents_with_the_advice_that_fits() {
    let errors = [
        (InvokeError::Trap("secret".into()), "500", ""),
        (InvokeError::Deadline(Duration::from_secs(1)), "504", ""),
        (InvokeError::Busy(Load::default()), "503", "retry-after: 1"),
        (InvokeError::Concurrency { limit: 1 }, "429", "retry-after: 1"),
    ];
    for (error, status, field) in errors {
        let front = Front::start(Config::default(), move |_| futures::future::ready(Err(error.clone()))).await;
        let answer = front.send(&get("")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(field), "{answer}");
        assert!(answer.contains("application/problem+json") && answer.contains("\"invocation\":"), "{answer}");
        assert!(!answer.contains("secret"), "{answer}");
    }
    let front = Front::start(Config::default(), hello).await;
    let answer = front.send("GET /only-put HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: PUT"), "{answer}");
}

#[tokio::test]
async fn head_no_content_and_not_modified_have_no_body() {
    let front = Front::start(Config::default(), |call: Invocation| async move {
        let status = call.request.uri().path()[1..].parse::<u16>().unwrap();
        Ok(Response::builder().status(status).body(Body::full("12345")).unwrap())
    })
    .await;
    for (line, length) in [("HEAD /200", Some("content-length: 5")), ("GET /204", None), ("GET /304", None)] {
        let mut peer = front.connect().await;
        peer.write(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let head = peer.until("\r\n\r\n").await;
        assert!(length.is_none_or(|length| head.contains(length)), "{head}");
        assert!(
            !head.contains("transfer-encoding") && (length.is_some() || !head.contains("content-length")),
            "{head}"
        );
        // Whatever came behind the head would stand before the next answer.
        peer.write("GET /200 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let next = peer.rest().await;
        assert!(next.starts_with("HTTP/1.1 200 ") && next.ends_with("12345"), "{next}");
    }
}

#[tokio::test]
async fn a_whole_body_of_another_length_than_claimed_is_500() {
    for length in ["4", "6", "x"] {
        let front = Front::start(Config::default(), move |_| async move {
            Ok(Response::builder().header("content-length", length).body(Body::full("12345")).unwrap())
        })
        .await;
        let answer = front.send(&get("")).await;
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("bad-response"), "{answer}");
    }
}

#[tokio::test]
async fn a_stream_of_another_length_than_claimed_is_cut() {
    for body in [|| streamed(&["12", "34"]), || streamed(&["123", "456"])] {
        let front = with(&[("content-length", "5")], body).await;
        let mut peer = front.connect().await;
        peer.write("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = peer.rest().await;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(body.len() < 5 && answer.matches("HTTP/1.1").count() <= 1, "{answer}");
    }
    let front = with(&[("content-length", "5")], || streamed(&["123", "45"])).await;
    assert!(front.send(&get("")).await.ends_with("\r\n\r\n12345"));
}

#[tokio::test]
async fn a_body_that_fails_after_its_head_is_cut() {
    let front = Front::start(Config::default(), |_| async {
        let frames = futures::stream::iter([data("begun"), Err("trap".into())]);
        Ok(Response::new(Body::stream(http_body_util::StreamBody::new(frames))))
    })
    .await;
    let mut peer = front.connect().await;
    peer.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = peer.rest().await;
    assert!(!answer.ends_with("0\r\n\r\n") && !answer.contains("500"), "{answer}");
    let mut old = front.connect().await;
    old.write("GET / HTTP/1.0\r\n\r\n").await;
    let mut answer = Vec::new();
    let end = tokio::time::timeout(PATIENCE, old.0.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
