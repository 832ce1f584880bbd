//! Changes of keys as deliveries.

use dunlin_api::trigger::{ChangeSource, Start};
use dunlin_scheduler::store::events::{CHANGED, ConsumerSpec, Delivery, OPERATION, Source, VERSION};
use std::collections::BTreeMap;

use super::{On, ack, nothing, one, spec, take, unique};

/// A store of its own and a consumer of what changes in it from now on.
async fn followed(on: &On, keys: &str) -> (String, ConsumerSpec) {
    let store = unique("store");
    let source = ChangeSource::Store(store.clone());
    on.streams.check_source(&source).await.unwrap();
    let changes = Source::Changes { source, keys: keys.to_owned() };
    let spec = ConsumerSpec { start: Start::New, ..spec(changes) };
    on.streams.ensure(&spec).await.unwrap();
    (store, spec)
}

fn shown(delivery: &Delivery) -> (&str, &str, &[u8]) {
    let message = &delivery.stored.message;
    (message.header(OPERATION).unwrap(), &message.subject, &message.payload)
}

pub(super) async fn changes_of_keys_are_delivered(on: &On) {
    let (store, spec) = followed(on, "user/*").await;
    let mut consumer = on.open(&spec).await;
    on.keyvalue.set(&store, "cart/1", "not matched".into()).await.unwrap();
    on.keyvalue.set(&unique("other"), "user/1", "another store".into()).await.unwrap();
    on.keyvalue.set(&store, "user/1", "one".into()).await.unwrap();
    let put = one(&mut *consumer).await;
    assert_eq!(shown(&put), ("put", "user/1", &b"one"[..]));
    assert_eq!(put.stored.message.header(CHANGED), Some(&*format!("store {store}")));
    let (_, version) = on.keyvalue.get(&store, "user/1").await.unwrap().unwrap();
    assert_eq!(put.stored.message.header(VERSION), Some(&*version.to_string()));
    ack(&[put]).await;
    // Any text is a key.
    on.keyvalue.swap(&store, "user/ü .*>", None, "odd".into()).await.unwrap();
    let odd = one(&mut *consumer).await;
    assert_eq!(shown(&odd), ("put", "user/ü .*>", &b"odd"[..]));
    ack(&[odd]).await;
    on.keyvalue.delete(&store, "user/1").await.unwrap();
    let deleted = one(&mut *consumer).await;
    assert_eq!(shown(&deleted), ("delete", "user/1", &b""[..]));
    deleted.settle.retry(std::time::Duration::ZERO, 1).await.unwrap();
    let again = one(&mut *consumer).await;
    assert_eq!((again.delivered, again.failed), (2, 1));
    assert_eq!(shown(&again), ("delete", "user/1", &b""[..]));
    ack(&[again]).await;
    on.keyvalue.delete(&store, "user/1").await.unwrap();
    nothing(&mut *consumer).await;
    // Nothing is followed after the removal.
    drop(consumer);
    on.streams.remove(&spec).await.unwrap();
    on.keyvalue.set(&store, "user/2", "unseen".into()).await.unwrap();
    on.streams.ensure(&spec).await.unwrap();
    nothing(&mut *on.open(&spec).await).await;
}

pub(super) async fn the_last_change_of_a_key_always_comes(on: &On) {
    let (store, spec) = followed(on, "*").await;
    for _ in 0..30 {
        for key in ["a", "b"] {
            on.keyvalue.increment(&store, key, 1).await.unwrap();
        }
    }
    on.keyvalue.delete(&store, "b").await.unwrap();
    let mut consumer = on.open(&spec).await;
    let mut last = BTreeMap::<String, (String, Vec<u8>)>::new();
    while last.get("a").is_none_or(|a| *a != ("put".to_owned(), b"30".to_vec()))
        || last.get("b").is_none_or(|b| b.0 != "delete")
    {
        let taken = take(&mut *consumer, 1).await;
        let (operation, key, value) = shown(&taken[0]);
        last.insert(key.to_owned(), (operation.to_owned(), value.to_vec()));
        ack(&taken).await;
    }
    nothing(&mut *consumer).await;
}

pub(super) async fn sources_that_are_not_there_are_refused(on: &On) {
    for absent in [ChangeSource::Bucket(unique("absent")), ChangeSource::Objects(unique("absent"))] {
        assert!(on.streams.check_source(&absent).await.is_err(), "{absent}");
        let spec = spec(Source::Changes { source: absent, keys: "*".into() });
        assert!(on.streams.ensure(&spec).await.is_err());
    }
}
