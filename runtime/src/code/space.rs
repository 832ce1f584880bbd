//! The disk space of compiled code: what to remove when there is too much of it.
//!
//! The store tells what it adds. Directories are only listed when the count says that the space is used up, and then a
//! tenth of it is freed, so that a store of 10,000 files is not listed at every deploy.

use dunlin_api::ByteSize;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

pub(super) struct Space {
    dir: PathBuf,
    capacity: ByteSize,
    /// Bytes in the directory as far as this process knows; none until it has looked.
    used: Mutex<Option<u64>>,
}

/// A file of code.
struct Code {
    last_used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

impl Space {
    pub(super) fn new(dir: PathBuf, capacity: ByteSize) -> Self {
        Self { dir, capacity, used: Mutex::new(None) }
    }

    /// Counts the file `added`; returns what to remove so that the rest fits, the least recently used, never `added`
    /// itself. Mapped code stays mapped: the system keeps a removed file until its last user lets go.
    pub(super) fn added(&self, added: &Path) -> io::Result<Vec<PathBuf>> {
        // A panic leaves a number that the next listing corrects.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &mut *used {
            *known += fs::metadata(added)?.len();
            if *known <= self.capacity.bytes() {
                return Ok(Vec::new());
            }
        }
        // Others may have removed files, or share the directory.
        let mut codes = self.list()?;
        let mut total: u64 = codes.iter().map(|code| code.bytes).sum();
        let mut removed = Vec::new();
        if total > self.capacity.bytes() {
            codes.sort_by_key(|code| code.last_used);
            for code in codes.into_iter().filter(|code| code.path != added) {
                if total <= self.capacity.bytes() / 10 * 9 {
                    break;
                }
                total -= code.bytes;
                removed.push(code.path);
            }
        }
        *used = Some(total);
        Ok(removed)
    }

    fn list(&self) -> io::Result<Vec<Code>> {
        let mut codes = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "cwasm") {
                continue;
            }
            // Another thread may just have removed it.
            let Ok(meta) = fs::metadata(&path) else { continue };
            let last_used = fs::metadata(path.with_extension("mac")).and_then(|tag| tag.modified());
            codes.push(Code { last_used: last_used.unwrap_or(SystemTime::UNIX_EPOCH), bytes: meta.len(), path });
        }
        Ok(codes)
    }
}
