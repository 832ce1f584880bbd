//! Events while nodes are drained, restarted, killed and frozen: none is lost, those with the same key run in order.

use rustix::process::Signal;
use std::{collections::HashMap, fs, thread::sleep, time::Duration};

use super::support::{Cluster, Member, until};
use crate::support::{fixture, get};

/// Events of one load, and the keys over which they go round.
const EVENTS: usize = 400;
const KEYS: usize = 4;
/// Events at once on one node.
const CONCURRENCY: usize = 4;

fn three(order: &str) -> Cluster {
    let cluster = Cluster::start(&[("n1", &[]), ("n2", &[]), ("n3", &[])]);
    let project = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[function.events]\nsource = {:?}\nkv = [\"booked\", \"seen\"]\npublish = [\"trace.>\"]\nlimits = {{ cpu = \"20s\", timeout = \"60s\" }}\n\
         [[function.events.stream]]\nsubject = \"load.>\"\norder = \"{order}\"\nconcurrency = {CONCURRENCY}\n",
        fixture("events")
    );
    fs::write(project.path().join("dunlin.toml"), manifest).unwrap();
    let said = cluster.first().ok(&["deploy", project.path().to_str().unwrap(), "--no-build"]);
    assert!(said.contains("ready on 3 of 3"), "{said}");
    cluster
}

/// Publishes all events; each does `command`. What they publish themselves is kept in the stream `TRACE`.
async fn publish(url: &str, command: impl Fn(usize) -> String) {
    let context = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
    let subjects = vec!["trace.>".to_owned()];
    let trace = async_nats::jetstream::stream::Config { name: "TRACE".into(), subjects, ..Default::default() };
    context.create_stream(trace).await.unwrap();
    for number in 0..EVENTS {
        let subject = format!("load.{}", number % KEYS);
        context.publish(subject, command(number).into()).await.unwrap().await.unwrap();
    }
}

/// Executions of each event, when nothing waits any more.
fn settled(member: &Member) -> HashMap<String, u64> {
    until("all is settled", || {
        let trigger = &member.json(&["show", "events"])["triggers"][0];
        trigger["pending"] == 0 && trigger["unsettled"] == 0
    });
    let (_, body) = get(&format!("http://{}/events/entries", member.http));
    let pair = |line: &str| line.split_once(' ').map(|(id, times)| (id.to_owned(), times.parse().unwrap()));
    let booked: HashMap<_, _> = body.lines().filter_map(pair).collect();
    assert_eq!(booked.len(), EVENTS, "none is lost");
    assert_eq!(member.json(&["dlq", "list"])["letters"].as_array().unwrap().len(), 0);
    booked
}

fn again(booked: &HashMap<String, u64>) -> u64 {
    booked.values().map(|times| times - 1).sum()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn drains_and_orderly_restarts_run_no_event_twice() {
    let mut cluster = three("none");
    let sleeps = |number| format!(r#"{{"id": "e{number}", "do": "sleep", "ms": 200}}"#);
    runtime().block_on(publish(&cluster.nats.url(), sleeps));
    cluster.first().fails(&["drain", "n2"]);
    sleep(Duration::from_millis(500));
    cluster.first().ok(&["undrain", "n2"]);
    for member in &mut cluster.members {
        member.stop();
        member.restart();
    }
    let booked = settled(cluster.first());
    assert_eq!(again(&booked), 0, "{booked:?}");
}

#[test]
fn a_frozen_node_loses_no_event_and_its_stale_ones_are_not_run_again() {
    let cluster = three("none");
    let sleeps = |number| format!(r#"{{"id": "e{number}", "do": "sleep", "ms": 100}}"#);
    runtime().block_on(publish(&cluster.nats.url(), sleeps));
    let frozen = &cluster.members[2];
    frozen.signal(Signal::STOP);
    sleep(Duration::from_secs(15));
    frozen.signal(Signal::CONT);
    let booked = settled(cluster.first());
    println!("{} were done again", again(&booked));
    assert!(again(&booked) <= CONCURRENCY as u64, "{booked:?}");
}

#[test]
fn events_with_the_same_key_run_in_order_while_nodes_are_drained_and_killed() {
    let mut cluster = three("subject");
    let runtime = runtime();
    let traces = |number| {
        let key = number % KEYS;
        format!(r#"{{"id": "e{number}", "do": "publish", "ms": 30, "subject": "trace.{key}", "data": "{number}"}}"#)
    };
    let url = cluster.nats.url();
    let publisher = std::thread::spawn(move || self::runtime().block_on(publish(&url, traces)));
    for victim in [2, 1, 0] {
        let drained = cluster.members[(victim + 1) % 3].name.clone();
        sleep(Duration::from_millis(300));
        cluster.first().fails(&["drain", &drained]);
        sleep(Duration::from_millis(300));
        cluster.members[victim].kill();
        cluster.members[victim].restart();
        cluster.first().ok(&["undrain", &drained]);
    }
    publisher.join().unwrap();
    let booked = settled(cluster.first());
    println!("{} were done again", again(&booked));
    let mut last: HashMap<String, usize> = HashMap::new();
    let traced = runtime.block_on(async {
        let context = async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap());
        let mut stream = context.get_stream("TRACE").await.unwrap();
        let count = stream.info().await.unwrap().state.last_sequence;
        let mut traced = Vec::new();
        for sequence in 1..=count {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let number: usize = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            traced.push((message.subject.to_string(), number));
        }
        traced
    });
    for (key, number) in traced {
        let before = last.insert(key.clone(), number);
        // One that was not acknowledged runs again before the next one; none is left out.
        let expected = |before: usize| number == before || number == before + KEYS;
        assert!(before.is_none_or(expected), "{key}: {number} after {before:?}");
    }
}
