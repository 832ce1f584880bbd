//! `wasi:keyvalue` over whatever store stands behind [`dunlin_api::KeyValue`].
//!
//! The sandbox makes one [`KeyValueCtx`] per revision and links [`add_to_linker`] once per engine. Two drafts of the
//! standard are in use and both are served: `0.2.0-draft` (in `draft`) and `0.2.0-draft2` (in `draft2`), which adds
//! compare-and-swap. A guest opens only the stores its manifest grants; every later call goes through a bucket it
//! opened. Bounds: keys of [`MAX_KEY`] bytes, values of [`MAX_VALUE`], batches of [`MAX_BATCH`] keys and
//! [`MAX_BATCH_BYTES`]; handles live in the store's resource table and count against its capacity.

mod draft;
mod draft2;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use dunlin_api::{KeyValue, StoreError, Version};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

/// Bytes of one value. A value crosses the sandbox's border as a copy on each side.
pub const MAX_VALUE: usize = 1 << 20;
/// Bytes of one key.
pub const MAX_KEY: usize = 1_024;
/// Keys in one batch call.
pub const MAX_BATCH: usize = 1_000;
/// Bytes that one `get-many` may return, which the host holds all at once.
pub const MAX_BATCH_BYTES: usize = 8 << 20;

/// What a revision may do with key-value stores. Shared by all its stores.
#[derive(Clone)]
pub struct KeyValueCtx {
    /// Where the entries are.
    pub store: Arc<dyn KeyValue>,
    /// The stores that the revision may open (`settings.kv`).
    pub granted: Arc<[String]>,
}

/// What host functions work on: the revision's grant and the handles of one store.
pub struct KeyValueView<'a> {
    /// The revision's grant.
    pub ctx: &'a KeyValueCtx,
    /// The store's handles.
    pub table: &'a mut ResourceTable,
}

/// An open store.
pub struct Bucket {
    name: Arc<str>,
    cursors: draft::Cursors,
}

/// A key and the version that a swap will replace.
pub struct Cas {
    bucket: Arc<str>,
    key: String,
    version: Option<Version>,
}

/// Names [`KeyValueView`] as the data of these host functions.
struct HasKeyValue;

impl HasData for HasKeyValue {
    type Data<'a> = KeyValueView<'a>;
}

/// Offers both drafts on an engine, with component-model concurrency or without.
///
/// # Errors
/// If `linker` has one of the interfaces already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> KeyValueView<'_>,
) -> wasmtime::Result<()> {
    draft::add_to_linker(linker, view)?;
    draft2::add_to_linker(linker, view)
}

/// Why a call failed, in the standard's three cases.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// Nothing is known by that name.
    NoSuchStore,
    /// The manifest does not grant it.
    AccessDenied,
    /// Anything else, in words for the function's author.
    Other(String),
}

impl From<ResourceTableError> for Error {
    fn from(error: ResourceTableError) -> Self {
        Self::Other(format!("the handle is not usable: {error}"))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(_) => Self::NoSuchStore,
            StoreError::Invalid(_) | StoreError::Conflict(_) => Self::Other(error.to_string()),
            StoreError::Corrupt(..) | StoreError::Unavailable(_) => {
                // What failed is the operator's business, not the guest's.
                tracing::warn!(%error, "a key-value store failed");
                Self::Other("the store is not available now".into())
            }
        }
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// The operations, once for both drafts.
impl KeyValueView<'_> {
    fn open(&mut self, name: &str) -> Result<Resource<Bucket>> {
        if name.is_empty() {
            return Err(Error::NoSuchStore);
        }
        if !self.ctx.granted.iter().any(|granted| granted == name) {
            return Err(Error::AccessDenied);
        }
        Ok(self.table.push(Bucket { name: name.into(), cursors: draft::Cursors::default() })?)
    }

    fn name(&self, bucket: &Resource<Bucket>) -> Result<Arc<str>> {
        Ok(Arc::clone(&self.table.get(bucket)?.name))
    }

    async fn get(&mut self, bucket: &Resource<Bucket>, key: &str) -> Result<Option<Bytes>> {
        let name = self.name(bucket)?;
        check_key(key)?;
        Ok(self.ctx.store.get(&name, key).await?.map(|(value, _)| value))
    }

