//! [`CatalogStore`] over a redb database.

use bytes::Bytes;
use dunlin_api::{BoxFuture, StoreError, Version};
use futures::{StreamExt, future};
use std::sync::Arc;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{
    records::{Change as Write, Records},
    unavailable,
};
use crate::store::{CatalogStore, Change, MAX_RECORD_BYTES, Record, Watch};

/// All records are in one namespace; guests' stores are in a database of their own.
const NAMESPACE: &str = "";

/// The catalog of a node that stands alone.
pub struct EmbeddedCatalog(Arc<Records>);

impl EmbeddedCatalog {
    pub(super) fn new(records: Records) -> Self {
        Self(Arc::new(records))
    }
}

impl CatalogStore for EmbeddedCatalog {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<(Bytes, Version)>, StoreError>> {
        Box::pin(future::ready(self.0.get(NAMESPACE, key)))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Option<Version>,
    ) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move {
            if value.len() > MAX_RECORD_BYTES {
                let size = value.len();
                let reason = format!("the record `{key}` has {size} bytes: it may have at most {MAX_RECORD_BYTES}");
                return Err(StoreError::Invalid(reason));
            }
            let done = self.0.write(NAMESPACE, key, Write::Swap(expected, value)).await?;
            Ok(done.version)
        })
    }

    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.0.write(NAMESPACE, key, Write::Delete(Some(expected))).await?;
            Ok(())
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Record>, StoreError>> {
        let (records, prefix) = (self.0.clone(), prefix.to_owned());
        Box::pin(async move {
            let scan = tokio::task::spawn_blocking(move || records.scan(NAMESPACE, &prefix, None, usize::MAX));
            let found = scan.await.map_err(|e| unavailable("listing records", e))??;
            Ok(found.into_iter().map(|r| Record { key: r.key, value: r.value, version: r.version }).collect())
        })
    }

    fn watch(&self) -> BoxFuture<'_, Result<Watch, StoreError>> {
        let changes = BroadcastStream::new(self.0.changes());
        let changes = changes.map(|change| match change {
            Ok(key) => Change::Key(key),
            Err(BroadcastStreamRecvError::Lagged(_)) => Change::Reload,
        });
        Box::pin(future::ready(Ok(changes.boxed())))
    }
}
