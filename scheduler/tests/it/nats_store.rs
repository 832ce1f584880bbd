//! The store on NATS: the contract, and what only a real server and a cluster of them can do to it.

use async_nats::jetstream::{self, object_store::ObjectInfo};
use bytes::Bytes;
use dunlin_api::{Artifacts, ByteSize, Digest, KeyValue, StoreError};
use dunlin_fixtures::nats::{NatsCluster, NatsServer};
use dunlin_scheduler::{
    nats::{Nats, NatsConfig},
    store::{ArtifactStore, CatalogStore, Change, PutError, Stored, nats::NatsStore},
};
use futures::{StreamExt, future::join_all};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::contract::{self, artifacts::pieces};

pub(crate) fn config(url: String, node: &str) -> NatsConfig {
    NatsConfig::new(url, "test".parse().unwrap(), node.parse().unwrap())
}

async fn connect(url: String, node: &str) -> Nats {
    Nats::connect(&config(url, node)).await.unwrap()
}

async fn open(url: String, node: &str) -> NatsStore {
    NatsStore::open(&connect(url, node).await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_catalog_keeps_the_contract() {
    let server = NatsServer::start();
    contract::catalog::holds(open(server.url(), "a").await.catalog()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_keyvalue_stores_keep_the_contract() {
    let server = NatsServer::start();
    contract::keyvalue::holds(open(server.url(), "a").await.keyvalue()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_artifacts_keep_the_contract() {
    let server = NatsServer::start();
    contract::artifacts::holds(open(server.url(), "a").await.artifacts()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_streams_keep_the_contract() {
    let server = NatsServer::start();
    let stores = open(server.url(), "a").await;
    let events = stores.events();
    contract::streams::holds(events.streams.clone(), events.bus, stores.keyvalue()).await;
    contract::streams::a_named_stream_must_exist(events.streams).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_bus_and_its_bodies_keep_the_contract() {
    let server = NatsServer::start();
    let events = open(server.url(), "a").await.events();
    contract::bus::holds(events.bus).await;
    contract::blobs::holds(events.blobs).await;
    contract::catalog::holds(events.records).await;
}

async fn replicas(nats: &Nats, stream: &str) -> usize {
    nats.jetstream.get_stream(stream).await.unwrap().cached_info().config.num_replicas
}

const STREAMS: [&str; 8] = [
    "KV_dl-test-catalog",
    "KV_dl-test-kv",
    "OBJ_dl-test-artifacts",
    "dl-test-work",
    "dl-test-dead",
    "KV_dl-test-outcomes",
    "KV_dl-test-attempts",
    "OBJ_dl-test-bodies",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_keeps_the_contract_with_three_replicas() {
    let cluster = NatsCluster::start();
    let nats = connect(cluster.url(), "a").await;
    let stores = NatsStore::open(&nats).await.unwrap();
    for stream in STREAMS {
        assert_eq!(replicas(&nats, stream).await, 3, "{stream}");
    }
    contract::catalog::holds(stores.catalog()).await;
    contract::artifacts::holds(stores.artifacts()).await;
    contract::keyvalue::holds(stores.keyvalue()).await;
    let events = stores.events();
    contract::streams::holds(events.streams, events.bus.clone(), stores.keyvalue()).await;
    contract::bus::holds(events.bus).await;
    contract::blobs::holds(events.blobs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_again_and_by_many_at_once_changes_nothing() {
    let (server, cluster) = (NatsServer::start(), NatsCluster::start());
    for url in [server.url(), cluster.url()] {
        let nodes = join_all(["a", "b", "c", "d"].map(|node| connect(url.clone(), node))).await;
        let opened = join_all(nodes.iter().map(NatsStore::open)).await;
        let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
        opened[0].catalog().put("fn/a", "a".into(), None).await.unwrap();
        let made = async || nodes[0].jetstream.get_stream(STREAMS[0]).await.unwrap().cached_info().clone();
        let before = made().await;
        let again = open(url, "e").await;
        assert_eq!(again.catalog().get("fn/a").await.unwrap().unwrap().0, "a");
        let after = made().await;
        assert_eq!((before.created, before.config), (after.created, after.config));
    }
}

async fn three(url: &str) -> Vec<Arc<NatsStore>> {
    let opened = join_all(["a", "b", "c"].map(|node| open(url.to_owned(), node))).await;
    opened.into_iter().map(Arc::new).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn additions_and_swaps_over_three_connections_all_count() {
    let server = NatsServer::start();
    let nodes = three(&server.url()).await;
    let (each, tasks) = (10_i64, 8_i64);
    let work = nodes.iter().flat_map(|node| (0..tasks).map(move |_| node.keyvalue())).map(|keyvalue| {
        tokio::task::spawn(async move {
            let mut sums = Vec::new();
            for _ in 0..each {
                sums.push(keyvalue.increment("s", "sum", 1).await.unwrap());
            }
            let mut swapped = 0;
            while swapped < each {
                let found = keyvalue.get("s", "swap").await.unwrap();
                let number = found.as_ref().map_or(0, |(v, _)| std::str::from_utf8(v).unwrap().parse::<i64>().unwrap());
                let version = found.map(|(_, version)| version);
                match keyvalue.swap("s", "swap", version, (number + 1).to_string().into()).await {
                    Ok(()) => swapped += 1,
                    Err(StoreError::Conflict(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            sums
        })
    });
    let begun = Instant::now();
    let mut sums: Vec<_> = join_all(work).await.into_iter().flat_map(|joined| joined.unwrap()).collect();
    println!("{} additions and swaps by 24 callers of 2 keys: {:?}", 2 * sums.len(), begun.elapsed());
    sums.sort_unstable();
    assert_eq!(sums, (1..=each * tasks * 3).collect::<Vec<_>>());
    assert_eq!(nodes[0].keyvalue().get("s", "swap").await.unwrap().unwrap().0, "240");
}

/// Adds to `counter` until told to stop; the count of what was acknowledged and of what may have happened.
async fn add_until(keyvalue: Arc<dyn KeyValue>, stop: Arc<AtomicI64>, key: &'static str) -> (i64, i64) {
    let (mut acknowledged, mut unknown) = (0, 0);
    while stop.load(Ordering::Relaxed) == 0 {
        match keyvalue.increment("s", key, 1).await {
            Ok(_) => acknowledged += 1,
            Err(StoreError::Unavailable(_)) => unknown += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (acknowledged, unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kills_of_the_server_in_the_middle_of_writes() {
    let mut server = NatsServer::start();
    let nodes = three(&server.url()).await;
    let stop = Arc::new(AtomicI64::new(0));
    let work = nodes.iter().map(|node| tokio::task::spawn(add_until(node.keyvalue(), stop.clone(), "n")));
    let work: Vec<_> = work.collect();
    for round in 1..=3 {
        while sum(&nodes[0], "n").await < round * 100 {}
        server.restart();
    }
    while sum(&nodes[0], "n").await < 400 {}
    stop.store(1, Ordering::Relaxed);
    let done: Vec<_> = join_all(work).await.into_iter().map(|joined| joined.unwrap()).collect();
    let acknowledged: i64 = done.iter().map(|(acknowledged, _)| acknowledged).sum();
    let unknown: i64 = done.iter().map(|(_, unknown)| unknown).sum();
    let sum = sum(&nodes[0], "n").await;
    println!("{acknowledged} acknowledged, {unknown} unknown, the sum is {sum}");
    assert!((acknowledged..=acknowledged + unknown).contains(&sum), "{acknowledged} + {unknown} != {sum}");
}

/// Asks again while there is no leader: how long that takes is not ours to say.
async fn sum(node: &NatsStore, key: &str) -> i64 {
    let found = loop {
        match node.keyvalue().get("s", key).await {
            Err(StoreError::Unavailable(_)) => {}
            found => break found.unwrap(),
        }
    };
    found.map_or(0, |(value, _)| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

/// Writes again while there is no leader, as [`sum`] asks.
async fn put(node: &NatsStore, key: &str, value: &'static str, expected: u64) -> u64 {
    loop {
        match node.catalog().put(key, value.into(), Some(expected)).await {
            Err(StoreError::Unavailable(_)) => {}
            // An earlier attempt was carried out after all.
            Err(StoreError::Conflict(_)) => {
                if let Ok(Some((found, version))) = node.catalog().get(key).await {
                    assert_eq!(found, value);
                    return version;
                }
            }
            version => return version.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_after_the_leader_was_killed() {
    let mut cluster = NatsCluster::start();
    let nats = connect(cluster.url(), "a").await;
    let stores = Arc::new(NatsStore::open(&nats).await.unwrap());
    let stop = Arc::new(AtomicI64::new(0));
    let adding = tokio::task::spawn(add_until(stores.keyvalue(), stop.clone(), "n"));
    let version = stores.catalog().put("fn/a", "1".into(), None).await.unwrap();
    let mut watch = stores.catalog().watch().await.unwrap();
    let info = nats.jetstream.get_stream(STREAMS[1]).await.unwrap().cached_info().clone();
    let leader = info.cluster.unwrap().leader.unwrap();
    let place: usize = leader.trim_start_matches('n').parse().unwrap();
    cluster.servers[place - 1].kill();
    let before = Instant::now();
    let version = put(&stores, "fn/a", "2", version).await;
    println!("the catalog took a write {:?} after the kill", before.elapsed());
    let count = sum(&stores, "n").await;
    while sum(&stores, "n").await < count + 100 {}
    println!("the killed leader's bucket took a hundred {:?} after the kill", before.elapsed());
    stop.store(1, Ordering::Relaxed);
    let (acknowledged, unknown) = adding.await.unwrap();
    assert!((acknowledged..=acknowledged + unknown).contains(&sum(&stores, "n").await));
    // The watch either saw it or tells to reload.
    assert!(matches!(watch.next().await, Some(Change::Reload | Change::Key(_))));
    assert_eq!(stores.catalog().get("fn/a").await.unwrap(), Some(("2".into(), version)));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_everything_fails_in_bounded_time_and_says_so() {
    let mut server = NatsServer::start();
    let stores = open(server.url(), "a").await;
    stores.keyvalue().set("s", "k", "v".into()).await.unwrap();
    server.kill();
    let begun = Instant::now();
    let (keyvalue, catalog, artifacts) = (stores.keyvalue(), stores.catalog(), stores.artifacts());
    // More than async-nats queues while it has no connection.
    let keys: Vec<_> = (0..3_000).map(|n| n.to_string()).collect();
    let writes = join_all(keys.iter().map(|key| keyvalue.set("s", key, "v".into())));
    let digest = Digest::of(b"x");
    let (writes, get, keys, put, watch, list, upload, fetch) = tokio::join!(
        writes,
        keyvalue.get("s", "k"),
        keyvalue.keys("s", None),
        catalog.put("fn/a", "x".into(), None),
        catalog.watch(),
        catalog.list("fn/"),
        artifacts.put(digest, pieces(b"x"), ByteSize(10)),
        artifacts.fetch(digest),
    );
    println!("all failed after {:?}", begun.elapsed());
    let unavailable = |error: &StoreError| matches!(error, StoreError::Unavailable(words) if words.contains("NATS"));
    assert!(writes.iter().all(|result| result.as_ref().is_err_and(unavailable)));
    assert!(get.as_ref().is_err_and(unavailable) && keys.as_ref().is_err_and(unavailable));
    assert!(put.as_ref().is_err_and(unavailable) && watch.as_ref().is_err_and(unavailable));
    assert!(list.as_ref().is_err_and(unavailable) && fetch.as_ref().is_err_and(unavailable));
    assert!(matches!(&upload, Err(PutError::Store(error)) if unavailable(error)), "{upload:?}");
    server.restart();
    assert_eq!(keyvalue.get("s", "k").await.unwrap().unwrap().0, "v");
    keyvalue.set("s", "k", "w".into()).await.unwrap();
    assert_eq!(keyvalue.get("s", "k").await.unwrap().unwrap().0, "w");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_a_restart_and_tells_to_reload() {
    let mut server = NatsServer::start();
    let stores = open(server.url(), "a").await;
    let catalog = stores.catalog();
    let mut watch = catalog.watch().await.unwrap();
    catalog.put("fn/a", "1".into(), None).await.unwrap();
    assert_eq!(watch.next().await, Some(Change::Key("fn/a".into())));
    server.restart();
    catalog.put("fn/b", "1".into(), None).await.unwrap();
    let first = watch.next().await.unwrap();
    assert_eq!(first, Change::Reload);
    catalog.put("fn/c", "1".into(), None).await.unwrap();
    // More than one is possible, if the server was lost again while it came up.
    let next = watch.by_ref().filter(|change| std::future::ready(*change != Change::Reload)).next().await;
    assert_eq!(next, Some(Change::Key("fn/c".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_misses_states_of_a_key_tells_to_reload() {
    let server = NatsServer::start();
    let nats = connect(server.url(), "a").await;
    let catalog = NatsStore::open(&nats).await.unwrap().catalog();
    let mut watch = catalog.watch().await.unwrap();
    let version = catalog.put("fn/a", "1".into(), None).await.unwrap();
    assert_eq!(watch.next().await, Some(Change::Key("fn/a".into())));
    // Somebody removes a message before it is delivered: here by a purge of what was written without the watch's knowing.
    let stream = nats.jetstream.get_stream(STREAMS[0]).await.unwrap();
    let paused = stream.consumer_names().next().await.unwrap().unwrap();
    let until = std::time::SystemTime::now() + Duration::from_secs(3_600);
    stream.pause_consumer(&paused, until.into()).await.unwrap();
    catalog.put("fn/a", "2".into(), Some(version)).await.unwrap();
    stream.purge().await.unwrap();
    stream.resume_consumer(&paused).await.unwrap();
    catalog.put("fn/b", "1".into(), None).await.unwrap();
    assert_eq!(watch.next().await, Some(Change::Reload));
}

/// Streams as an operator made them, too small.
async fn small(nats: &Nats) {
    for (name, subject) in [(STREAMS[1], "$KV.dl-test-kv.>"), (STREAMS[2], "$O.dl-test-artifacts.>")] {
        let config = jetstream::stream::Config {
            name: name.into(),
            subjects: vec![subject.into()],
            max_bytes: 300_000,
            max_messages_per_subject: if name.starts_with("KV") { 1 } else { -1 },
            discard: jetstream::stream::DiscardPolicy::New,
            allow_rollup: true,
            allow_message_ttl: true,
            ..Default::default()
        };
        nats.jetstream.create_stream(config).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_bucket_says_so_and_takes_writes_again_when_there_is_room() {
    let server = NatsServer::start();
    let nats = connect(server.url(), "a").await;
    small(&nats).await;
    let stores = NatsStore::open(&nats).await.unwrap();
    let keyvalue = stores.keyvalue();
    let value = Bytes::from(vec![1; 100_000]);
    keyvalue.set("s", "1", value.clone()).await.unwrap();
    keyvalue.set("s", "2", value.clone()).await.unwrap();
    let full = keyvalue.set("s", "3", value.clone()).await.unwrap_err().to_string();
    assert!(full.contains("KV_dl-test-kv") && full.contains("max_bytes"), "{full}");
    keyvalue.delete("s", "1").await.unwrap();
    keyvalue.set("s", "3", value).await.unwrap();
    let artifacts = stores.artifacts();
    let large = vec![2; 3_000_000];
    let full = artifacts.put(Digest::of(&large), pieces(&large), ByteSize::mib(10)).await.unwrap_err().to_string();
    assert!(full.contains("OBJ_dl-test-artifacts") && full.contains("max_bytes"), "{full}");
    let stream = nats.jetstream.get_stream(STREAMS[2]).await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 0, "nothing of a refused upload stays");
}

async fn object(nats: &Nats, digest: Digest) -> ObjectInfo {
    nats.jetstream.get_object_store("dl-test-artifacts").await.unwrap().info(digest.to_string()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_artifact_is_never_given_out_and_is_healed_by_uploading_it_again() {
    let server = NatsServer::start();
    let nats = connect(server.url(), "a").await;
    let artifacts = NatsStore::open(&nats).await.unwrap().artifacts();
    let stream = nats.jetstream.get_stream(STREAMS[2]).await.unwrap();
    let bytes: Vec<u8> = (0..2_500_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let digest = Digest::of(&bytes);
    for damage in ["wrong", "missing", "more", "no description"] {
        assert_eq!(artifacts.put(digest, pieces(&bytes), ByteSize::mib(5)).await.unwrap(), Stored::New);
        assert_eq!(artifacts.fetch(digest).await.unwrap(), bytes);
        let nuid = object(&nats, digest).await.nuid;
        let chunks = format!("$O.dl-test-artifacts.C.{nuid}");
        let last = stream.get_last_raw_message_by_subject(&chunks).await.unwrap();
        match damage {
            "more" => {}
            "no description" => {
                let subject = stream.get_last_raw_message_by_subject("$O.dl-test-artifacts.M.*").await.unwrap().subject;
                nats.jetstream.publish(subject, "{".into()).await.unwrap().await.unwrap();
            }
            _ => drop(stream.delete_message(last.sequence).await.unwrap()),
        }
        if ["wrong", "more"].contains(&damage) {
            let mut wrong = last.payload.to_vec();
            wrong[5] ^= 1;
            nats.jetstream.publish(chunks, wrong.into()).await.unwrap().await.unwrap();
        }
        let fetched = artifacts.fetch(digest).await;
        assert!(matches!(fetched, Err(StoreError::Corrupt(..))), "{damage}: {fetched:?}");
        assert_eq!(artifacts.touch(digest).await.unwrap(), None, "{damage}");
        assert_eq!(artifacts.put(digest, pieces(&bytes), ByteSize::mib(5)).await.unwrap(), Stored::New, "{damage}");
        assert_eq!(artifacts.fetch(digest).await.unwrap(), bytes, "{damage}");
        artifacts.delete(digest).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_objects_that_other_tools_can_read() {
    let server = NatsServer::start();
    let nats = connect(server.url(), "a").await;
    let artifacts = NatsStore::open(&nats).await.unwrap().artifacts();
    let bytes: Vec<u8> = (0..6_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let digest = Digest::of(&bytes);
    let begun = Instant::now();
    artifacts.put(digest, pieces(&bytes), ByteSize::mib(10)).await.unwrap();
    let stored = begun.elapsed();
    artifacts.fetch(digest).await.unwrap();
    println!("6 MB stored in {stored:?}, fetched in {:?}", begun.elapsed() - stored);
    let bucket = nats.jetstream.get_object_store("dl-test-artifacts").await.unwrap();
    let mut object = bucket.get(digest.to_string()).await.unwrap();
    let mut read = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut object, &mut read).await.unwrap();
    assert_eq!(read, bytes, "async-nats checks the digest of the object too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_leaves_no_message() {
    let server = NatsServer::start();
    let nats = connect(server.url(), "a").await;
    let artifacts = NatsStore::open(&nats).await.unwrap().artifacts();
    let bytes = vec![1; 3_000_000];
    let wrong = artifacts.put(Digest::of(b"other"), pieces(&bytes), ByteSize::mib(5)).await;
    assert!(matches!(wrong, Err(PutError::WrongDigest { .. })));
    // The limit is seen before the upload ends: this one never does.
    let endless = futures::stream::repeat_with(|| Ok(Bytes::from_static(&[0; 4_096]))).boxed();
    let large = artifacts.put(Digest::of(b"other"), endless, ByteSize::mib(2)).await;
    assert!(matches!(large, Err(PutError::TooLarge { .. })));
    let stream = nats.jetstream.get_stream(STREAMS[2]).await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_any_text_come_in_the_order_of_the_text() {
    let server = NatsServer::start();
    let keyvalue = open(server.url(), "a").await.keyvalue();
    let longest = "\u{10ffff}".repeat(256);
    let keys: BTreeSet<_> = ["a", "a/b", "ab", "a\u{0}", ">", "*", ".", " ", "é", "z.>", "A", "aa", &longest].into();
    for key in &keys {
        keyvalue.set("s", key, Bytes::from((*key).to_owned())).await.unwrap();
    }
    keyvalue.set("s", "gone", "x".into()).await.unwrap();
    keyvalue.delete("s", "gone").await.unwrap();
    assert_eq!(keyvalue.keys("s", None).await.unwrap(), keys.iter().copied().collect::<Vec<_>>());
    for key in &keys {
        assert_eq!(keyvalue.get("s", key).await.unwrap().unwrap().0, *key);
        let rest: Vec<_> = keys.iter().copied().filter(|other| other > key).collect();
        assert_eq!(keyvalue.keys("s", Some(key)).await.unwrap(), rest);
    }
}