    async fn set(&mut self, bucket: &Resource<Bucket>, key: &str, value: Vec<u8>) -> Result<()> {
        let name = self.name(bucket)?;
        check_key(key)?;
        check_value(&value)?;
        Ok(self.ctx.store.set(&name, key, value.into()).await?)
    }

    async fn delete(&mut self, bucket: &Resource<Bucket>, key: &str) -> Result<()> {
        let name = self.name(bucket)?;
        check_key(key)?;
        Ok(self.ctx.store.delete(&name, key).await?)
    }

    /// One page of keys after `after`, and the key to continue after if there may be more.
    async fn keys(&mut self, bucket: &Resource<Bucket>, after: Option<&str>) -> Result<(Vec<String>, Option<String>)> {
        /// What the store promises to return unless there are no more.
        const PAGE: usize = 1_000;
        let name = self.name(bucket)?;
        let keys = self.ctx.store.keys(&name, after).await?;
        let next = (keys.len() >= PAGE).then(|| keys.last().cloned()).flatten();
        Ok((keys, next))
    }

    async fn increment(&mut self, bucket: &Resource<Bucket>, key: &str, delta: i64) -> Result<i64> {
        let name = self.name(bucket)?;
        check_key(key)?;
        Ok(self.ctx.store.increment(&name, key, delta).await?)
    }

    async fn get_many(&mut self, bucket: &Resource<Bucket>, keys: Vec<String>) -> Result<Vec<(String, Option<Bytes>)>> {
        check_batch(keys.len())?;
        let (mut entries, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let value = self.get(bucket, &key).await?;
            bytes += value.as_ref().map_or(0, Bytes::len);
            if bytes > MAX_BATCH_BYTES {
                return Err(Error::Other(format!("one get-many returns at most {} MiB", MAX_BATCH_BYTES >> 20)));
            }
            entries.push((key, value));
        }
        Ok(entries)
    }

    async fn set_many(&mut self, bucket: &Resource<Bucket>, entries: Vec<(String, Vec<u8>)>) -> Result<()> {
        check_batch(entries.len())?;
        // All are checked before any is set, so that a batch with one bad entry changes nothing.
        for (key, value) in &entries {
            check_key(key)?;
            check_value(value)?;
        }
        for (key, value) in entries {
            self.set(bucket, &key, value).await?;
        }
        Ok(())
    }

    async fn delete_many(&mut self, bucket: &Resource<Bucket>, keys: Vec<String>) -> Result<()> {
        check_batch(keys.len())?;
        keys.iter().try_for_each(|key| check_key(key))?;
        for key in keys {
            self.delete(bucket, &key).await?;
        }
        Ok(())
    }

    async fn cas(&mut self, bucket: Arc<str>, key: String) -> Result<Resource<Cas>> {
        check_key(&key)?;
        let version = self.ctx.store.get(&bucket, &key).await?.map(|(_, version)| version);
        Ok(self.table.push(Cas { bucket, key, version })?)
    }

    /// The value now; the swap will replace exactly this one.
    async fn current(&mut self, cas: &Resource<Cas>) -> Result<Option<Bytes>> {
        let cas = self.table.get_mut(cas)?;
        let (value, version) = self.ctx.store.get(&cas.bucket, &cas.key).await?.unzip();
        cas.version = version;
        Ok(value)
    }

    /// Whether the swap took place; if it did not, a handle on the version that won.
    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> Result<Option<Resource<Cas>>> {
        let Cas { bucket, key, version } = self.table.delete(cas)?;
        check_value(&value)?;
        match self.ctx.store.swap(&bucket, &key, version, value.into()).await {
            Ok(()) => Ok(None),
            Err(StoreError::Conflict(_)) => self.cas(bucket, key).await.map(Some),
            Err(error) => Err(error.into()),
        }
    }
}

fn check_key(key: &str) -> Result<()> {
    match key.len() {
        1..=MAX_KEY => Ok(()),
        n => Err(Error::Other(format!("a key has 1 to {MAX_KEY} bytes, not {n}"))),
    }
}

fn check_value(value: &[u8]) -> Result<()> {
    match value.len() {
        ..=MAX_VALUE => Ok(()),
        n => Err(Error::Other(format!("a value has at most {MAX_VALUE} bytes, not {n}"))),
    }
}

fn check_batch(len: usize) -> Result<()> {
    match len {
        ..=MAX_BATCH => Ok(()),
        n => Err(Error::Other(format!("a batch has at most {MAX_BATCH} keys, not {n}"))),
    }
}
