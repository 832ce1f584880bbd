//! The file of a redb database, and those who wait for what is written to it.

use arc_swap::ArcSwapOption;
use redb::{Database, backends::InMemoryBackend};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Notify;

use super::OpenError;

/// Where a database stands.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File(PathBuf),
    /// In memory, until it is closed: for data that nobody needs afterwards.
    Memory,
}

impl Place {
    /// Why it cannot be used.
    pub(super) fn refuse(&self, reason: impl std::fmt::Display) -> OpenError {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::Memory => "(in memory)".into(),
        };
        OpenError::Database { path, reason: reason.to_string() }
    }
}

/// The file of a database, open but for the moments in which it is opened again: after an error of the disk, a full one
/// for example, redb takes no more writes until then.
pub(super) struct Handle {
    place: Place,
    cache_bytes: usize,
    open: ArcSwapOption<Database>,
}

impl Handle {
    /// Opens the file, or makes it, and its tables with `create`.
    pub(super) fn open(
        place: &Place,
        cache_bytes: usize,
        create: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<Self, OpenError> {
        let handle = Self { place: place.clone(), cache_bytes, open: ArcSwapOption::empty() };
        let prepare = || -> Result<(), redb::Error> {
            handle.reopen()?;
            let mut transaction = handle.get()?.begin_write()?;
            transaction.set_quick_repair(true);
            create(&transaction)?;
            Ok(transaction.commit()?)
        };
        prepare().map_err(|e| place.refuse(e))?;
        Ok(handle)
    }

    /// The open database.
    pub(super) fn get(&self) -> Result<Arc<Database>, redb::Error> {
        self.open.load_full().ok_or(redb::Error::PreviousIo)
    }

    /// Closes the file if it is open and opens it; fails while a reader still has it.
    pub(super) fn reopen(&self) -> Result<(), redb::Error> {
        self.open.store(None);
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        let database = match &self.place {
            Place::File(path) => builder.create(path)?,
            Place::Memory => builder.create_with_backend(InMemoryBackend::new())?,
        };
        self.open.store(Some(Arc::new(database)));
        Ok(())
    }
}

/// Who waits for new messages, by the name of the log.
#[derive(Default)]
pub(super) struct Wakes(Mutex<HashMap<String, Arc<Notify>>>);

impl Wakes {
    /// What is notified when something is added to `log`.
    pub(super) fn of(&self, log: &str) -> Arc<Notify> {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !logs.contains_key(log) {
            logs.retain(|_, notify| Arc::strong_count(notify) > 1);
        }
        logs.entry(log.to_owned()).or_default().clone()
    }

    /// Wakes those who wait for `log`.
    pub(super) fn wake(&self, log: &str) {
        let logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = logs.get(log) {
            notify.notify_waiters();
        }
    }
}
