//! [`KeyValue`] over a redb database: the stores that guests open.

use bytes::Bytes;
use dunlin_api::{BoxFuture, KeyValue, StoreError, Version};
use futures::future;
use std::sync::Arc;

use super::{
    records::{Change, Done, Records},
    unavailable,
};
use crate::store::{KEYS_PER_PAGE, check_key, check_value};

/// The guests' stores of a node that stands alone.
pub struct EmbeddedKeyValue(Arc<Records>);

impl EmbeddedKeyValue {
    pub(super) fn new(records: Records) -> Self {
        Self(Arc::new(records))
    }

    /// The database, for those who follow changes.
    pub(super) fn records(&self) -> Arc<Records> {
        self.0.clone()
    }

    async fn change(&self, store: &str, key: &str, change: Change) -> Result<Done, StoreError> {
        check_key(store, key)?;
        if let Change::Set(value) | Change::Swap(_, value) = &change {
            check_value(value)?;
        }
        self.0.write(store, key, change).await
    }
}

impl KeyValue for EmbeddedKeyValue {
    fn get<'a>(&'a self, store: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<(Bytes, Version)>, StoreError>> {
        Box::pin(future::ready(check_key(store, key).and_then(|()| self.0.get(store, key))))
    }

    fn set<'a>(&'a self, store: &'a str, key: &'a str, value: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.change(store, key, Change::Set(value)).await.map(|_| ()) })
    }

    fn delete<'a>(&'a self, store: &'a str, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.change(store, key, Change::Delete(None)).await.map(|_| ()) })
    }

    fn swap<'a>(
        &'a self,
        store: &'a str,
        key: &'a str,
        expected: Option<Version>,
        value: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.change(store, key, Change::Swap(expected, value)).await.map(|_| ()) })
    }

    fn increment<'a>(&'a self, store: &'a str, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, StoreError>> {
        Box::pin(async move { Ok(self.change(store, key, Change::Increment(delta)).await?.sum) })
    }

    fn keys<'a>(&'a self, store: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        Box::pin(async move {
            // Any text is a fine place to go on from; only the store's name is checked.
            check_key(store, "-")?;
            let (records, store, after) = (self.0.clone(), store.to_owned(), after.map(str::to_owned));
            let page = tokio::task::spawn_blocking(move || records.keys(&store, after.as_deref(), KEYS_PER_PAGE));
            page.await.map_err(|e| unavailable("listing keys", e))?
        })
    }
}
