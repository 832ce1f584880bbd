//! The gateway's side, over real sockets.

use super::*;
use crate::gateway::{Front, echo};
use dunlin_scheduler::gateway;
use serde_json::Value;

/// A gateway over the calls of a node that runs them, or that does not.
struct Office {
    front: Front,
    _working: JoinSet<()>,
}

impl Office {
    async fn open<F, R>(works: bool, function: F) -> Self
    where
        F: Fn(Invocation) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let memory = Memory::new();
        let mut working = JoinSet::new();
        let front = Front::start_with(gateway::Config::default(), function, |gateway, router| {
            let calls = Calls::new(memory.stores(), router, "here".parse().unwrap(), Config::default());
            if works {
                working = worker(calls.clone(), memory.stores());
            }
            gateway.with_calls(calls)
        })
        .await;
        Self { front, _working: working }
    }

    /// Status line and fields, and the body, of the answer to one request.
    async fn send(&self, line: &str, fields: &str, body: &str) -> (String, String) {
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        );
        let answer = self.front.send(&request).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("no answer");
        (head.to_owned(), body.to_owned())
    }

    async fn submit(&self, fields: &str) -> String {
        let (head, body) = self.send("POST /x", &format!("Prefer: respond-async\r\n{fields}"), "body").await;
        assert!(head.starts_with("HTTP/1.1 202 "), "{head} {body}");
        field(&head, "location").unwrap()
    }
}

fn field(head: &str, name: &str) -> Option<String> {
    let line = |line: &str| line.split_once(": ").map(|(found, value)| (found.to_owned(), value.to_owned()));
    head.lines().filter_map(line).find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

#[tokio::test]
async fn a_call_is_accepted_run_and_asked_about() {
    let office = Office::open(true, echo).await;
    let (head, body) = office.send("POST /x?q", "Prefer: respond-async, return=minimal\r\nX-A: 1\r\n", "body").await;
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    assert_eq!(field(&head, "preference-applied").as_deref(), Some("respond-async"));
    let location = field(&head, "location").unwrap();
    let receipt: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&receipt["location"], &receipt["state"]), (&location.clone().into(), &"queued".into()));
    assert_eq!(location, format!("/_dunlin/invocations/{}", receipt["id"].as_str().unwrap()));
    let (head, body) = office.send(&format!("GET {location}?wait=20"), "", "").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!((&status["state"], &status["response"]["status"]), (&"done".into(), &200.into()));
    let (head, body) = office.send(&format!("GET {location}/result"), "", "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(body.starts_with("POST /x?q\n") && body.ends_with("\nbody"), "{body}");
    assert!(body.contains("x-a: 1\n") && body.contains("prefer: return=minimal\n"), "{body}");
    assert!(body.contains("traceparent: ") && !body.contains("connection"), "{body}");
    let (head, _) = office.send(&format!("DELETE {location}"), "", "").await;
    assert!(head.starts_with("HTTP/1.1 409 "), "{head}");
}

#[tokio::test]
async fn a_caller_that_waits_a_little_gets_the_answer_itself() {
    let office = Office::open(true, |_| async { answer(201, "made") }).await;
    let (head, body) = office.send("POST /", "Prefer: respond-async;x=y\r\nPrefer: wait=20\r\n", "").await;
    assert!(head.starts_with("HTTP/1.1 201 ") && body == "made", "{head}");
    let idle = Office::open(false, echo).await;
    let (head, _) = idle.send("POST /", "Prefer: respond-async, wait=1\r\n", "").await;
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    assert_eq!(field(&head, "preference-applied").as_deref(), Some("respond-async, wait=1"));
}

