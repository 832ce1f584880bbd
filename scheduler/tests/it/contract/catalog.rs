//! The contract of [`CatalogStore`].

use bytes::Bytes;
use dunlin_api::{StoreError, Version};
use dunlin_scheduler::store::{CatalogStore, Change, MAX_RECORD_BYTES};
use futures::{StreamExt, future::join_all};
use std::{collections::BTreeSet, sync::Arc};

/// Every rule of the contract against an empty store.
pub(crate) async fn holds(store: Arc<dyn CatalogStore>) {
    writes_only_what_the_caller_has_seen(&*store).await;
    never_repeats_a_version(&*store).await;
    lets_one_of_many_writers_win(store.clone()).await;
    lists_in_order_and_only_below_the_prefix(&*store).await;
    takes_records_up_to_the_limit(&*store).await;
    a_watch_sees_every_change_or_is_told_to_reload(store).await;
}

fn is_conflict<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict(_)))
}

async fn value(store: &dyn CatalogStore, key: &str) -> Option<(Bytes, Version)> {
    store.get(key).await.unwrap()
}

async fn writes_only_what_the_caller_has_seen(store: &dyn CatalogStore) {
    assert_eq!(value(store, "fn/a").await, None);
    assert!(is_conflict(store.put("fn/a", "x".into(), Some(1)).await));
    let first = store.put("fn/a", "one".into(), None).await.unwrap();
    assert!(is_conflict(store.put("fn/a", "again".into(), None).await));
    let second = store.put("fn/a", "two".into(), Some(first)).await.unwrap();
    assert!(second > first);
    assert!(is_conflict(store.put("fn/a", "late".into(), Some(first)).await));
    assert!(is_conflict(store.delete("fn/a", first).await));
    assert_eq!(value(store, "fn/a").await, Some(("two".into(), second)));
    store.delete("fn/a", second).await.unwrap();
    assert_eq!(value(store, "fn/a").await, None);
    assert!(is_conflict(store.delete("fn/a", second).await));
}

async fn never_repeats_a_version(store: &dyn CatalogStore) {
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let version = store.put("fn/again", "same".into(), None).await.unwrap();
        assert!(seen.insert(version), "version {version} came twice");
        store.delete("fn/again", version).await.unwrap();
    }
}

async fn lets_one_of_many_writers_win(store: Arc<dyn CatalogStore>) {
    let rounds = 5;
    let mut version = None;
    for round in 0..rounds {
        let writers = (0..20).map(|n| {
            let store = store.clone();
            tokio::task::spawn(async move { store.put("fn/race", format!("{round}-{n}").into(), version).await })
        });
        let results: Vec<_> = join_all(writers).await.into_iter().map(|joined| joined.unwrap()).collect();
        let won: Vec<_> = results.iter().filter_map(|r| r.as_ref().ok()).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(results.iter().filter(|r| matches!(r, Err(StoreError::Conflict(_)))).count(), 19);
        version = Some(*won[0]);
    }
}

async fn lists_in_order_and_only_below_the_prefix(store: &dyn CatalogStore) {
    for key in ["list/b", "list/a", "list/c/1", "listed/x", "lis/x", "list/b-2"] {
        store.put(key, key.to_owned().into(), None).await.unwrap();
    }
    let records = store.list("list/").await.unwrap();
    let keys: Vec<_> = records.iter().map(|r| r.key.as_str()).collect();
    assert_eq!(keys, ["list/a", "list/b", "list/b-2", "list/c/1"]);
    assert!(records.iter().all(|r| r.value == r.key && r.version > 0));
    assert!(store.list("nothing/").await.unwrap().is_empty());
}

async fn takes_records_up_to_the_limit(store: &dyn CatalogStore) {
    let over = store.put("fn/large", vec![0; MAX_RECORD_BYTES + 1].into(), None).await;
    assert!(matches!(over, Err(StoreError::Invalid(_))));
    store.put("fn/large", vec![0; MAX_RECORD_BYTES].into(), None).await.unwrap();
    assert_eq!(value(store, "fn/large").await.unwrap().0.len(), MAX_RECORD_BYTES);
}

async fn a_watch_sees_every_change_or_is_told_to_reload(store: Arc<dyn CatalogStore>) {
    let mut watch = store.watch().await.unwrap();
    let version = store.put("watch/a", "1".into(), None).await.unwrap();
    let version = store.put("watch/a", "2".into(), Some(version)).await.unwrap();
    store.put("watch/b", "1".into(), None).await.unwrap();
    store.delete("watch/a", version).await.unwrap();
    for key in ["watch/a", "watch/a", "watch/b", "watch/a"] {
        assert_eq!(watch.next().await, Some(Change::Key(key.into())));
    }
    // Nobody reads meanwhile; the watch may not grow without bound.
    let mut lagging = store.watch().await.unwrap();
    let keys: BTreeSet<_> = (0..3_000).map(|n| format!("many/{n:05}")).collect();
    for chunk in keys.iter().collect::<Vec<_>>().chunks(500) {
        for result in join_all(chunk.iter().map(|key| store.put(key, "x".into(), None))).await {
            result.unwrap();
        }
    }
    let mut seen = BTreeSet::new();
    let complete = loop {
        match lagging.next().await.unwrap() {
            Change::Reload => break true,
            Change::Key(key) => seen.insert(key),
        };
        if seen.len() == keys.len() {
            break true;
        }
    };
    assert!(complete && seen.is_subset(&keys));
}
