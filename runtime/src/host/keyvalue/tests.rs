use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use dunlin_api::{BoxFuture, KeyValue, StoreError, Version};
use wasmtime::{
    Config, Engine,
    component::{Linker, ResourceTable},
};

use super::{Error, KeyValueCtx, KeyValueView, MAX_BATCH, MAX_KEY, MAX_VALUE, add_to_linker};

/// All stores in one map; the version of an entry is the number of the write.
#[derive(Default)]
struct Memory(Mutex<(Version, Entries)>);

type Entries = BTreeMap<String, (Bytes, Version)>;

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

impl Memory {
    fn write(&self, key: &str, value: Bytes) {
        let mut state = self.0.lock().unwrap();
        state.0 += 1;
        let version = state.0;
        state.1.insert(key.into(), (value, version));
    }
}

impl KeyValue for Memory {
    fn get<'a>(&'a self, _: &'a str, key: &'a str) -> Answer<'a, Option<(Bytes, Version)>> {
        Box::pin(async move { Ok(self.0.lock().unwrap().1.get(key).cloned()) })
    }
    fn set<'a>(&'a self, _: &'a str, key: &'a str, value: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            self.write(key, value);
            Ok(())
        })
    }
    fn delete<'a>(&'a self, _: &'a str, key: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.0.lock().unwrap().1.remove(key);
            Ok(())
        })
    }
    fn swap<'a>(&'a self, _: &'a str, key: &'a str, expected: Option<Version>, value: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            let found = self.0.lock().unwrap().1.get(key).map(|(_, version)| *version);
            if found != expected {
                return Err(StoreError::Conflict(key.into()));
            }
            self.write(key, value);
            Ok(())
        })
    }
    fn increment<'a>(&'a self, _: &'a str, _: &'a str, delta: i64) -> Answer<'a, i64> {
        Box::pin(async move { if delta == i64::MAX { Ok(-1) } else { Ok(delta) } })
    }
    fn keys<'a>(&'a self, _: &'a str, after: Option<&'a str>) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let state = self.0.lock().unwrap();
            Ok(state
                .1
                .keys()
                .filter(|key| after.is_none_or(|after| key.as_str() > after))
                .take(1_000)
                .cloned()
                .collect())
        })
    }
}

fn ctx() -> KeyValueCtx {
    KeyValueCtx { store: Arc::new(Memory::default()), granted: ["cart".to_owned()].into() }
}

fn other<T: std::fmt::Debug>(result: Result<T, Error>, words: &str) {
    let error = result.unwrap_err();
    assert!(matches!(&error, Error::Other(text) if text.contains(words)), "{error:?}");
}

#[tokio::test]
async fn opens_only_what_is_granted() {
    let (ctx, mut table) = (ctx(), ResourceTable::new());
    let mut view = KeyValueView { ctx: &ctx, table: &mut table };
    assert!(view.open("cart").is_ok());
    assert_eq!(view.open("carts").unwrap_err(), Error::AccessDenied);
    assert_eq!(view.open("").unwrap_err(), Error::NoSuchStore);
}

#[tokio::test]
async fn obeys_and_enforces_the_sizes() {
    let (ctx, mut table) = (ctx(), ResourceTable::new());
    let mut view = KeyValueView { ctx: &ctx, table: &mut table };
    let cart = view.open("cart").unwrap();
    let key = "k".repeat(MAX_KEY);
    view.set(&cart, &key, vec![7; MAX_VALUE]).await.unwrap();
    assert_eq!(view.get(&cart, &key).await.unwrap().unwrap().len(), MAX_VALUE);
    other(view.set(&cart, "k", vec![7; MAX_VALUE + 1]).await, "1048576");
    other(view.set(&cart, &format!("{key}k"), vec![]).await, "1024");
    other(view.get(&cart, "").await, "1024");
    other(view.get_many(&cart, vec![key; MAX_BATCH]).await, "8 MiB");
    other(view.get_many(&cart, vec!["k".into(); MAX_BATCH + 1]).await, "1000");
    let entries = vec![("good".to_owned(), vec![]), (String::new(), vec![])];
    other(view.set_many(&cart, entries).await, "1024");
    assert_eq!(view.get(&cart, "good").await.unwrap(), None, "a batch with a bad key changes nothing");
}

#[tokio::test]
async fn a_lost_swap_gives_a_handle_that_wins() {
    let (ctx, mut table) = (ctx(), ResourceTable::new());
    let mut view = KeyValueView { ctx: &ctx, table: &mut table };
    let cart = view.open("cart").unwrap();
    let name = view.name(&cart).unwrap();
    let cas = view.cas(name.clone(), "n".into()).await.unwrap();
    view.set(&cart, "n", b"theirs".to_vec()).await.unwrap();
    let fresh = view.swap(cas, b"mine".to_vec()).await.unwrap().expect("the key was changed meanwhile");
    assert_eq!(view.current(&fresh).await.unwrap().unwrap(), "theirs");
    assert!(view.swap(fresh, b"mine".to_vec()).await.unwrap().is_none());
    assert_eq!(view.get(&cart, "n").await.unwrap().unwrap(), "mine");
}

#[tokio::test]
async fn pages_through_all_keys_in_both_drafts() {
    use super::{draft, draft2};
    let (ctx, mut table) = (ctx(), ResourceTable::new());
    let mut view = KeyValueView { ctx: &ctx, table: &mut table };
    let cart = view.open("cart").unwrap();
    for n in 0..2_500 {
        view.set(&cart, &format!("{n:05}"), vec![]).await.unwrap();
    }
    let again = || wasmtime::component::Resource::new_borrow(cart.rep());
    let (mut cursor, mut seen) = (None, 0);
    loop {
        let page = draft::store::HostBucket::list_keys(&mut view, again(), cursor).await.unwrap();
        seen += page.keys.len();
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, 2_500);
    let (mut cursor, mut seen) = (None, 0);
    loop {
        let page = draft2::store::HostBucket::list_keys(&mut view, again(), cursor).await.unwrap();
        seen += page.keys.len();
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, 2_500);
    other(draft::store::HostBucket::list_keys(&mut view, again(), Some(99)).await, "cursor 99");
}

#[test]
fn links_on_engines_with_and_without_concurrency() {
    struct Guest(KeyValueCtx, ResourceTable);
    for concurrency in [true, false] {
        let engine = Engine::new(Config::new().concurrency_support(concurrency)).unwrap();
        let mut linker = Linker::<Guest>::new(&engine);
        add_to_linker(&mut linker, |Guest(ctx, table)| KeyValueView { ctx, table }).unwrap();
    }
}
