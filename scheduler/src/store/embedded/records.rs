//! One redb database of versioned records, shared by the catalog and the guests' key-value stores.
//!
//! Reads happen where they are asked for: a page is in a cache or one `pread` away. Writes go to one writer that commits
//! many of them together (see the writer module). Every write takes the next number of a counter that is committed with it, so
//! no version of a key ever comes twice. Bounds: the page cache given at opening; scans stop at the limit they are given.

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use dunlin_api::{StoreError, Version};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{broadcast, oneshot};

use super::{
    OpenError, unavailable,
    writer::{Change, Done, Writer},
};

/// (namespace, key) → (version, value).
pub(super) const RECORDS: TableDefinition<'_, (&str, &str), (u64, &[u8])> = TableDefinition::new("records");
/// The counter behind the versions, in its only row.
pub(super) const COUNTER: TableDefinition<'_, (), u64> = TableDefinition::new("counter");
/// Changes a watcher may lag behind before it has to reload.
const CHANGES: usize = 1_024;

/// A record with its key.
pub(super) struct Found {
    pub(super) key: String,
    pub(super) version: Version,
    pub(super) value: Bytes,
}

/// The file of a database, open but for the moments in which it is opened again: after an error of the disk, a full one
/// for example, redb takes no more writes until then.
pub(super) struct Handle {
    path: PathBuf,
    cache_bytes: usize,
    open: ArcSwapOption<Database>,
}

impl Handle {
    /// The open database.
    pub(super) fn get(&self) -> Result<Arc<Database>, redb::Error> {
        self.open.load_full().ok_or(redb::Error::PreviousIo)
    }

    /// Closes the file if it is open and opens it; fails while a reader still has it.
    pub(super) fn reopen(&self) -> Result<(), redb::Error> {
        self.open.store(None);
        let database = Database::builder().set_cache_size(self.cache_bytes).create(&self.path)?;
        self.open.store(Some(Arc::new(database)));
        Ok(())
    }
}

/// An open database with its writer.
pub(super) struct Records {
    // Declared before the database: its thread must have ended when the file is closed.
    writer: Writer,
    changes: broadcast::Sender<String>,
    database: Arc<Handle>,
    _lock: Arc<File>,
}

impl Records {
    pub(super) fn open(path: &Path, cache_bytes: usize, lock: Arc<File>) -> Result<Self, OpenError> {
        let failed = |reason: String| OpenError::Database { path: path.to_owned(), reason };
        let database = Arc::new(Handle { path: path.to_owned(), cache_bytes, open: ArcSwapOption::empty() });
        database.reopen().and_then(|()| create_tables(&*database.get()?)).map_err(|e| failed(e.to_string()))?;
        let (changes, _) = broadcast::channel(CHANGES);
        let writer = Writer::start(database.clone(), changes.clone()).map_err(|e| failed(e.to_string()))?;
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
        let (reply, answer) = oneshot::channel();
        self.writer.queue(namespace, key, change, reply)?;
        answer.await.map_err(|_| StoreError::Unavailable("the writer ended before this write".into()))?
    }
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(RECORDS)?;
    transaction.open_table(COUNTER)?;
    transaction.commit()?;
    Ok(())
}