#[tokio::test]
async fn before_and_without_a_result_the_status_says_so() {
    let office = Office::open(false, echo).await;
    let location = office.submit("").await;
    let (head, _) = office.send(&format!("GET {location}/result"), "", "").await;
    assert!(head.starts_with("HTTP/1.1 202 "), "{head}");
    assert_eq!((field(&head, "retry-after").as_deref(), field(&head, "location")), (Some("1"), Some(location.clone())));
    let (head, body) = office.send(&format!("DELETE {location}"), "", "").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body.contains("\"cancelled\""), "{head} {body}");
    for (line, status) in [
        (format!("GET {location}/result"), 410),
        (format!("DELETE {location}"), 409),
        (format!("POST {location}"), 405),
        (format!("DELETE {location}/result"), 405),
        (format!("GET {location}/more"), 404),
        (format!("GET /_dunlin/invocations/{}", InvocationId::new()), 404),
        ("GET /_dunlin/invocations/no-id".into(), 404),
        ("GET /_dunlin/".into(), 404),
    ] {
        let (head, body) = office.send(&line, "", "").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {head}");
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["status"], status);
    }
    let (head, body) = office.send(&format!("HEAD {location}"), "", "").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head}");
}

#[tokio::test]
async fn a_dead_call_gives_the_functions_last_answer_or_says_why() {
    let office = Office::open(true, |_| async { answer(422, "not like this") }).await;
    let location = office.submit("").await;
    let (head, body) = office.send(&format!("GET {location}/result"), "Prefer: wait=20\r\n", "").await;
    assert!(head.starts_with("HTTP/1.1 422 ") && body == "not like this", "{head}");
    let office = Office::open(true, |_| async { Err(dunlin_api::InvokeError::BadRequest("no".into())) }).await;
    let location = office.submit("").await;
    let (head, body) = office.send(&format!("GET {location}/result?wait=20"), "", "").await;
    assert!(head.starts_with("HTTP/1.1 410 ") && body.contains("malformed: no"), "{head} {body}");
}

#[tokio::test]
async fn a_call_is_shown_only_at_the_host_it_was_sent_to() {
    let office = Office::open(false, echo).await;
    let location = office.submit("").await;
    let ask = |host| {
        let front = &office.front;
        let request = format!("GET {location} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        async move { front.send(&request).await }
    };
    assert!(ask("A.example:80").await.starts_with("HTTP/1.1 200 "));
    assert!(ask("b.example").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn repeats_and_refusals_have_their_status() {
    let office = Office::open(false, echo).await;
    let key = "Idempotency-Key: \"k\"\r\n";
    assert_eq!(office.submit(key).await, office.submit(key).await);
    let prefer = "Prefer: respond-async\r\n";
    let (head, _) = office.send("POST /x", &format!("{prefer}{key}"), "other").await;
    assert!(head.starts_with("HTTP/1.1 422 "), "{head}");
    let (head, _) = office.send("POST /x", &format!("{prefer}Idempotency-Key: \r\n"), "").await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let (head, _) = office.send("POST /only-put", prefer, "").await;
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    let (head, _) = office.send("POST /x", prefer, &"x".repeat(LIMIT as usize + 1)).await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(office.front.calls(), 0);
}

#[tokio::test]
async fn other_preferences_and_other_gateways_wait_as_ever() {
    let office = Office::open(false, echo).await;
    let (head, body) =
        office.send("POST /x", "Prefer: wait=5\r\nDunlin-Subject: a\r\nDunlin-Reply-To: b\r\n", "body").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body.contains("prefer: wait=5"), "{head}");
    assert!(!body.contains("dunlin-"), "{body}");
    let front = Front::start(gateway::Config::default(), echo).await;
    for path in ["/x", "/_dunlin/invocations/x"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nPrefer: respond-async\r\n\r\n");
        assert!(front.send(&request).await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn a_large_body_passes_both_ways() {
    let office = Office::open(true, echo).await;
    let large = "x".repeat(LARGE);
    let (head, _) = office.send("POST /x", "Prefer: respond-async\r\n", &large).await;
    let location = field(&head, "location").unwrap();
    let (head, body) = office.send(&format!("GET {location}/result?wait=20"), "", "").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body.ends_with(&large), "{head}");
    assert!(field(&head, "content-length").unwrap().parse::<usize>().unwrap() > LARGE);
}
