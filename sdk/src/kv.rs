//! Key-value stores (`wasi:keyvalue` 0.2.0-draft: store, atomics, batch).
//!
//! For functions whose manifest grants stores: `kv = ["links"]`. A function sees its own writes; single calls are atomic,
//! [`increment`](Store::increment) among all callers, and the calls on several keys are not atomic together. Sizes of keys
//! and values are bounded by the host.

use std::fmt;

/// The generated bindings of the imported interfaces.
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated from the WIT")]
mod bindings {
    wit_bindgen::generate!({ path: "wit/deps/keyvalue", world: "imports", generate_all });
}

use bindings::wasi::keyvalue::{atomics, batch, store};

/// One open store.
pub struct Store(store::Bucket);

impl Store {
    /// Opens the store of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchStore`] or [`Error::AccessDenied`] when the manifest does not grant it.
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self(store::open(name)?))
    }

    /// The value of `key`, if it has one.
    ///
    /// # Errors
    /// [`Error::Other`] when the store cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(key)?)
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// [`Error::Other`] when the store cannot be written, or key or value are too long for it.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        Ok(self.0.set(key, value.as_ref())?)
    }

    /// Removes `key`; it need not exist.
    ///
    /// # Errors
    /// [`Error::Other`] when the store cannot be written.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        Ok(self.0.delete(key)?)
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// [`Error::Other`] when the store cannot be read.
    pub fn exists(&self, key: &str) -> Result<bool, Error> {
        Ok(self.0.exists(key)?)
    }

    /// One page of the keys, in the store's order, and the cursor of the next page. Start with `None`.
    ///
    /// # Errors
    /// [`Error::Other`] when the store cannot be read.
    pub fn keys(&self, cursor: Option<u64>) -> Result<(Vec<String>, Option<u64>), Error> {
        let page = self.0.list_keys(cursor)?;
        Ok((page.keys, page.cursor))
    }

    /// Adds `delta` to the number at `key` (0 when it has none) and returns the sum, atomically.
    ///
    /// # Errors
    /// [`Error::Other`] when the value is not a number that `increment` wrote, or the sum does not fit.
    pub fn increment(&self, key: &str, delta: u64) -> Result<u64, Error> {
        Ok(atomics::increment(&self.0, key, delta)?)
    }

    /// The values of several keys in one call; keys without a value are left out.
    ///
    /// # Errors
    /// [`Error::Other`] when the store cannot be read.
    pub fn get_many(&self, keys: &[String]) -> Result<Vec<(String, Vec<u8>)>, Error> {
        Ok(batch::get_many(&self.0, keys)?.into_iter().flatten().collect())
    }

    /// Sets several values in one call.
    ///
    /// # Errors
    /// [`Error::Other`] when the store cannot be written; some of the values may have been.
    pub fn set_many(&self, values: &[(String, Vec<u8>)]) -> Result<(), Error> {
        Ok(batch::set_many(&self.0, values)?)
    }

    /// Removes several keys in one call.
    ///
    /// # Errors
    /// [`Error::Other`] when the store cannot be written; some of the keys may have been removed.
    pub fn delete_many(&self, keys: &[String]) -> Result<(), Error> {
        Ok(batch::delete_many(&self.0, keys)?)
    }
}

/// Why a store did not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no store of this name for this function.
    NoSuchStore,
    /// The store exists, and this function may not use it so.
    AccessDenied,
    /// Anything else, in the host's words.
    Other(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NoSuchStore => Self::NoSuchStore,
            store::Error::AccessDenied => Self::AccessDenied,
            store::Error::Other(message) => Self::Other(message),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchStore => out.write_str("no such key-value store: grant it with `kv` in dunlin.toml"),
            Self::AccessDenied => out.write_str("access to the key-value store is denied"),
            Self::Other(message) => write!(out, "key-value store: {message}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    #[test]
    fn the_runtime_links_the_same_interfaces() {
        let root = env!("CARGO_MANIFEST_DIR");
        let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).expect(path);
        assert_eq!(read("wit/deps/keyvalue/keyvalue.wit"), read("../runtime/wit/deps/keyvalue/keyvalue.wit"));
    }
}
