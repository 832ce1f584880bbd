//! What a consumer reads: numbered messages that are kept until they are settled.

use dunlin_api::{BoxFuture, StoreError};

use crate::store::events::Stored;

/// Messages in their order, each with how often its delivery failed.
#[derive(Default)]
pub(in crate::store::embedded) struct Scan {
    pub(in crate::store::embedded) found: Vec<(Stored, u32)>,
    /// The last number that was looked at; 0 if none was.
    pub(in crate::store::embedded) last: u64,
    /// Whether there was nothing after it.
    pub(in crate::store::embedded) ended: bool,
}

/// The answer of a write.
pub(in crate::store::embedded) type Settled<'a> = BoxFuture<'a, Result<(), StoreError>>;

/// The messages of one consumer that are not settled yet, as they are on the disk.
pub(in crate::store::embedded) trait Log: Send + Sync {
    /// What deliveries name as their stream.
    fn name(&self) -> &str;

    /// At most `limit` messages after `after`; a scan may end early, see [`Scan`].
    fn scan(&self, after: u64, limit: usize) -> Result<Scan, StoreError>;

    /// One message; none if it was settled, deleted or replaced.
    fn get(&self, sequence: u64) -> Result<Option<(Stored, u32)>, StoreError>;

    /// How many messages there are after `after`.
    fn count(&self, after: u64) -> Result<u64, StoreError>;

    /// It is done; written soon.
    fn acked(&self, sequence: u64) -> Settled<'_>;

    /// It is done; written when this returns.
    fn ended(&self, sequence: u64) -> Settled<'_>;

    /// How often it failed; written when this returns.
    fn failed(&self, sequence: u64, failed: u32) -> Settled<'_>;
}
