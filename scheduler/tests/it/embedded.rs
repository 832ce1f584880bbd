//! The embedded store: the contract, and what only files can suffer.

use dunlin_api::{
    Artifacts, ByteSize, Digest, KeyValue, Message, Publish, StoreError,
    trigger::{ChangeSource, Order, Start},
};
use dunlin_scheduler::store::{
    ArtifactStore, CatalogStore, MAX_VALUE_BYTES, Stored,
    embedded::{Embedded, OpenError},
    events::{Blobs, ConsumerSpec, Own, Source, Streams},
};
use futures::StreamExt;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tempfile::TempDir;

use crate::contract::{self, artifacts::pieces};

fn open(dir: &Path) -> Embedded {
    Embedded::open(dir).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_catalog_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    contract::catalog::holds(open(dir.path()).catalog()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_keyvalue_stores_keep_the_contract() {
    let dir = TempDir::new().unwrap();
    contract::keyvalue::holds(open(dir.path()).keyvalue()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_artifacts_keep_the_contract() {
    let dir = TempDir::new().unwrap();
    contract::artifacts::holds(open(dir.path()).artifacts()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_streams_keep_the_contract() {
    let dir = TempDir::new().unwrap();
    let stores = open(dir.path());
    contract::streams::holds(stores.streams(), stores.bus(), stores.keyvalue()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_bus_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    contract::bus::holds(open(dir.path()).bus()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_blobs_keep_the_contract() {
    let dir = TempDir::new().unwrap();
    contract::blobs::holds(open(dir.path()).blobs()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_records_of_events_keep_the_contract_of_the_catalog() {
    let dir = TempDir::new().unwrap();
    contract::catalog::holds(open(dir.path()).records()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_memory_keeps_the_contract_and_ends_with_its_stores() {
    let dir = TempDir::new().unwrap();
    let volatile = || Embedded::open_volatile(dir.path()).unwrap();
    let stores = volatile();
    contract::catalog::holds(stores.catalog()).await;
    contract::keyvalue::holds(stores.keyvalue()).await;
    contract::streams::holds(stores.streams(), stores.bus(), stores.keyvalue()).await;
    stores.keyvalue().set("s", "k", "v".into()).await.unwrap();
    drop(stores);
    assert_eq!(volatile().keyvalue().get("s", "k").await.unwrap(), None);
    let databases = fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some());
    assert_eq!(databases.count(), 0, "no database is a file");
}

#[tokio::test]
async fn everything_is_there_again_after_reopening() {
    let dir = TempDir::new().unwrap();
    let digest = Digest::of(b"component");
    let version = {
        let stores = open(dir.path());
        stores.keyvalue().set("s", "k", "v".into()).await.unwrap();
        stores.artifacts().put(digest, pieces(b"component"), ByteSize(100)).await.unwrap();
        stores.catalog().put("fn/a", "a".into(), None).await.unwrap()
    };
    let stores = open(dir.path());
    assert_eq!(stores.catalog().get("fn/a").await.unwrap(), Some(("a".into(), version)));
    assert_eq!(stores.keyvalue().get("s", "k").await.unwrap().unwrap().0, "v");
    assert_eq!(stores.artifacts().fetch(digest).await.unwrap(), "component");
    assert!(stores.catalog().put("fn/b", "b".into(), None).await.unwrap() > version);
}

#[tokio::test]
async fn a_second_node_on_the_same_directory_is_told_so() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    let error = Embedded::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::InUse(_)));
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    // Any store that is still in use keeps the directory.
    let keyvalue = first.keyvalue();
    drop(first);
    assert!(matches!(Embedded::open(dir.path()), Err(OpenError::InUse(_))));
    drop(keyvalue);
    open(dir.path());
}

#[cfg(unix)]
#[test]
fn only_its_user_can_read_the_directory() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("new/data");
    let _stores = open(&data);
    for path in [&data, &data.join("artifacts")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Embedded::open(&file).err().unwrap();
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn a_damaged_database_is_named_and_not_overwritten() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()));
    let path = dir.path().join("catalog.redb");
    fs::write(&path, vec![0x5a; 100_000]).unwrap();
    let error = Embedded::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Database { .. }), "{error}");
    assert!(error.to_string().contains("catalog.redb"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), vec![0x5a; 100_000]);
}

#[tokio::test]
async fn a_damaged_artifact_is_never_given_out_and_is_healed_by_uploading_it_again() {
    let dir = TempDir::new().unwrap();
    let artifacts = open(dir.path()).artifacts();
    let bytes = vec![3; 10_000];
    let digest = Digest::of(&bytes);
    let path = dir.path().join("artifacts").join(digest.to_string());
    let mut flipped = bytes.clone();
    flipped[5_000] ^= 1;
    let longer = [&bytes[..], b"x"].concat();
    for damaged in [bytes[..9_999].to_vec(), flipped, longer, Vec::new()] {
        artifacts.put(digest, pieces(&bytes), ByteSize::mib(1)).await.unwrap();
        fs::write(&path, damaged).unwrap();
        assert!(matches!(artifacts.fetch(digest).await, Err(StoreError::Corrupt(..))));
        assert_eq!(artifacts.touch(digest).await.unwrap(), None);
        assert_eq!(artifacts.put(digest, pieces(&bytes), ByteSize::mib(1)).await.unwrap(), Stored::New);
        assert_eq!(artifacts.fetch(digest).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_refused_upload_leaves_no_file_and_a_crashed_one_is_swept_at_start() {
    let dir = TempDir::new().unwrap();
    let files = || fs::read_dir(dir.path().join("artifacts")).unwrap().count();
    let stores = open(dir.path());
    let refused = stores.artifacts().put(Digest::of(b"other"), pieces(b"bytes"), ByteSize(100)).await;
    assert!(refused.is_err());
    assert_eq!(files(), 0);
    drop(stores);
    fs::write(dir.path().join("artifacts/.upload-cut-off"), "half").unwrap();
    open(dir.path());
    assert_eq!(files(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_writes_is_refused_at_once_with_its_numbers() {
    let dir = TempDir::new().unwrap();
    let keyvalue = open(dir.path()).keyvalue();
    let value = bytes::Bytes::from(vec![0; MAX_VALUE_BYTES]);
    // More than the 64 MiB that may wait, queued before the writer can commit them.
    let keys: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    let writes = keys.iter().map(|key| keyvalue.set("s", key, value.clone()));
    let results = futures::future::join_all(writes).await;
    let refused: Vec<_> = results.iter().zip(&keys).filter(|(result, _)| result.is_err()).collect();
    assert!(!refused.is_empty());
    for (result, key) in refused {
        assert!(result.as_ref().unwrap_err().to_string().contains("64 MiB wait"), "{result:?}");
        assert_eq!(keyvalue.get("s", key).await.unwrap(), None, "a refused write did not happen");
    }
    for (_, key) in results.iter().zip(&keys).filter(|(result, _)| result.is_ok()) {
        assert!(keyvalue.get("s", key).await.unwrap().is_some());
    }
    keyvalue.set("s", "after", "x".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_writes_share_their_commits() {
    let dir = TempDir::new().unwrap();
    let keyvalue = open(dir.path()).keyvalue();
    let mut rates = Vec::new();
    for callers in [1_usize, 64] {
        let each = 200;
        let start = Instant::now();
        let tasks = (0..callers).map(|n| {
            let (keyvalue, key) = (keyvalue.clone(), n.to_string());
            tokio::task::spawn(async move {
                for _ in 0..each {
                    keyvalue.increment("s", &key, 1).await.unwrap();
                }
            })
        });
        futures::future::join_all(tasks).await.into_iter().for_each(|joined| joined.unwrap());
        rates.push((callers * each) as f64 / start.elapsed().as_secs_f64());
        println!("{callers} callers: {:.0} acknowledged writes/s", rates[rates.len() - 1]);
    }
    assert!(rates[1] > 3.0 * rates[0], "64 callers are not served together: {rates:?}");
}

fn on_queue(queue: &str) -> ConsumerSpec {
    let source = Source::Queue(queue.into());
    ConsumerSpec { name: queue.replace('.', "-"), source, start: Start::All, order: Order::None }
}

#[tokio::test]
async fn events_are_there_again_after_reopening() {
    let dir = TempDir::new().unwrap();
    let spec = on_queue("f.async");
    let message = |payload: &'static str| Message::new("f.async", payload);
    let first = {
        let streams = open(dir.path()).streams();
        let first = streams.append(Own::Work, message("1"), Some("one")).await.unwrap();
        streams.append(Own::Work, message("2"), None).await.unwrap();
        streams.append(Own::Work, message("3"), None).await.unwrap();
        let mut consumer = streams.open(&spec).await.unwrap();
        let taken = consumer.pull(3).await.unwrap();
        taken[0].settle.retry(Duration::from_secs(3_600), 4).await.unwrap();
        taken[1].settle.ack().await.unwrap();
        first
    };
    let streams = open(dir.path()).streams();
    assert_eq!(streams.append(Own::Work, message("1"), Some("one")).await.unwrap(), first, "the id is still known");
    assert_eq!(streams.queues().await.unwrap(), [("f.async".to_owned(), 2)].into());
    // The wait of a retry is over, its count is kept; what was out comes again.
    let taken = streams.open(&spec).await.unwrap().pull(10).await.unwrap();
    let seen: Vec<_> = taken.iter().map(|d| (&d.stored.message.payload[..], d.delivered, d.failed)).collect();
    assert_eq!(seen, [(&b"1"[..], 1, 4), (b"3", 1, 0)]);
}

#[tokio::test]
async fn a_stream_that_a_trigger_names_is_made_and_takes_what_its_triggers_want() {
    let dir = TempDir::new().unwrap();
    let stores = open(dir.path());
    for subject in ["orders.paid", "orders.new"] {
        assert_eq!(stores.streams().resolve(Some("ORDERS"), subject).await.unwrap(), "ORDERS");
        let published = stores.bus().publish(Message::new(subject, "x")).await.unwrap();
        assert_eq!(published.stored.unwrap().0, "ORDERS");
    }
    drop(stores);
    let published = open(dir.path()).bus().publish(Message::new("orders.new", "x")).await.unwrap();
    assert_eq!(published.stored, Some(("ORDERS".into(), 3)));
    let asked = open(dir.path()).bus().request(Message::new("orders.new", "?"), Duration::from_secs(1)).await;
    assert!(matches!(asked, Err(StoreError::Invalid(words)) if words.contains("ORDERS")));
}

#[tokio::test]
async fn changes_of_buckets_need_a_cluster_and_the_refusal_says_so() {
    let dir = TempDir::new().unwrap();
    let refused = open(dir.path()).streams().check_source(&ChangeSource::Bucket("b".into())).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Invalid(words) if words.contains("--nats")), "{refused}");
}

#[tokio::test]
async fn a_follower_may_begin_with_all_keys() {
    let dir = TempDir::new().unwrap();
    let stores = open(dir.path());
    for key in ["a/1", "b/1", "a/2"] {
        stores.keyvalue().set("s", key, "x".into()).await.unwrap();
    }
    let source = Source::Changes { source: ChangeSource::Store("s".into()), keys: "a/*".into() };
    let spec = ConsumerSpec { name: "c".into(), source, start: Start::All, order: Order::None };
    stores.streams().ensure(&spec).await.unwrap();
    let taken = stores.streams().open(&spec).await.unwrap().pull(10).await.unwrap();
    assert_eq!(taken.iter().map(|d| &*d.stored.message.subject).collect::<Vec<_>>(), ["a/1", "a/2"]);
    let timed = ConsumerSpec { start: Start::Time(0), name: "t".into(), ..spec };
    assert!(matches!(stores.streams().ensure(&timed).await, Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn a_damaged_blob_is_seen_and_a_cut_off_upload_is_swept_at_start() {
    let dir = TempDir::new().unwrap();
    let blobs = open(dir.path()).blobs();
    let bytes = vec![3; 700_000];
    let path = dir.path().join("blobs/blob-b");
    blobs.put("b", pieces(&bytes), ByteSize::mib(1)).await.unwrap();
    let stored = fs::read(&path).unwrap();
    let mut flipped = stored.clone();
    flipped[600_000] ^= 1;
    for damaged in [flipped, stored[1..].to_vec(), [&stored[..], b"x"].concat()] {
        fs::write(&path, damaged).unwrap();
        let (_, read) = blobs.get("b").await.unwrap().unwrap();
        let read: Vec<_> = read.collect().await;
        assert!(read.last().unwrap().is_err());
    }
    fs::write(&path, "short").unwrap();
    assert!(matches!(blobs.get("b").await.err(), Some(StoreError::Unavailable(_))));
    drop(blobs);
    fs::write(dir.path().join("blobs/.upload-cut-off"), "half").unwrap();
    open(dir.path());
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_events_share_their_commits() {
    let dir = TempDir::new().unwrap();
    let stores = open(dir.path());
    let (publishers, each) = (64, 100);
    let spec = on_queue("f.async");
    stores.streams().ensure(&spec).await.unwrap();
    let start = Instant::now();
    let tasks = (0..publishers).map(|n: u32| {
        let streams = stores.streams();
        tokio::task::spawn(async move {
            for i in 0..each {
                let message = Message::new("f.async", format!("{n}-{i}"));
                streams.append(Own::Work, message, None).await.unwrap();
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut consumer = stores.streams().open(&spec).await.unwrap();
    let mut handled = BTreeSet::new();
    while handled.len() < publishers as usize * each {
        for delivery in consumer.pull(64).await.unwrap() {
            delivery.settle.ack().await.unwrap();
            assert!(handled.insert(delivery.stored.message.payload), "it came twice");
        }
    }
    println!("{:.0} events/s published and handled", handled.len() as f64 / start.elapsed().as_secs_f64());
    futures::future::join_all(tasks).await.into_iter().for_each(|joined| joined.unwrap());
}
