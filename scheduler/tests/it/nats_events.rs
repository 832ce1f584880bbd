//! What events stand on, on NATS: what only a real server and a cluster of them can do to it.

use async_nats::{
    connection::State,
    jetstream::{self, consumer::pull},
};
use dunlin_api::{
    Message, StoreError,
    trigger::{ChangeSource, Order, Start},
};
use dunlin_fixtures::nats::{NatsCluster, NatsServer, Options};
use dunlin_scheduler::{
    nats::{Nats, NatsAuth, NatsConfig},
    store::{
        events::{Consumer, ConsumerSpec, Delivery, EventStores, Own, Source},
        nats::NatsStore,
    },
};
use futures::{StreamExt, future::join_all};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio::time::timeout;

use crate::nats_store::config;

const PATIENCE: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(500);

async fn node(url: String, name: &str) -> (Nats, EventStores) {
    let nats = Nats::connect(&config(url, name)).await.unwrap();
    let events = NatsStore::open(&nats).await.unwrap().events();
    (nats, events)
}

fn queue(name: &str) -> ConsumerSpec {
    let source = Source::Queue(format!("{name}.async"));
    ConsumerSpec { name: name.into(), source, start: Start::All, order: Order::None }
}

fn ordered(stream: &str, subject: &str) -> ConsumerSpec {
    let source = Source::Stream { stream: stream.into(), subject: subject.into() };
    ConsumerSpec { name: "ordered".into(), source, start: Start::All, order: Order::Subject }
}

async fn append(on: &EventStores, name: &str, count: usize) -> BTreeSet<u64> {
    let messages = (0..count).map(|n| Message::new(format!("{name}.async"), n.to_string()));
    let appended = futures::stream::iter(messages).map(|message| on.streams.append(Own::Work, message, None));
    appended.buffer_unordered(256).map(Result::unwrap).collect().await
}

