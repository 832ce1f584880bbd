//! The stores of a node that stands alone: redb databases, and directories of artifacts and of blobs.
//!
//! Opened once by the node; its parts ([`Embedded::catalog`] and so on, [`Embedded::events`]) are handed to those who need
//! them. One process may hold a data directory at a time. Whatever was acknowledged is on the disk: a
//! `kill -9` at any moment leaves the state before a write or the one after it, and opening again needs no repair run.
//! Bounds: the page caches below, per database the write queue of the writer module, and those of the queue module.

use dunlin_api::StoreError;
use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::ScopedJoinHandle,
};

use super::events::EventStores;
use database::{Place, Wakes};
use queue::Queue;
use records::Records;

mod artifacts;
mod blobs;
mod bus;
mod catalog;
mod database;
mod keyvalue;
mod queue;
mod records;
mod streams;
mod upload;
mod writer;

pub use artifacts::EmbeddedArtifacts;
pub use blobs::EmbeddedBlobs;
pub use bus::EmbeddedBus;
pub use catalog::EmbeddedCatalog;
pub use keyvalue::EmbeddedKeyValue;
pub use streams::EmbeddedStreams;

/// The catalog is read whole at start and rarely afterwards.
const CATALOG_CACHE_BYTES: usize = 4 << 20;
/// Enough for the upper pages of a store of some gigabytes; the kernel caches the file as well.
const KEYVALUE_CACHE_BYTES: usize = 32 << 20;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another node uses the data directory {0}: stop it, or choose another directory with --data")]
    InUse(PathBuf),
    /// The directory or a file in it cannot be made or read.
    #[error("the data directory {path} cannot be used: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A database in it cannot be opened.
    #[error("the database {path} cannot be opened: {reason}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
}

/// The open data directory. Closing the last handle of each store ends its writer after the queued writes.
pub struct Embedded {
    catalog: Arc<EmbeddedCatalog>,
    keyvalue: Arc<EmbeddedKeyValue>,
    artifacts: Arc<EmbeddedArtifacts>,
    streams: Arc<EmbeddedStreams>,
    bus: Arc<EmbeddedBus>,
    blobs: Arc<EmbeddedBlobs>,
    records: Arc<EmbeddedCatalog>,
}

impl Embedded {
    /// Opens `dir`, creating what is missing, and removes the remains of uploads that a crash cut off. Blocks on the disk
    /// for some milliseconds: call it before serving, or in `spawn_blocking`.
    ///
    /// # Errors
    /// Says which directory or file, and why.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        Self::open_as(dir, true)
    }

    /// As [`Embedded::open`] for data that nobody needs after this process: the databases stand in memory, and nothing waits
    /// for a disk. Artifacts and blobs are still files in `dir`.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_volatile(dir: &Path) -> Result<Self, OpenError> {
        Self::open_as(dir, false)
    }

    fn open_as(dir: &Path, durable: bool) -> Result<Self, OpenError> {
        let place = |file| if durable { Place::File(dir.join(file)) } else { Place::Memory };
        let io = |source| OpenError::Io { path: dir.to_owned(), source };
        create_private(dir).map_err(io)?;
        let lock = Arc::new(lock(dir)?);
        let artifacts = EmbeddedArtifacts::open(dir.join("artifacts"), durable, lock.clone()).map_err(io)?;
        let blobs = EmbeddedBlobs::open(dir.join("blobs"), durable, lock.clone()).map_err(io)?;
        let wakes = Arc::new(Wakes::default());
        let open = |file, cache| Records::open(&place(file), cache, wakes.clone(), lock.clone());
        // Side by side: each waits for the disk several times.
        let (catalog, outcomes, keyvalue, queue) = std::thread::scope(|threads| {
            let catalog = threads.spawn(|| open("catalog.redb", CATALOG_CACHE_BYTES));
            let outcomes = threads.spawn(|| open("outcomes.redb", CATALOG_CACHE_BYTES));
            let keyvalue = threads.spawn(|| open("keyvalue.redb", KEYVALUE_CACHE_BYTES));
            let queue = Queue::open(&place("queue.redb"), wakes.clone(), lock.clone());
            (opened(catalog), opened(outcomes), opened(keyvalue), queue)
        });
        let (catalog, outcomes, queue) = (catalog?, outcomes?, Arc::new(queue?));
        let keyvalue = EmbeddedKeyValue::new(keyvalue?);
        // The files' names must survive a power loss as their contents do.
        if durable {
            sync_dir(dir).map_err(io)?;
        }
        Ok(Self {
            streams: Arc::new(EmbeddedStreams::new(queue.clone(), keyvalue.records())),
            bus: Arc::new(EmbeddedBus::new(queue)),
            blobs: Arc::new(blobs),
            records: Arc::new(EmbeddedCatalog::new(outcomes)),
            catalog: Arc::new(EmbeddedCatalog::new(catalog)),
            keyvalue: Arc::new(keyvalue),
            artifacts: Arc::new(artifacts),
        })
    }

    /// The catalog's records.
    pub fn catalog(&self) -> Arc<EmbeddedCatalog> {
        self.catalog.clone()
    }

    /// The guests' key-value stores.
    pub fn keyvalue(&self) -> Arc<EmbeddedKeyValue> {
        self.keyvalue.clone()
    }

    /// The artifacts.
    pub fn artifacts(&self) -> Arc<EmbeddedArtifacts> {
        self.artifacts.clone()
    }

    /// Durable messages.
    pub fn streams(&self) -> Arc<EmbeddedStreams> {
        self.streams.clone()
    }

    /// Subjects.
    pub fn bus(&self) -> Arc<EmbeddedBus> {
        self.bus.clone()
    }

    /// Large bodies.
    pub fn blobs(&self) -> Arc<EmbeddedBlobs> {
        self.blobs.clone()
    }

    /// Outcomes of calls, and small marks, in a database of their own: the catalog is read whole at start.
    pub fn records(&self) -> Arc<EmbeddedCatalog> {
        self.records.clone()
    }

    /// What events stand on.
    pub fn events(&self) -> EventStores {
        EventStores { streams: self.streams(), bus: self.bus(), blobs: self.blobs(), records: self.records() }
    }
}

fn opened(thread: ScopedJoinHandle<'_, Result<Records, OpenError>>) -> Result<Records, OpenError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Creates `dir` for this user only: it holds guests' data and settings with secrets in them.
fn create_private(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    #[cfg(unix)]
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// Takes the directory for this process. Every store keeps the lock, so it ends with the last of them or the process.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { path: dir.to_owned(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Makes the names in `dir` durable: a rename is only then safe from a power loss.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A failure that says what was being done.
fn unavailable(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("{what}: {error}"))
}
