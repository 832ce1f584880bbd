//! The contract of [`KeyValue`].

use bytes::Bytes;
use dunlin_api::{KeyValue, StoreError};
use dunlin_scheduler::store::{KEYS_PER_PAGE, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use futures::future::join_all;
use std::sync::Arc;

/// Every rule of the contract against an empty store.
pub(crate) async fn holds(store: Arc<dyn KeyValue>) {
    keeps_what_was_set_in_stores_of_their_own(&*store).await;
    swaps_only_what_the_caller_has_seen(&*store).await;
    adds_up_what_many_callers_add(store.clone()).await;
    no_swap_of_many_callers_is_lost(store.clone()).await;
    adds_only_to_integers_that_fit(&*store).await;
    holds_to_its_limits(&*store).await;
    pages_through_keys_in_order(&*store).await;
}

async fn value(store: &dyn KeyValue, name: &str, key: &str) -> Option<Bytes> {
    store.get(name, key).await.unwrap().map(|(value, _)| value)
}

async fn keeps_what_was_set_in_stores_of_their_own(store: &dyn KeyValue) {
    store.set("one", "k", "1".into()).await.unwrap();
    store.set("two", "k", "2".into()).await.unwrap();
    store.set("two", "empty", Bytes::new()).await.unwrap();
    assert_eq!(value(store, "one", "k").await, Some("1".into()));
    assert_eq!(value(store, "two", "k").await, Some("2".into()));
    assert_eq!(value(store, "two", "empty").await, Some(Bytes::new()));
    assert_eq!(value(store, "three", "k").await, None);
    store.delete("one", "k").await.unwrap();
    store.delete("one", "k").await.unwrap();
    assert_eq!(value(store, "one", "k").await, None);
    assert_eq!(value(store, "two", "k").await, Some("2".into()));
    let odd = "a/ü\n*>.\u{0}\"";
    store.set("one", odd, "odd".into()).await.unwrap();
    assert_eq!(value(store, "one", odd).await, Some("odd".into()));
    assert_eq!(store.keys("one", None).await.unwrap(), [odd]);
}

async fn swaps_only_what_the_caller_has_seen(store: &dyn KeyValue) {
    store.swap("swap", "k", None, "a".into()).await.unwrap();
    let again = store.swap("swap", "k", None, "b".into()).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))));
    let (_, version) = store.get("swap", "k").await.unwrap().unwrap();
    store.swap("swap", "k", Some(version), "c".into()).await.unwrap();
    let late = store.swap("swap", "k", Some(version), "d".into()).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))));
    let (_, version) = store.get("swap", "k").await.unwrap().unwrap();
    store.delete("swap", "k").await.unwrap();
    store.set("swap", "k", "c".into()).await.unwrap();
    let replaced = store.swap("swap", "k", Some(version), "e".into()).await;
    assert!(matches!(replaced, Err(StoreError::Conflict(_))), "the same value again is another version");
}

async fn adds_up_what_many_callers_add(store: Arc<dyn KeyValue>) {
    let (callers, each) = (16, 25);
    let tasks = (0..callers).map(|_| {
        let store = store.clone();
        tokio::task::spawn(async move {
            let mut sums = Vec::new();
            for _ in 0..each {
                sums.push(store.increment("sum", "n", 1).await.unwrap());
            }
            sums
        })
    });
    let mut sums: Vec<i64> = join_all(tasks).await.into_iter().flat_map(|joined| joined.unwrap()).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=callers * each).collect::<Vec<i64>>());
    assert_eq!(value(&*store, "sum", "n").await, Some("400".into()));
}