/// Pulls `count` deliveries; a node opens again what NATS lost meanwhile.
async fn take(on: &EventStores, spec: &ConsumerSpec, from: &mut Box<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    let taking = async {
        while taken.len() < count {
            match from.pull(count - taken.len()).await {
                Ok(pulled) => taken.extend(pulled),
                Err(StoreError::Unavailable(_)) => *from = on.streams.open(spec).await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(PATIENCE, taking).await.expect("the deliveries must come");
    taken
}

fn numbers(deliveries: &[Delivery]) -> BTreeSet<u64> {
    deliveries.iter().map(|delivery| delivery.stored.sequence).collect()
}

async fn ack(deliveries: &[Delivery]) {
    for delivery in deliveries {
        delivery.settle.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_settled_comes_again_after_a_kill_of_the_server() {
    let mut server = NatsServer::start();
    let (_nats, events) = node(server.url(), "a").await;
    let spec = queue("killed");
    let sent = append(&events, "killed", 200).await;
    let mut consumer = events.streams.open(&spec).await.unwrap();
    let first = take(&events, &spec, &mut consumer, 100).await;
    ack(&first[..40]).await;
    server.restart();
    // Those of the forty whose acknowledgement was lost come again, too.
    let mut missing: BTreeSet<_> = sent.difference(&numbers(&first[..40])).copied().collect();
    let begun = Instant::now();
    while !missing.is_empty() {
        let again = take(&events, &spec, &mut consumer, 1).await;
        ack(&again).await;
        missing.retain(|sequence| !numbers(&again).contains(sequence));
    }
    println!("all came again {:?} after the restart", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn pulling_goes_on_after_the_kill_of_one_server_of_three() {
    let mut cluster = NatsCluster::start();
    let (nats, events) = node(cluster.url(), "a").await;
    let spec = queue("three");
    let mut consumer = events.streams.open(&spec).await.unwrap();
    append(&events, "three", 10).await;
    ack(&take(&events, &spec, &mut consumer, 10).await).await;
    // It waits at the leader of the consumer, which goes.
    assert!(timeout(QUIET, consumer.pull(10)).await.is_err());
    let stream = nats.jetstream.get_stream("dl-test-work").await.unwrap();
    let info = stream.consumer_info("dl-test-three").await.unwrap();
    let leader: usize = info.cluster.unwrap().leader.unwrap().trim_start_matches('n').parse().unwrap();
    cluster.servers[leader - 1].kill();
    let begun = Instant::now();
    let sent = append(&events, "three", 10).await;
    println!("appended {:?} after the kill of the leader", begun.elapsed());
    let mut missing = sent;
    while !missing.is_empty() {
        let taken = take(&events, &spec, &mut consumer, 1).await;
        ack(&taken).await;
        missing.retain(|sequence| !numbers(&taken).contains(sequence));
    }
    println!("pulled {:?} after the kill of the leader", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_or_stream_that_is_deleted_is_noticed() {
    let server = NatsServer::start();
    let (nats, events) = node(server.url(), "a").await;
    let stream = events.streams.resolve(None, "gone.>").await.unwrap();
    let source = Source::Stream { stream: stream.clone(), subject: "gone.>".into() };
    let spec = ConsumerSpec { name: "gone".into(), source, start: Start::All, order: Order::None };
    for whole in [false, true] {
        let mut consumer = events.streams.open(&spec).await.unwrap();
        assert!(timeout(QUIET, consumer.pull(1)).await.is_err());
        if whole {
            nats.jetstream.delete_stream(&stream).await.unwrap();
        } else {
            events.streams.remove(&spec).await.unwrap();
        }
        let gone = timeout(PATIENCE, consumer.pull(1)).await.expect("it is noticed");
        assert!(matches!(&gone, Err(StoreError::NotFound(words)) if words.contains("gone")), "{gone:?}");
        let gone = timeout(PATIENCE, consumer.pull(1)).await.expect("also by the next");
        assert!(gone.is_err(), "{gone:?}");
    }
    assert!(matches!(events.streams.open(&spec).await.err(), Some(StoreError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_messages_through_two_holds_each_come_at_least_once() {
    let server = NatsServer::start();
    let (_first, one) = node(server.url(), "a").await;
    let (_second, two) = node(server.url(), "b").await;
    let spec = queue("many");
    one.streams.ensure(&spec).await.unwrap();
    let sent = append(&one, "many", 10_000).await;
    let pulled = join_all([&one, &two].map(|events| async {
        let mut consumer = events.streams.open(&spec).await.unwrap();
        let mut got = Vec::new();
        // Both end when nothing comes for longer than a delivery takes to come again.
        while let Ok(pulled) = timeout(Duration::from_secs(12), consumer.pull(100)).await {
            let pulled = pulled.unwrap();
            ack(&pulled).await;
            got.extend(numbers(&pulled));
        }
        got
    }));
    let got = pulled.await;
    let all: BTreeSet<_> = got.iter().flatten().copied().collect();
    let total = got[0].len() + got[1].len();
    println!("{} and {} of 10,000, {} twice", got[0].len(), got[1].len(), total - all.len());
    assert_eq!(all, sent);
    assert!(got.iter().all(|share| !share.is_empty()), "both share them");
    assert!(one.streams.queues().await.unwrap().is_empty());
}

/// Consumers of queues go when nobody pulls: what they counted stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_whose_consumer_is_made_again_remembers_its_failures() {
    let server = NatsServer::start();
    let (_nats, events) = node(server.url(), "a").await;
    let spec = queue("remade");
    append(&events, "remade", 1).await;
    let mut consumer = events.streams.open(&spec).await.unwrap();
    let first = take(&events, &spec, &mut consumer, 1).await.remove(0);
    first.settle.retry(Duration::from_secs(3_600), 3).await.unwrap();
    drop(consumer);
    events.streams.remove(&spec).await.unwrap();
    let mut consumer = events.streams.open(&spec).await.unwrap();
    let again = take(&events, &spec, &mut consumer, 1).await.remove(0);
    assert_eq!((again.delivered, again.failed), (1, 3));
    ack(&[again]).await;
}

/// The server pins another node when the first has not asked for a while, though it is alive and busy.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_node_that_stops_pulling_is_not_overtaken() {
    let server = NatsServer::start();
    let (_first, one) = node(server.url(), "a").await;
    let (_second, two) = node(server.url(), "b").await;
    let stream = one.streams.resolve(None, "ordered.*").await.unwrap();
    let spec = ordered(&stream, "ordered.*");
    let mut busy = one.streams.open(&spec).await.unwrap();
    let mut other = two.streams.open(&spec).await.unwrap();
    let publish = async |n: u32| one.bus.publish(Message::new("ordered.a", n.to_string())).await.unwrap();
    publish(0).await;
    publish(1).await;
    let taken = take(&one, &spec, &mut busy, 2).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(24) {
        for delivery in &taken {
            delivery.settle.progress().await.unwrap();
        }
        let early = timeout(Duration::from_secs(2), other.pull(10)).await;
        assert!(early.is_err(), "{early:?} came while others are worked on");
        if begun.elapsed() > Duration::from_secs(4) && begun.elapsed() < Duration::from_secs(7) {
            publish(2).await;
        }
    }
    ack(&taken).await;
    let next = tokio::select! {
        next = take(&one, &spec, &mut busy, 1) => next,
        next = take(&two, &spec, &mut other, 1) => next,
    };
    assert_eq!(next[0].stored.message.payload, "2");
    ack(&next).await;
}

/// The former node has unsettled deliveries and no longer pulls: the next one waits for them.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_an_ordered_consumer_waits_for_what_the_former_has() {
    let server = NatsServer::start();
    let (_first, one) = node(server.url(), "a").await;
    let (_second, two) = node(server.url(), "b").await;
    let stream = one.streams.resolve(None, "ordered.*").await.unwrap();
    let spec = ordered(&stream, "ordered.*");
    let mut former = one.streams.open(&spec).await.unwrap();
    let publish = async |n: u32| one.bus.publish(Message::new("ordered.a", n.to_string())).await.unwrap();
    for n in 0..3 {
        publish(n).await;
    }
    let taken = take(&one, &spec, &mut former, 3).await;
    drop(former);
    publish(3).await;
    let mut next = two.streams.open(&spec).await.unwrap();
    // The first of the three shows life all the time, the others are done.
    ack(&taken[1..]).await;
    let alive = Instant::now();
    while alive.elapsed() < Duration::from_secs(20) {
        taken[0].settle.progress().await.unwrap();
        let early = timeout(Duration::from_secs(2), next.pull(10)).await;
        assert!(early.is_err(), "{early:?} came while 0 is worked on");
    }
    ack(&taken[..1]).await;
    let after = take(&two, &spec, &mut next, 1).await;
    assert_eq!(after[0].stored.message.payload, "3");
    ack(&after).await;
}

/// The former node was killed: what it had comes first, in order.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_had_of_an_ordered_consumer_comes_before_what_is_newer() {
    let server = NatsServer::start();
    let (_first, one) = node(server.url(), "a").await;
    let (_second, two) = node(server.url(), "b").await;
    let stream = one.streams.resolve(None, "ordered.*").await.unwrap();
    let spec = ordered(&stream, "ordered.*");
    let mut former = one.streams.open(&spec).await.unwrap();
    let publish = async |n: u32| one.bus.publish(Message::new("ordered.a", n.to_string())).await.unwrap();
    for n in 0..3 {
        publish(n).await;
    }
    let taken = take(&one, &spec, &mut former, 3).await;
    drop((taken, former));
    publish(3).await;
    let mut next = two.streams.open(&spec).await.unwrap();
    let begun = Instant::now();
    let mut order = Vec::new();
    while order.len() < 4 {
        let pulled = take(&two, &spec, &mut next, 1).await;
        order.extend(
            pulled.iter().map(|delivery| String::from_utf8_lossy(&delivery.stored.message.payload).into_owned()),
        );
        ack(&pulled).await;
    }
    println!("taken over after {:?}", begun.elapsed());
    assert_eq!(order, ["0", "1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_of_the_user_are_followed() {
    let server = NatsServer::start();
    let (nats, events) = node(server.url(), "a").await;
    let keys = nats.jetstream.create_key_value(jetstream::kv::Config { bucket: "cart".into(), ..Default::default() });
    let keys = keys.await.unwrap();
    keys.put("user.1", "old".into()).await.unwrap();
    let objects = jetstream::object_store::Config { bucket: "images".into(), ..Default::default() };
    let objects = nats.jetstream.create_object_store(objects).await.unwrap();
    let mut seen = BTreeMap::new();
    for (source, pattern, count) in
        [(ChangeSource::Bucket("cart".into()), "user.*", 2), (ChangeSource::Objects("images".into()), "a/b.png", 2)]
    {
        events.streams.check_source(&source).await.unwrap();
        let name = source.to_string().replace(' ', "-");
        let source = Source::Changes { source, keys: pattern.into() };
        let spec = ConsumerSpec { name, source, start: Start::All, order: Order::None };
        let mut consumer = events.streams.open(&spec).await.unwrap();
        objects.put("a/b.png", &mut &b"png"[..]).await.unwrap();
        objects.put("other", &mut &b"png"[..]).await.unwrap();
        keys.put("other", "x".into()).await.unwrap();
        if count == 2 && seen.is_empty() {
            keys.delete("user.2").await.unwrap();
        }
        let first = take(&events, &spec, &mut consumer, 1).await;
        ack(&first).await;
        if seen.is_empty() {
            let second = take(&events, &spec, &mut consumer, 1).await;
            ack(&second).await;
            seen.insert("deleted", second[0].stored.message.clone());
        } else {
            objects.delete("a/b.png").await.unwrap();
            let second = take(&events, &spec, &mut consumer, 1).await;
            ack(&second).await;
            seen.insert("object deleted", second[0].stored.message.clone());
        }
        seen.insert(if count == 2 && seen.len() < 2 { "put" } else { "object" }, first[0].stored.message.clone());
    }
    let shown = |what: &str| {
        let message = &seen[what];
        (message.subject.as_str(), message.header("Dunlin-Operation").unwrap(), message.payload.clone())
    };
    assert_eq!(shown("put"), ("user.1", "put", "old".into()));
    assert_eq!(shown("deleted"), ("user.2", "delete", "".into()));
    assert_eq!(shown("object"), ("a/b.png", "put", "".into()));
    assert_eq!(shown("object deleted"), ("a/b.png", "delete", "".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_nats_denies_is_an_error_that_names_the_subject() {
    let denied =
        r#"["secret.>", "$JS.API.CONSUMER.MSG.NEXT.dl-test-work.dl-test-denied", "$JS.API.STREAM.INFO.CLOSED"]"#;
    let user = format!(
        "authorization {{ users: [ {{ user: u, password: x, permissions: {{ \
         publish: {{ allow: \">\", deny: {denied} }}, subscribe: {{ allow: \">\", deny: \"secret.>\" }} }} }} ] }}"
    );
    let server = NatsServer::with(&Options { config: user, ..Options::default() });
    let auth = NatsAuth::Password { user: "u".into(), password: "x".into() };
    let nats = Nats::connect(&NatsConfig { auth, ..config(server.url(), "a") }).await.unwrap();
    let events = NatsStore::open(&nats).await.unwrap().events();
    let names = |error: Option<StoreError>, subject: &str| {
        let words = error.expect("it is denied").to_string();
        assert!(words.contains(subject) && words.contains("permissions"), "{words}");
    };
    names(events.bus.publish(Message::new("secret.a", "x")).await.err(), "secret.a");
    names(events.bus.request(Message::new("secret.b", "x"), PATIENCE).await.err(), "secret.b");
    names(events.bus.subscribe("secret.*", None).await.err(), "secret.*");
    names(events.bus.subscribe("secret.>", Some("g")).await.err(), "secret.>");
    names(events.streams.resolve(Some("CLOSED"), "a").await.err(), "$JS.API.STREAM.INFO.CLOSED");
    let mut consumer = events.streams.open(&queue("denied")).await.unwrap();
    let pulled = timeout(PATIENCE, consumer.pull(1)).await.unwrap();
    names(pulled.err(), "$JS.API.CONSUMER.MSG.NEXT.dl-test-work.dl-test-denied");
    // What is allowed goes on.
    let mut open = events.bus.subscribe("open.*", None).await.unwrap();
    events.bus.publish(Message::new("open.a", "x")).await.unwrap();
    assert_eq!(open.next().await.unwrap().message.subject, "open.a");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_events_fail_in_bounded_time() {
    let mut server = NatsServer::start();
    let (nats, events) = node(server.url(), "a").await;
    let spec = queue("away");
    append(&events, "away", 1).await;
    let mut consumer = events.streams.open(&spec).await.unwrap();
    let mut other = events.streams.open(&spec).await.unwrap();
    let delivery = take(&events, &spec, &mut consumer, 1).await.remove(0);
    server.kill();
    // An acknowledgement that the connection still takes is no failure: its arrival is not awaited.
    while nats.jetstream.client().connection_state() == State::Connected {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    let message = || Message::new("away.async", "x");
    let failed = tokio::join!(
        events.streams.append(Own::Work, message(), None),
        events.streams.queues(),
        events.streams.read(Own::Work, 1),
        events.streams.ensure(&spec),
        other.pull(1),
        delivery.settle.ack(),
        delivery.settle.give_up("x"),
        delivery.settle.retry(Duration::ZERO, 1),
        events.bus.publish(message()),
        events.bus.subscribe("a", None),
        events.blobs.list(),
    );
    println!("all failed after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20));
    let (append, queues, read, ensure, pull, acked, given_up, retried, published, subscribed, listed) = failed;
    assert!(append.is_err() && queues.is_err() && read.is_err() && ensure.is_err() && pull.is_err());
    assert!(acked.is_err() && given_up.is_err() && retried.is_err());
    assert!(published.is_err() && subscribed.is_err() && listed.is_err());
    server.restart();
    ack(&take(&events, &spec, &mut other, 1).await).await;
}

/// Prints what our way of pulling costs beside that of async-nats, on the same server.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: run it alone, in release"]
async fn pulling_is_nearly_as_fast_as_that_of_async_nats() {
    const COUNT: usize = 50_000;
    let server = NatsServer::start();
    let (nats, events) = node(server.url(), "a").await;
    for round in 0..3 {
        let (ours, theirs) = (format!("ours-{round}"), format!("theirs-{round}"));
        let spec = queue(&ours);
        events.streams.ensure(&spec).await.unwrap();
        append(&events, &ours, COUNT).await;
        append(&events, &theirs, COUNT).await;
        let mut consumer = events.streams.open(&spec).await.unwrap();
        let begun = Instant::now();
        let mut count = 0;
        while count < COUNT {
            for delivery in consumer.pull(200).await.unwrap() {
                delivery.settle.ack().await.unwrap();
                count += 1;
            }
        }
        let ours = begun.elapsed();
        let stream = nats.jetstream.get_stream("dl-test-work").await.unwrap();
        let config = pull::Config {
            durable_name: Some(theirs.clone()),
            filter_subject: format!("dl.v1.test.work.{theirs}.async"),
            max_ack_pending: 10_000,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let begun = Instant::now();
        let mut messages = consumer.messages().await.unwrap().take(COUNT);
        while let Some(message) = messages.next().await {
            message.unwrap().ack().await.unwrap();
        }
        let theirs = begun.elapsed();
        println!(
            "{COUNT} messages: ours {ours:?}, async-nats {theirs:?}, ratio {:.2}",
            theirs.as_secs_f64() / ours.as_secs_f64()
        );
    }
}
