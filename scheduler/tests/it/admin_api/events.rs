//! Publishing and dead letters through the API, on the embedded store.

use super::*;
use bytes::Bytes;
use dunlin_api::{
    Message,
    trigger::{Order, Start, TriggerId},
};
use dunlin_scheduler::{
    admin::AdminEvents,
    dead_letters::DeadLetters,
    store::events::{Bus, ConsumerSpec, EventStores, MAX_MESSAGE_BYTES, Source},
};
use futures::StreamExt;

struct Events {
    api: Api,
    stores: EventStores,
    dead: Arc<DeadLetters>,
}

impl Events {
    async fn start() -> Self {
        let mut kept = None;
        let api = Api::start_with(|scheduler, admin| {
            let (stores, dead) = (scheduler.events.clone(), Arc::new(DeadLetters::new(scheduler.events.clone())));
            admin.events = Some(AdminEvents { bus: stores.bus.clone(), dead: dead.clone(), stats: Arc::new(Vec::new) });
            kept = Some((stores, dead));
        })
        .await;
        let (stores, dead) = kept.unwrap();
        Self { api, stores, dead }
    }

    async fn publish(&self, path: &str, payload: impl Into<reqwest::Body>) -> Response {
        self.api.ask(Method::POST, &format!("/v1/publish/{path}")).body(payload).send().await.unwrap()
    }

