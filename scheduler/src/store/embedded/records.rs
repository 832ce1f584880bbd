//! One redb database of versioned records, shared by the catalog and the guests' key-value stores.
//!
//! Reads happen where they are asked for: a page is in a cache or one `pread` away. Writes go to one writer that commits
//! many of them together (see the writer module). Every write takes the next number of a counter that is committed with it, so
//! no version of a key ever comes twice. Bounds: the page cache given at opening; scans stop at the limit they are given.

use bytes::Bytes;
use dunlin_api::{StoreError, Version};
use redb::{ReadableDatabase, TableDefinition, WriteTransaction};
use std::{fs::File, sync::Arc};
use tokio::sync::broadcast;

use super::{
    OpenError,
    database::{Handle, Place, Wakes},
    unavailable,
    writer::Writer,
};

pub(super) mod follow;
mod write;

pub(super) use write::{Change, Done};
use write::{Op, Writes};

/// (namespace, key) → (version, value).
const RECORDS: TableDefinition<'_, (&str, &str), (u64, &[u8])> = TableDefinition::new("records");
/// The counter behind the versions, in its only row.
const COUNTER: TableDefinition<'_, (), u64> = TableDefinition::new("counter");
/// Changes a watcher may lag behind before it has to reload.
const CHANGES: usize = 1_024;

/// A record with its key.
pub(super) struct Found {
    pub(super) key: String,
    pub(super) version: Version,
    pub(super) value: Bytes,
}

/// An open database with its writer.
pub(super) struct Records {
    // Declared before the database: its thread must have ended when the file is closed.
    writer: Writer<Writes>,
    changes: broadcast::Sender<String>,
    database: Arc<Handle>,
    _lock: Arc<File>,
}

impl Records {
    /// `wakes` are told of changes of each namespace that somebody follows.
    pub(super) fn open(
        place: &Place,
        cache_bytes: usize,
        wakes: Arc<Wakes>,
        lock: Arc<File>,
    ) -> Result<Self, OpenError> {
        let database = Arc::new(Handle::open(place, cache_bytes, create_tables)?);
        let (changes, _) = broadcast::channel(CHANGES);
        let writer = Writer::start(database.clone(), Writes { changes: changes.clone(), wakes });
        let writer = writer.map_err(|e| place.refuse(e))?;
        Ok(Self { writer, changes, database, _lock: lock })
    }

    /// Changed keys of every namespace, in order of their commits.
    pub(super) fn changes(&self) -> broadcast::Receiver<String> {
        self.changes.subscribe()
    }

    pub(super) fn get(&self, namespace: &str, key: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.get()?.begin_read()?.open_table(RECORDS)?;
            let found = table.get((namespace, key))?;
            Ok(found.map(|guard| {
                let (version, value) = guard.value();
                (Bytes::copy_from_slice(value), version)
            }))
        };
        read().map_err(|e| unavailable("reading a record", e))
    }

    /// Up to `limit` records of `namespace` whose keys begin with `prefix` and come after `after`, in order.
    pub(super) fn scan(
        &self,
        namespace: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Found>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.get()?.begin_read()?.open_table(RECORDS)?;
            let mut found = Vec::new();
            for row in table.range((namespace, after.unwrap_or(prefix))..)? {
                let (row_key, row_value) = row?;
                let (space, key) = row_key.value();
                if space != namespace || !key.starts_with(prefix) || found.len() == limit {
                    break;
                }
                if Some(key) != after {
                    let (version, value) = row_value.value();
                    found.push(Found { key: key.to_owned(), version, value: Bytes::copy_from_slice(value) });
                }
            }
            Ok(found)
        };
        read().map_err(|e| unavailable("listing records", e))
    }

    /// The keys alone, see [`Records::scan`]: values may be large.
    pub(super) fn keys(&self, namespace: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.get()?.begin_read()?.open_table(RECORDS)?;
            let mut found = Vec::new();
            for row in table.range((namespace, after.unwrap_or(""))..)? {
                let (row_key, _) = row?;
                let (space, key) = row_key.value();
                if space != namespace || found.len() == limit {
                    break;
                }
                if Some(key) != after {
                    found.push(key.to_owned());
                }
            }
            Ok(found)
        };
        read().map_err(|e| unavailable("listing keys", e))
    }

    /// Queues one write and waits until it is on the disk. A write that was queued happens even if the caller leaves.
    pub(super) async fn write(&self, namespace: &str, key: &str, change: Change) -> Result<Done, StoreError> {
        let size = match &change {
            Change::Set(value) | Change::Swap(_, value) => value.len(),
            Change::Delete(_) | Change::Increment(_) | Change::Follower(_) => 0,
        };
        self.writer.write(op(namespace, key, change), size).await
    }

    /// As [`Records::write`] for a small write that waits for room.
    async fn settle(&self, namespace: &str, key: &str, change: Change) -> Result<(), StoreError> {
        self.writer.settle(op(namespace, key, change)).await.map(|_| ())
    }

    /// Leaves a small write to the next commit.
    async fn later(&self, namespace: &str, key: &str, change: Change) -> Result<(), StoreError> {
        self.writer.later(op(namespace, key, change)).await
    }
}

fn op(namespace: &str, key: &str, change: Change) -> Op {
    Op { namespace: namespace.into(), key: key.into(), change }
}

fn create_tables(to: &WriteTransaction) -> Result<(), redb::Error> {
    to.open_table(RECORDS)?;
    to.open_table(COUNTER)?;
    follow::create_tables(to)
}
