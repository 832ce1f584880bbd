//! Schedules and changes of keys in a cluster, and what is refused there.

use std::{collections::BTreeMap, fs, time::Instant};

use super::support::{Cluster, Member, until};
use crate::support::{fixture, get, post};

fn deploy(member: &Member, manifest: &str) {
    let project = tempfile::tempdir().unwrap();
    let manifest = manifest.replace("SOURCE", &format!("source = {:?}", fixture("events")));
    fs::write(project.path().join("dunlin.toml"), manifest).unwrap();
    member.ok(&["deploy", project.path().to_str().unwrap(), "--no-build"]);
}

/// What was done, and how often.
fn booked(member: &Member) -> BTreeMap<String, u64> {
    let (_, body) = get(&format!("http://{}/events/entries", member.http));
    let pair = |line: &str| line.split_once(' ').map(|(id, times)| (id.to_owned(), times.parse().unwrap()));
    body.lines().filter_map(pair).collect()
}

#[test]
fn a_tick_fires_once_in_the_cluster_also_when_a_node_is_killed() {
    let mut cluster = Cluster::start(&[("n1", &[]), ("n2", &[]), ("n3", &[])]);
    deploy(
        cluster.first(),
        "[function.events]\nSOURCE\nkv = [\"booked\", \"seen\"]\nenv = { COMMAND = '{}' }\n\
         [[function.events.cron]]\nschedule = \"* * * * * *\"\noverlap = \"allow\"\n",
    );
    let begun = Instant::now();
    until("it ticks", || booked(cluster.first()).len() >= 3);
    cluster.members[2].kill();
    until("it goes on", || booked(cluster.first()).len() >= 8);
    cluster.members[2].restart();
    cluster.members[1].kill();
    until("it goes on", || booked(cluster.first()).len() >= 13);
    let (booked, seconds) = (booked(cluster.first()), begun.elapsed().as_secs() as usize);
    println!("{} ticks in {seconds} s: {booked:?}", booked.len());
    assert!(booked.len() <= seconds + 2, "{} ticks in {seconds} s", booked.len());
    // What ran when its node was killed may have been done and is done again.
    let again = booked.values().filter(|times| **times > 1).count();
    assert!(again <= 2, "{booked:?}");
}

#[test]
fn changes_in_stores_and_buckets_fire_functions() {
    let cluster = Cluster::start(&[("n1", &[]), ("n2", &[])]);
    let member = cluster.first();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (kv, objects) = runtime.block_on(async {
        let context = async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap());
        let kv = async_nats::jetstream::kv::Config { bucket: "users".into(), ..Default::default() };
        let objects = async_nats::jetstream::object_store::Config { bucket: "images".into(), ..Default::default() };
        (context.create_key_value(kv).await.unwrap(), context.create_object_store(objects).await.unwrap())
    });
    // One writes, another watches its store and two buckets.
    deploy(
        member,
        "[function.writer]\nSOURCE\nkv = [\"booked\", \"seen\"]\n\
         [function.events]\nSOURCE\nenv = { COMMAND = '{\"id\": \"fired\", \"last\": true}' }\n\
         kv = [\"seen\", { store = \"booked\", keys = \"put/*\" }, { bucket = \"users\", keys = \"item.*\" }, { objects = \"images\" }]\n",
    );
    let count = || booked(member).into_iter().filter(|(id, _)| id.starts_with("fired/")).map(|(_, n)| n).sum::<u64>();
    let fires = |n: u64, parts: &[&str]| {
        until(&format!("change {n} fired"), || count() >= n);
        let (_, last) = get(&format!("http://{}/events/last", member.http));
        for part in parts {
            assert!(last.contains(part), "{part} is missing in {last}");
        }
    };
    until("the gateway knows it", || get(&format!("http://{}/writer/booked", member.http)).0 == 200);
    assert_eq!(post(&format!("http://{}/writer/call?id=other/x", member.http), b"").0, 200);
    assert_eq!(post(&format!("http://{}/writer/call?id=put/x", member.http), b"").0, 200);
    fires(1, &["dev.dunlin.kv.put", "/kv/store/booked", "put/x"]);
    runtime.block_on(async {
        kv.put("other.a", "1".into()).await.unwrap();
        kv.put("item.a", "1".into()).await.unwrap();
    });
    fires(2, &["dev.dunlin.kv.put", "/kv/bucket/users", "item.a"]);
    runtime.block_on(kv.delete("item.a")).unwrap();
    fires(3, &["dev.dunlin.kv.delete", "/kv/bucket/users", "item.a"]);
    runtime.block_on(async { objects.put("photo", &mut &b"jpeg"[..]).await.unwrap() });
    fires(4, &["/objects/images", "photo"]);
    assert_eq!(count(), 4, "{:?}", booked(member));
}

#[test]
fn what_cannot_be_is_refused_in_a_cluster_and_malformed_events_are_dead() {
    let cluster = Cluster::start(&[("n1", &[])]);
    let member = cluster.first();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let context = async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap());
        for (name, subject) in [("A", "part.a.>"), ("B", "part.b.>")] {
            let subjects = vec![subject.to_owned()];
            let config = async_nats::jetstream::stream::Config { name: name.into(), subjects, ..Default::default() };
            context.create_stream(config).await.unwrap();
        }
    });
    let refused = |trigger: &str, part: &str| {
        let project = tempfile::tempdir().unwrap();
        let manifest = format!("[function.bad]\nsource = {:?}\n{trigger}", fixture("echo"));
        fs::write(project.path().join("dunlin.toml"), manifest).unwrap();
        let (code, message) = member.fails(&["deploy", project.path().to_str().unwrap(), "--no-build"]);
        assert!(code != 0 && message.contains(part), "{trigger}: {code} {message}");
    };
    refused("[[function.bad.stream]]\nsubject = \"dl.v1.>\"\n", "dl.v1.>");
    refused("[[function.bad.stream]]\nsubject = \"x.>\"\nstream = \"NOWHERE\"\n", "NOWHERE");
    refused("[[function.bad.stream]]\nsubject = \"x.>\"\nstream = \"A\"\n", "x.>");
    refused("[[function.bad.stream]]\nsubject = \"part.>\"\n", "part.");
    refused("[[function.bad.cron]]\nschedule = \"61 * * * *\"\n", "schedule");
    refused("kv = [{ bucket = \"nowhere\" }]\n", "nowhere");

    deploy(
        member,
        "[function.events]\nSOURCE\nkv = [\"booked\", \"seen\"]\n[[function.events.stream]]\nsubject = \"part.a.>\"\n",
    );
    member.ok(&["publish", "part.a.x", "-H", "content-type: application/cloudevents+json", "-d", "{\"id\": 7"]);
    member.ok(&["publish", "part.a.x", "-H", "ce-specversion: 1.0", "-d", "{}"]);
    let letters = || member.json(&["dlq", "list"])["letters"].as_array().unwrap().clone();
    until("both are dead", || letters().len() == 2);
    for letter in letters() {
        assert!(letter["reason"].as_str().unwrap().contains("malformed CloudEvent"), "{letter}");
        assert_eq!(letter["attempts"], 1, "{letter}");
    }
}
