//! Which files this process has verified: such a file need not be hashed again while it is the same and unchanged.
//!
//! The store asks before each load. Sound for who may write there: the directory lets only this user in, who could as
//! well write into the process itself. What it must notice is an accident: another file under the name, a cut or an
//! overwritten one. Each gives another inode, size or time of change, and that last one no program can set. Bounded by the
//! files in the store: what is removed there is forgotten here.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// The clock that stamps files moves in steps of up to 10 ms. A file that changed just now may change again without
/// another stamp, so it is not remembered before it is this old.
const SETTLED: Duration = Duration::from_millis(100);

/// What tells a file from any other, and from itself before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        let changed = (meta.ctime(), meta.ctime_nsec());
        Ok(Self { device: meta.dev(), inode: meta.ino(), bytes: meta.len(), changed })
    }

    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1)) else {
            return false;
        };
        now.checked_sub(Duration::new(seconds, nanos)).is_some_and(|age| age >= SETTLED)
    }
}

/// The files that were verified, as they were then.
#[derive(Default)]
pub(super) struct Verified(Mutex<HashMap<PathBuf, Identity>>);

impl Verified {
    pub(super) fn contains(&self, path: &Path, identity: &Identity) -> bool {
        self.lock().get(path) == Some(identity)
    }

    /// `identity` was taken before the file was read.
    pub(super) fn remember(&self, path: &Path, identity: &Identity) {
        if !self.contains(path, identity) && identity.is_settled() {
            self.lock().insert(path.to_owned(), identity.clone());
        }
    }

    pub(super) fn forget(&self, path: &Path) {
        self.lock().remove(path);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Identity>> {
        // A panic within one operation of a map leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(path: &Path, changed_ago: Duration) -> Identity {
        let then = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() - changed_ago;
        Identity { changed: (then.as_secs() as i64, i64::from(then.subsec_nanos())), ..Identity::of(path).unwrap() }
    }

    #[test]
    fn remembers_a_file_until_anything_about_it_differs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (verified, path) = (Verified::default(), file.path());
        let settled = identity(path, 2 * SETTLED);
        assert!(!verified.contains(path, &settled));
        verified.remember(path, &settled);
        assert!(verified.contains(path, &settled));
        let (seconds, nanos) = settled.changed;
        for other in [
            Identity { inode: settled.inode + 1, ..settled.clone() },
            Identity { device: settled.device + 1, ..settled.clone() },
            Identity { bytes: settled.bytes + 1, ..settled.clone() },
            Identity { changed: (seconds, nanos ^ 1), ..settled.clone() },
        ] {
            assert!(!verified.contains(path, &other));
        }
        verified.forget(path);
        assert!(!verified.contains(path, &settled));
    }

    #[test]
    fn does_not_trust_a_stamp_that_is_too_young_to_tell_two_changes_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (verified, path) = (Verified::default(), file.path());
        for young in [Duration::ZERO, SETTLED / 4] {
            let young = identity(path, young);
            verified.remember(path, &young);
            assert!(!verified.contains(path, &young));
        }
    }
}
