//! What the cluster needs from its stores, whichever stand behind them: a catalog of small records with compare-and-set
//! and watch, and artifacts by SHA-256. Guests' key-value stores are [`dunlin_api::KeyValue`].
//!
//! Called by [`crate::catalog`], [`crate::deploy`] and [`crate::admin`]; provided by [`embedded`] for a node that stands
//! alone and by [`nats`] for a cluster. The shapes are those of JetStream KV (revision as version, compare-and-set, watch)
//! and Object Store. What an implementation acknowledged survives `kill -9`.
//! Bounds: keys and values below, a watcher that lags is told to reload, an upload stops at the size it was given.

use bytes::Bytes;
use dunlin_api::{Artifacts, BodyError, BoxFuture, ByteSize, Digest, StoreError, Version};
use futures::stream::BoxStream;
use std::time::SystemTime;

pub mod embedded;
pub mod events;
pub mod nats;

/// Largest value of a guest's key: JetStream's default payload with room for subject and headers, so that a store may be
/// moved to a cluster.
pub const MAX_VALUE_BYTES: usize = (1 << 20) - (8 << 10);
/// Longest key of a guest.
pub const MAX_KEY_BYTES: usize = 1_024;
/// Keys in one answer of [`dunlin_api::KeyValue::keys`].
pub const KEYS_PER_PAGE: usize = 1_000;
/// Largest record of the catalog: the settings in a deploy request are bounded to the same.
pub const MAX_RECORD_BYTES: usize = (1 << 20) - (8 << 10);

/// One record of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Tokens of `a-z`, `0-9` and `-`, joined by `/`.
    pub key: String,
    /// The record.
    pub value: Bytes,
    /// Names this state of it.
    pub version: Version,
}

/// What a watcher learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This key was written or deleted; read it to learn which.
    Key(String),
    /// Changes were missed: whatever was read before may be old.
    Reload,
}

/// Changes in the order they were committed, beginning when the watch was made.
pub type Watch = BoxStream<'static, Change>;

/// Small records with compare-and-set. Versions of one key never repeat, also not after a deletion.
pub trait CatalogStore: Send + Sync + 'static {
    /// The record at `key`.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<(Bytes, Version)>, StoreError>>;

    /// Writes `key` if its version still is `expected` (none = it must not exist) and returns the new version.
    ///
    /// # Errors
    /// `Conflict` if it is not, `Invalid` for a value over [`MAX_RECORD_BYTES`], `Unavailable`.
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expected: Option<Version>,
    ) -> BoxFuture<'a, Result<Version, StoreError>>;

    /// Deletes `key` if its version still is `expected`.
    ///
    /// # Errors
    /// `Conflict` if it is not, also when it is gone already; `Unavailable`.
    fn delete<'a>(&'a self, key: &'a str, expected: Version) -> BoxFuture<'a, Result<(), StoreError>>;

    /// All records whose key begins with `prefix`, in order of their keys. A prefix ends with `/`.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Record>, StoreError>>;

    /// Follows all keys. What was committed before is not reported: watch first, then list.
    fn watch(&self) -> BoxFuture<'_, Result<Watch, StoreError>>;
}

/// What arrives of an upload.
pub type ByteStream<'a> = BoxStream<'a, Result<Bytes, BodyError>>;

/// Whether an upload added something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was not there before.
    New,
    /// The same bytes were there already.
    Known,
}

/// Why an upload was not kept. Nothing of it stays behind.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// More bytes came than this node takes.
    #[error("the artifact is larger than {limit}, the most that this node takes")]
    TooLarge {
        /// The limit.
        limit: ByteSize,
    },
    /// The bytes are not those that were announced.
    #[error("the uploaded bytes have the digest {actual}, not {expected}")]
    WrongDigest {
        /// What the caller announced.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The upload broke off.
    #[error("the upload broke off: {0}")]
    Source(BodyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One artifact in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArtifactInfo {
    /// What it is called.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was last uploaded or asked for by [`ArtifactStore::touch`]; sweeping spares the young.
    pub used: SystemTime,
}

/// Components by SHA-256.
pub trait ArtifactStore: Artifacts {
    /// Keeps what `bytes` yields if it has this digest and is not larger than `max`; visible only when complete. An
    /// artifact that was corrupt is replaced.
    fn put<'a>(
        &'a self,
        digest: Digest,
        bytes: ByteStream<'a>,
        max: ByteSize,
    ) -> BoxFuture<'a, Result<Stored, PutError>>;

    /// The size of an artifact that is there and intact, and marks it as used now. A corrupt one counts as absent, so
    /// that it is uploaded again.
    fn touch(&self, digest: Digest) -> BoxFuture<'_, Result<Option<u64>, StoreError>>;

    /// Removes an artifact; an absent one is no error.
    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Every artifact, in no order.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ArtifactInfo>, StoreError>>;
}

/// Checks what every key-value store refuses in the same words: the name of the store and the size of the key.
///
/// # Errors
/// `Invalid`, naming the limit.
pub fn check_key(store: &str, key: &str) -> Result<(), StoreError> {
    if store.parse::<dunlin_api::FunctionName>().is_err() {
        let shown: String = store.escape_debug().take(80).collect();
        return Err(StoreError::Invalid(format!("`{shown}` is not the name of a key-value store")));
    }
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let size = key.len();
        return Err(StoreError::Invalid(format!("a key has {size} bytes: it must have 1 to {MAX_KEY_BYTES}")));
    }
    Ok(())
}

/// Checks the size of a guest's value.
///
/// # Errors
/// `Invalid`, naming the limit.
pub fn check_value(value: &[u8]) -> Result<(), StoreError> {
    if value.len() > MAX_VALUE_BYTES {
        let size = value.len();
        return Err(StoreError::Invalid(format!("a value has {size} bytes: it may have at most {MAX_VALUE_BYTES}")));
    }
    Ok(())
}