    /// Publishes each payload on a stream's subject and gives it up for `function`; their numbers.
    async fn bury(&self, function: &str, payloads: &[&'static [u8]]) -> Vec<u64> {
        let stream = self.stores.streams.resolve(None, "in.>").await.unwrap();
        let source = Source::Stream { stream, subject: "in.>".into() };
        let spec = ConsumerSpec { name: format!("{function}-test"), source, start: Start::New, order: Order::None };
        self.stores.streams.ensure(&spec).await.unwrap();
        let mut consumer = self.stores.streams.open(&spec).await.unwrap();
        let mut numbers = Vec::new();
        for payload in payloads {
            self.stores.bus.publish(Message::new("in.a", *payload).with("Kind", "test")).await.unwrap();
            let delivery = consumer.pull(1).await.unwrap().remove(0);
            let (name, log) = (function.parse().unwrap(), vec!["no stock".into()]);
            let number = self.dead.bury(&name, &TriggerId::calls(), &delivery, 5, "status 500", log).await.unwrap();
            delivery.settle.give_up("status 500").await.unwrap();
            numbers.push(number);
        }
        numbers
    }
}

/// Answers the first request on `subject` with its payload and its headers.
fn echo(bus: Arc<dyn Bus>, subject: &'static str) -> (tokio::sync::oneshot::Receiver<()>, JoinHandle<()>) {
    let (ready, listening) = tokio::sync::oneshot::channel();
    let task = tokio::task::spawn(async move {
        let mut messages = bus.subscribe(subject, None).await.unwrap();
        ready.send(()).unwrap();
        let received = messages.next().await.unwrap();
        bus.send(Message { subject: received.reply.unwrap(), ..received.message }).await.unwrap();
    });
    (listening, task)
}

#[tokio::test]
async fn a_message_is_stored_where_a_stream_takes_it() {
    let events = Events::start().await;
    let sent = events.publish("orders.paid", "x").await;
    assert_eq!(sent.json::<Value>().await.unwrap(), json!({"subject": "orders.paid"}));
    let stream = events.stores.streams.resolve(None, "orders.>").await.unwrap();
    let sent = events.publish("orders.paid", "x").await;
    assert_eq!(sent.json::<Value>().await.unwrap(), json!({"subject": "orders.paid", "stream": stream, "sequence": 1}));
}

#[tokio::test]
async fn a_reply_has_its_payload_and_headers_byte_for_byte() {
    let events = Events::start().await;
    let (listening, task) = echo(events.stores.bus.clone(), "quote");
    listening.await.unwrap();
    let request = events.api.ask(Method::POST, "/v1/publish/quote?request_ms=60000").body(vec![0xff, 0, b'x']);
    let reply = request.header("dunlin-header", "Kind: Test").send().await.unwrap();
    assert_eq!((reply.status().as_u16(), &reply.headers()["dunlin-header"]), (200, &"Kind: Test".parse().unwrap()));
    assert_eq!(reply.bytes().await.unwrap(), Bytes::from_static(&[0xff, 0, b'x']));
    task.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_with_the_reason() {
    let events = Events::start().await;
    for (path, status, code) in [
        ("a.*", 400, "bad-subject"),
        ("dl.v1.x", 400, "bad-subject"),
        ("%24JS.API.INFO", 400, "bad-subject"),
        ("a?request_ms=0", 400, "bad-query"),
        ("a?wait=1", 400, "bad-query"),
        ("nobody?request_ms=1000", 404, "nobody-listens"),
    ] {
        assert_eq!(problem(events.publish(path, "x").await, status).await, code, "{path}");
    }
    let _listener = events.stores.bus.subscribe("silent", None).await.unwrap();
    assert_eq!(problem(events.publish("silent?request_ms=10", "x").await, 504).await, "no-reply");
    assert_eq!(events.publish("a", vec![0; MAX_MESSAGE_BYTES]).await.status(), 200);
    assert_eq!(problem(events.publish("a", vec![0; MAX_MESSAGE_BYTES + 1]).await, 413).await, "body-too-large");
    let header = events.api.ask(Method::POST, "/v1/publish/a").header("dunlin-header", "Kind: test");
    let response = header.body(vec![0; MAX_MESSAGE_BYTES]).send().await.unwrap();
    assert_eq!(problem(response, 413).await, "body-too-large");
    let bad = events.api.ask(Method::POST, "/v1/publish/a").header("dunlin-header", "no colon");
    assert_eq!(problem(bad.send().await.unwrap(), 400).await, "bad-header");
}

#[tokio::test]
async fn dead_letters_are_paged_shown_and_purged() {
    let events = Events::start().await;
    let numbers = events.bury("ship", &[b"one", &[0xff]]).await;
    events.bury("other", &[b"two"]).await;
    let list = events.api.json("/v1/dead-letters?function=ship&limit=1").await;
    assert_eq!((&list["letters"][0]["sequence"], &list["next"]), (&json!(numbers[0]), &json!(numbers[0])));
    let letter = &list["letters"][0];
    assert_eq!((&letter["subject"], &letter["attempts"], &letter["size"]), (&json!("in.a"), &json!(5), &json!(3)));
    let list = events.api.json(&format!("/v1/dead-letters?function=ship&after={}", numbers[0])).await;
    assert_eq!((list["letters"].as_array().unwrap().len(), &list["next"]), (1, &json!(numbers[1])));
    assert_eq!(events.api.json("/v1/dead-letters").await["letters"].as_array().unwrap().len(), 3);

    let shown = events.api.json(&format!("/v1/dead-letters/{}", numbers[0])).await;
    assert_eq!((&shown["text"], &shown["log"]), (&json!("one"), &json!(["no stock"])));
    assert_eq!(shown["headers"], json!([["Kind", "test"]]));
    let payload = events.api.get(&format!("/v1/dead-letters/{}/payload", numbers[1])).await;
    assert_eq!(payload.bytes().await.unwrap(), Bytes::from_static(&[0xff]));

    let path = format!("/v1/dead-letters/{}", numbers[0]);
    assert_eq!(events.api.ask(Method::DELETE, &path).send().await.unwrap().status(), 204);
    assert_eq!(problem(events.api.ask(Method::DELETE, &path).send().await.unwrap(), 404).await, "no-dead-letter");
    assert_eq!(problem(events.api.get(&path).await, 404).await, "no-dead-letter");
    for bad in ["limit=0", "limit=101", "function=../x", "after=-1"] {
        assert_eq!(problem(events.api.get(&format!("/v1/dead-letters?{bad}")).await, 400).await, "bad-query", "{bad}");
    }
}

#[tokio::test]
async fn a_dead_letter_is_tried_again_by_its_function_or_published_elsewhere() {
    let events = Events::start().await;
    let numbers = events.bury("ship", &[b"one", b"two"]).await;
    let redrive = |number: u64, query: &'static str| {
        events.api.ask(Method::POST, &format!("/v1/dead-letters/{number}/redrive{query}")).send()
    };
    let redriven: Value = redrive(numbers[0], "").await.unwrap().json().await.unwrap();
    assert!(redriven["to"].as_str().unwrap().contains("ship.async"), "{redriven}");
    assert_eq!(events.stores.streams.queues().await.unwrap()["ship.async"], 1);
    assert_eq!(problem(redrive(numbers[0], "").await.unwrap(), 404).await, "no-dead-letter");
    assert_eq!(problem(redrive(numbers[1], "?to=a.*").await.unwrap(), 400).await, "bad-subject");
    let redriven: Value = redrive(numbers[1], "?to=in.b").await.unwrap().json().await.unwrap();
    assert!(redriven["to"].as_str().unwrap().contains("in.b"), "{redriven}");
    assert_eq!(events.api.json("/v1/dead-letters").await["letters"], json!([]));
}

#[tokio::test]
async fn a_node_without_events_says_so() {
    let api = Api::start(|_| ()).await;
    assert_eq!(problem(api.get("/v1/dead-letters").await, 501).await, "no-events");
    let publish = api.ask(Method::POST, "/v1/publish/a").body("x").send().await.unwrap();
    assert_eq!(problem(publish, 501).await, "no-events");
}
