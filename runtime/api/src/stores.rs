//! What a running function needs from the stores, whichever stand behind them.

use bytes::Bytes;
use std::{future::Future, pin::Pin};

use crate::Digest;

/// A boxed future, for the traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such entry.
    #[error("{0} does not exist")]
    NotFound(String),
    /// A compare-and-set found another version than the expected one.
    #[error("{0} was changed by someone else meanwhile")]
    Conflict(String),
    /// The bytes are not what they should be.
    #[error("{0} is corrupt: {1}")]
    Corrupt(String, String),
    /// The request itself cannot be served: a key or a value over its limit.
    #[error("{0}")]
    Invalid(String),
    /// The store cannot be reached or its medium fails.
    #[error("the store failed: {0}")]
    Unavailable(String),
}

/// Where components come from.
pub trait Artifacts: Send + Sync + 'static {
    /// The bytes whose SHA-256 is `digest`, verified.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` when the stored bytes have another digest, `Unavailable`.
    fn fetch(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, StoreError>>;
}

/// Names one state of a key, for compare-and-set; greater is later.
pub type Version = u64;

/// Key-value stores for guests (`wasi:keyvalue`). Store names were checked against the function's grant before.
pub trait KeyValue: Send + Sync + 'static {
    /// The value of `key` with its version, or none.
    fn get<'a>(&'a self, store: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<(Bytes, Version)>, StoreError>>;

    /// Sets `key` to `value`, whatever it was.
    fn set<'a>(&'a self, store: &'a str, key: &'a str, value: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Removes `key`; absent keys are no error.
    fn delete<'a>(&'a self, store: &'a str, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Sets `key` to `value` only if its version still is `expected` (none = it must not exist).
    ///
    /// # Errors
    /// `Conflict` if it is not.
    fn swap<'a>(
        &'a self,
        store: &'a str,
        key: &'a str,
        expected: Option<Version>,
        value: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Adds `delta` to the decimal integer at `key` (absent = 0) in one step and returns the sum.
    ///
    /// # Errors
    /// `Invalid` if the value is not a decimal integer or the sum overflows.
    fn increment<'a>(&'a self, store: &'a str, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, StoreError>>;

    /// Up to 1,000 keys in order, those after `after`; fewer than 1,000 means that these were the last.
    fn keys<'a>(&'a self, store: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>, StoreError>>;
}
