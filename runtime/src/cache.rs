//! The revisions that are ready, as many as the memory for code allows.
//!
//! The executor looks here for each call. What is evicted ends when its last call does: a call holds what it runs, idle
//! instances go at once. Weights are sizes of files, so the bound holds for 10,000 small functions and for 50 large ones;
//! of a file only the pages that were used are in memory, so what is resident is less.

use dunlin_api::{ByteSize, FunctionName, RevisionId};
use quick_cache::{DefaultHashBuilder, Options, OptionsBuilder, Weighter, sync};
use std::sync::Arc;

use crate::ready::Ready;

/// A revision is ready or not as what it is, under the name of its function.
pub(crate) type ReadyKey = (FunctionName, RevisionId);

pub(crate) type ReadyCache = sync::Cache<ReadyKey, Arc<Ready>, Weigh>;

/// Each shard has its part of the memory for itself, so it must be large enough for many of the largest functions. Below
/// this size there is one, which costs a call no more than the counters that all calls share anyway.
const SHARD: ByteSize = ByteSize::mib(4096);

/// What a small function counts for, about.
const SMALL: ByteSize = ByteSize::kib(384);

/// Each takes three mappings and Linux gives a process 65,530 (`vm.max_map_count`), of which instances need some too.
const MOST_LOADED: u64 = 16_000;

/// How much a revision counts for.
#[derive(Clone)]
pub(crate) struct Weigh {
    /// So that no more than [`MOST_LOADED`] fit.
    least: u64,
    /// Nothing counts for more than the whole, or it could never be kept.
    most: u64,
}

impl Weighter<ReadyKey, Arc<Ready>> for Weigh {
    fn weight(&self, _: &ReadyKey, ready: &Arc<Ready>) -> u64 {
        ready.weight().clamp(self.least, self.most)
    }
}

/// A cache that keeps revisions of this weight.
pub(crate) fn bounded(memory: ByteSize) -> ReadyCache {
    let shards = (memory.bytes() / SHARD.bytes()).max(1);
    // The cache takes nothing that is larger than the part of a shard which it reserves for what is called often.
    let most = memory.bytes() / shards.next_power_of_two() / 100 * 96;
    let least = memory.bytes() / MOST_LOADED;
    sync::Cache::with_options(
        options(memory, shards as usize),
        Weigh { least, most },
        DefaultHashBuilder::default(),
        Default::default(),
    )
}

fn options(memory: ByteSize, shards: usize) -> Options {
    let mut options = OptionsBuilder::new();
    options.shards(shards).weight_capacity(memory.bytes());
    options.estimated_items_capacity((memory.bytes() / SMALL.bytes()) as usize);
    options.build().expect("both capacities are set")
}

/// Keeps what was just made ready. Where few fit, the cache may have chosen the newcomer to make room for itself: then it
/// must have its place now, or the next call would load it once more.
pub(crate) fn keep(cache: &ReadyCache, key: ReadyKey, ready: &Arc<Ready>) {
    if !cache.contains_key(&key) {
        cache.insert(key, ready.clone());
    }
}

/// Whether another revision of common size fits without one having to go. A part stays free, because what is loaded ahead
/// must not push out what was loaded ahead before.
pub(crate) fn has_room(cache: &ReadyCache) -> bool {
    cache.weight() < cache.capacity() / 10 * 9
}
