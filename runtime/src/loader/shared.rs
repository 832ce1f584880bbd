//! The code that ready revisions hold now, so that those with the same artifact share one.
//!
//! Holds nothing itself: code goes with the last revision that uses it. Bounded by a small multiple of what is loaded.

use dunlin_api::{Digest, World};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::ready::Code;

/// What code is of, and which of its handlers is linked.
pub(super) type CodeKey = (Digest, World);

/// Entries below which nobody looks for dead ones.
const FEW: usize = 64;

#[derive(Default)]
pub(super) struct SharedCode(Mutex<Known>);

#[derive(Default)]
struct Known {
    codes: HashMap<CodeKey, Weak<Code>>,
    /// At this size the dead are removed: twice what was alive the last time, so that it costs little on average.
    prune_at: usize,
}

impl SharedCode {
    pub(super) fn get(&self, key: &CodeKey) -> Option<Arc<Code>> {
        self.lock().codes.get(key)?.upgrade()
    }

    /// Takes in `code`, unless another thread was faster: then that one's is returned.
    pub(super) fn share(&self, key: CodeKey, code: Code) -> Arc<Code> {
        let mut known = self.lock();
        if let Some(first) = known.codes.get(&key).and_then(Weak::upgrade) {
            return first;
        }
        let code = Arc::new(code);
        known.codes.insert(key, Arc::downgrade(&code));
        if known.codes.len() >= known.prune_at.max(FEW) {
            known.codes.retain(|_, code| code.strong_count() > 0);
            known.prune_at = known.codes.len() * 2;
        }
        code
    }

    pub(super) fn forget(&self, key: &CodeKey) {
        self.lock().codes.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic within one operation of a map leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
