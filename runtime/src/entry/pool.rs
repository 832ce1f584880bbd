//! Instances between invocations, for functions that opted into reuse.
//!
//! An instance serves `instances.reuse` invocations, one at a time, and is retired after `instances.idle` without work,
//! after any failure, and when the function already keeps [`MAX_IDLE`].

use dunlin_api::Instances;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use wasmtime::Store;

use super::fresh::Handler;
use crate::sandbox::Guest;

/// Idle instances kept of one function: as many as can be busy on a few cores, so that a burst does not stay in memory.
const MAX_IDLE: usize = 64;

/// An instance with its store.
pub(crate) struct Instance {
    pub(crate) store: Store<Guest>,
    pub(crate) handler: Handler,
    served: u32,
    since: Instant,
}

impl Instance {
    pub(crate) fn new(store: Store<Guest>, handler: Handler) -> Self {
        Self { store, handler, served: 0, since: Instant::now() }
    }
}

/// The idle instances of one revision.
pub(crate) struct InstancePool {
    reuse: u32,
    lifetime: Duration,
    idle: Mutex<Vec<Instance>>,
}

impl InstancePool {
    pub(crate) fn new(policy: Instances) -> Self {
        Self { reuse: policy.reuse, lifetime: policy.idle, idle: Mutex::default() }
    }

    /// The instance that was used last, if one is fit to serve.
    pub(crate) fn take(&self) -> Option<Instance> {
        if self.reuse <= 1 {
            return None;
        }
        let instance = self.lock().pop()?;
        (instance.since.elapsed() < self.lifetime).then_some(instance)
    }

    /// Takes back an instance whose invocation ended well.
    pub(crate) fn put(&self, mut instance: Instance) {
        instance.served += 1;
        if instance.served >= self.reuse {
            return;
        }
        instance.store.data().output.end();
        instance.since = Instant::now();
        let mut idle = self.lock();
        if idle.len() < MAX_IDLE {
            idle.push(instance);
        }
    }

    /// Retires what waited too long. The oldest are at the front.
    pub(crate) fn sweep(&self) {
        let retired = {
            let mut idle = self.lock();
            let fit = idle.iter().position(|i| i.since.elapsed() < self.lifetime).unwrap_or(idle.len());
            idle.drain(..fit).collect::<Vec<_>>()
        };
        // Dropping a store unmaps its memory: not while others wait for the lock.
        drop(retired);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Instance>> {
        // A panic while pushing or popping leaves a vector that is still whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
