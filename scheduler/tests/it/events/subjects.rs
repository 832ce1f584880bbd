//! Core NATS subjects: answered, bounded, and never tried after their time.

use dunlin_api::{Body, InvokeError, Load, Message, Problem, Settings, trigger::SubjectTrigger};
use dunlin_scheduler::store::events::MAX_MESSAGE_BYTES;
use futures::StreamExt;
use http::Response;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{Answer, Call, World, status};

fn quotes(concurrency: u32) -> Settings {
    let trigger = SubjectTrigger { subject: "quotes.*".into(), concurrency };
    Settings { nats: vec![trigger], ..Settings::default() }
}

/// What comes back if the function answers like this.
async fn answered(answer: impl Fn(Call) -> Answer + Send + Sync + 'static) -> Message {
    let world = World::start(&[("f", quotes(4))], move |call| std::future::ready(answer(call))).await;
    let mut replies = world.stores.bus.subscribe("inbox.1", None).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    world.memory.say(Message::new("quotes.tea", "a"), Some("inbox.1"));
    let reply = tokio::time::timeout(Duration::from_secs(3_600), replies.next()).await;
    reply.expect("it is answered").unwrap().message
}

fn body(bytes: usize) -> Answer {
    Ok(Response::builder().header("content-type", "text/tea").body(Body::full(vec![b'x'; bytes])).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_success_is_answered_with_its_body() {
    let reply = answered(|call| {
        assert_eq!(
            (call.header("dunlin-subject"), call.header("dunlin-reply-to")),
            ("quotes.tea".into(), "inbox.1".into())
        );
        assert_eq!(call.header("ce-source"), "/subjects/quotes.tea");
        body(3)
    })
    .await;
    assert_eq!(reply, Message::new("inbox.1", "xxx").with("content-type", "text/tea"));
    assert_eq!(answered(|_| body(MAX_MESSAGE_BYTES)).await.payload.len(), MAX_MESSAGE_BYTES);
}

#[tokio::test(start_paused = true)]
async fn each_error_is_answered_with_its_status_and_reason() {
    type Function = fn(Call) -> Answer;
    let rows: [(Function, &str, &str); 8] = [
        (|_| status(429), "429", "Too Many Requests"),
        (|_| status(503), "503", "Service Unavailable"),
        (|_| status(500), "500", "Internal Server Error"),
        (|_| status(404), "404", "Not Found"),
        (|_| Err(InvokeError::Trap("x".into())), "500", "trapped"),
        (|_| Err(InvokeError::Deadline(Duration::from_secs(1))), "504", "limits.timeout"),
        (|_| Err(InvokeError::Busy(Load::default())), "503", "full"),
        (|_| body(MAX_MESSAGE_BYTES + 1), "500", "at most"),
    ];
    for (answer, code, text) in rows {
        let reply = answered(answer).await;
        assert_eq!(reply.header("Nats-Service-Error-Code"), Some(code));
        assert!(reply.header("Nats-Service-Error").unwrap().contains(text), "{reply:?}");
        let problem: Problem = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(problem.status.to_string(), code);
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_run_is_tried_until_its_time_is_over() {
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    let start = Instant::now();
    let reply = answered(move |_| {
        counted.fetch_add(1, SeqCst);
        Err(InvokeError::Draining)
    })
    .await;
    assert_eq!(reply.header("Nats-Service-Error-Code"), Some("503"));
    assert!(tries.load(SeqCst) > 3 && start.elapsed() <= Duration::from_secs(31), "{:?}", start.elapsed());
    let tries = AtomicU32::new(0);
    let reply =
        answered(move |_| if tries.fetch_add(1, SeqCst) < 3 { Err(InvokeError::Draining) } else { body(1) }).await;
    assert_eq!(reply.payload, "x");
}

#[tokio::test(start_paused = true)]
async fn more_than_run_and_wait_are_dropped_and_counted() {
    let gate = Arc::new(Semaphore::new(0));
    let inside = gate.clone();
    let world = World::start(&[("f", quotes(2))], move |_| {
        let gate = inside.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            status(200)
        }
    })
    .await;
    let mut replies = world.stores.bus.subscribe("inbox.*", None).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    for n in 0..7 {
        world.memory.say(Message::new("quotes.tea", n.to_string()), Some(&format!("inbox.{n}")));
    }
    for n in 4..7 {
        let refused = replies.next().await.unwrap().message;
        assert_eq!(refused.subject, format!("inbox.{n}"));
        assert!(refused.header("Nats-Service-Error").unwrap().contains("2 messages"));
    }
    let stats = world.stats();
    assert_eq!((stats.running, stats.dropped), (2, 3));
    gate.add_permits(4);
    for _ in 0..4 {
        assert!(replies.next().await.unwrap().message.header("Nats-Service-Error").is_none());
    }
    assert_eq!(world.stats().done, 4);
}

#[tokio::test(start_paused = true)]
async fn a_closed_node_listens_no_more_and_ends_what_runs() {
    let world = World::start(&[("f", quotes(2))], |_| async {
        sleep(Duration::from_secs(5)).await;
        status(200)
    })
    .await;
    sleep(Duration::from_secs(1)).await;
    world.memory.say(Message::new("quotes.tea", "a"), None);
    sleep(Duration::from_secs(1)).await;
    world.events.set_open(false);
    sleep(Duration::from_secs(1)).await;
    world.memory.say(Message::new("quotes.tea", "b"), None);
    world.events.idle().await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.stats().done, 1);
}