async fn no_swap_of_many_callers_is_lost(store: Arc<dyn KeyValue>) {
    let (callers, each) = (8, 10);
    let tasks = (0..callers).map(|_| {
        let store = store.clone();
        tokio::task::spawn(async move {
            let mut done = 0;
            while done < each {
                let found = store.get("cas", "n").await.unwrap();
                let (number, version) = match &found {
                    Some((value, version)) => (std::str::from_utf8(value).unwrap().parse().unwrap(), Some(*version)),
                    None => (0_u32, None),
                };
                match store.swap("cas", "n", version, (number + 1).to_string().into()).await {
                    Ok(()) => done += 1,
                    Err(StoreError::Conflict(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    join_all(tasks).await.into_iter().for_each(|joined| joined.unwrap());
    assert_eq!(value(&*store, "cas", "n").await, Some("80".into()));
}

async fn adds_only_to_integers_that_fit(store: &dyn KeyValue) {
    assert_eq!(store.increment("int", "n", -5).await.unwrap(), -5);
    assert_eq!(store.increment("int", "n", 0).await.unwrap(), -5);
    store.set("int", "max", i64::MAX.to_string().into()).await.unwrap();
    assert!(matches!(store.increment("int", "max", 1).await, Err(StoreError::Invalid(_))));
    assert_eq!(store.increment("int", "max", -1).await.unwrap(), i64::MAX - 1);
    for text in ["", "x", "1.5", "9223372036854775808", " 1"] {
        store.set("int", "text", text.to_owned().into()).await.unwrap();
        assert!(matches!(store.increment("int", "text", 1).await, Err(StoreError::Invalid(_))), "{text:?}");
        assert_eq!(value(store, "int", "text").await, Some(text.to_owned().into()));
    }
}

async fn holds_to_its_limits(store: &dyn KeyValue) {
    let invalid = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Invalid(_)));
    let (longest, too_long) = ("k".repeat(MAX_KEY_BYTES), "k".repeat(MAX_KEY_BYTES + 1));
    store.set("limits", &longest, "x".into()).await.unwrap();
    assert_eq!(value(store, "limits", &longest).await, Some("x".into()));
    for key in ["", &too_long] {
        assert!(invalid(store.set("limits", key, "x".into()).await));
        assert!(invalid(store.get("limits", key).await.map(|_| ())));
        assert!(invalid(store.delete("limits", key).await));
        assert!(invalid(store.swap("limits", key, None, "x".into()).await));
        assert!(invalid(store.increment("limits", key, 1).await.map(|_| ())));
    }
    store.set("limits", "v", vec![1; MAX_VALUE_BYTES].into()).await.unwrap();
    assert!(invalid(store.set("limits", "v", vec![2; MAX_VALUE_BYTES + 1].into()).await));
    assert!(invalid(store.swap("limits", "w", None, vec![2; MAX_VALUE_BYTES + 1].into()).await));
    assert_eq!(value(store, "limits", "v").await, Some(vec![1; MAX_VALUE_BYTES].into()));
    for name in ["", "..", "a/b", "A", "a.b", "a*", &"x".repeat(64)] {
        assert!(invalid(store.set(name, "k", "x".into()).await), "{name:?}");
        assert!(invalid(store.keys(name, None).await.map(|_| ())), "{name:?}");
    }
}

async fn pages_through_keys_in_order(store: &dyn KeyValue) {
    let keys: Vec<_> = (0..KEYS_PER_PAGE + 5).map(|n| format!("{n:05}")).collect();
    for chunk in keys.chunks(500) {
        for result in join_all(chunk.iter().rev().map(|key| store.set("pages", key, "x".into()))).await {
            result.unwrap();
        }
    }
    store.set("pagesx", "another", "x".into()).await.unwrap();
    let first = store.keys("pages", None).await.unwrap();
    let last = store.keys("pages", first.last().map(String::as_str)).await.unwrap();
    assert_eq!((first.len(), last.len()), (KEYS_PER_PAGE, 5));
    assert_eq!([first, last].concat(), keys);
    assert_eq!(store.keys("pages", Some("00998x")).await.unwrap()[0], "00999", "from a key that is not there");
    assert!(store.keys("pages", Some("~")).await.unwrap().is_empty());
}
