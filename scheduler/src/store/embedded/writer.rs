//! The one writer of a database: commits what many callers queued in one transaction.
//!
//! A commit costs two syncs of the file, whatever is in it; so while one commit runs, the next batch gathers, and many
//! small writes of guests share their syncs. A caller is answered after the commit that holds its write, never before.
//! Bounds: [`QUEUE`] writes and [`QUEUE_BYTES`] wait; beyond that a write is refused at once, with the numbers. A batch
//! holds at most [`BATCH`] writes, so that the first in it does not wait for long.

use bytes::Bytes;
use dunlin_api::{StoreError, Version};
use redb::{ReadableTable, Table, WriteTransaction};
use std::{io, sync::Arc, thread::JoinHandle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};

use super::{
    records::{COUNTER, Handle, RECORDS},
    unavailable,
};

/// Writes that may wait: more than all slots of a large node together.
const QUEUE: usize = 4_096;
/// Bytes of values that may wait.
const QUEUE_BYTES: usize = 64 << 20;
/// Writes in one transaction.
const BATCH: usize = 512;

type Records<'txn> = Table<'txn, (&'static str, &'static str), (u64, &'static [u8])>;
type Reply = oneshot::Sender<Result<Done, StoreError>>;

/// What to do with one key.
pub(super) enum Change {
    /// Write it, whatever it was.
    Set(Bytes),
    /// Write it if its version is this one (none = it must not exist).
    Swap(Option<Version>, Bytes),
    /// Delete it; with a version, only if it still has that.
    Delete(Option<Version>),
    /// Add to the decimal integer in it; absent = 0.
    Increment(i64),
}

/// What a committed change gave.
#[derive(Clone, Copy, Default)]
pub(super) struct Done {
    /// The key's version now; 0 after a deletion.
    pub(super) version: Version,
    /// The sum after [`Change::Increment`].
    pub(super) sum: i64,
    /// Whether anything changed: deleting what is absent changes nothing.
    changed: bool,
}

struct Op {
    namespace: Box<str>,
    key: Box<str>,
    change: Change,
    reply: Reply,
    _bytes: OwnedSemaphorePermit,
}

/// The queue and the thread behind it. Dropping it commits what is queued and waits for that.
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Op>>,
    bytes: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(database: Arc<Handle>, changes: broadcast::Sender<String>) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        // A thread of its own: it syncs files all its life, which would hold a worker of the async runtime.
        let thread = std::thread::Builder::new().name("store-writer".into());
        let thread = thread.spawn(move || run(&database, &changes, waiting))?;
        let bytes = Arc::new(Semaphore::new(QUEUE_BYTES >> 10));
        Ok(Self { queue: Some(queue), bytes, thread: Some(thread) })
    }

    pub(super) fn queue(&self, namespace: &str, key: &str, change: Change, reply: Reply) -> Result<(), StoreError> {
        let full = || StoreError::Unavailable(format!("{QUEUE} writes or {} MiB wait already", QUEUE_BYTES >> 20));
        let size = match &change {
            Change::Set(value) | Change::Swap(_, value) => value.len(),
            Change::Delete(_) | Change::Increment(_) => 0,
        };
        let kib = u32::try_from((size >> 10) + 1).map_err(|_| full())?;
        let bytes = self.bytes.clone().try_acquire_many_owned(kib).map_err(|_| full())?;
        let op = Op { namespace: namespace.into(), key: key.into(), change, reply, _bytes: bytes };
        let queue = self.queue.as_ref().expect("the queue is only taken when the writer is dropped");
        queue.try_send(op).map_err(|_| full())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

fn run(database: &Handle, changes: &broadcast::Sender<String>, mut waiting: mpsc::Receiver<Op>) {
    let mut batch = Vec::new();
    while let Some(first) = waiting.blocking_recv() {
        batch.push(first);
        while batch.len() < BATCH
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        match commit(database, &mut batch) {
            Ok(results) => answer(changes, batch.drain(..).zip(results)),
            Err(error) => {
                tracing::error!(%error, writes = batch.len(), "a commit failed: these writes are refused");
                if let Err(error) = database.reopen() {
                    tracing::error!(%error, "the database could not be opened again: the next write tries it");
                }
                let refused = |_| Err(unavailable("a write was not committed", &error));
                let results: Vec<_> = batch.iter().map(refused).collect();
                answer(changes, batch.drain(..).zip(results));
            }
        }
    }
}

/// Says what was committed: watchers first, so that who was answered finds its change on the way to them.
fn answer(changes: &broadcast::Sender<String>, done: impl Iterator<Item = (Op, Result<Done, StoreError>)>) {
    for (op, result) in done {
        if result.as_ref().is_ok_and(|done| done.changed) {
            // No receiver means that nobody watches.
            let _ = changes.send(op.key.into());
        }
        // The caller may have left.
        let _ = op.reply.send(result);
    }
}

fn commit(database: &Handle, batch: &mut [Op]) -> Result<Vec<Result<Done, StoreError>>, redb::Error> {
    if database.get().is_err() {
        database.reopen()?;
    }
    let mut transaction = database.get()?.begin_write()?;
    // Two-phase, because guests choose what is written and a checksum that is not cryptographic must not decide which
    // state is valid; and no repair run over the whole file when the process was killed.
    transaction.set_quick_repair(true);
    let results = apply_all(&transaction, batch)?;
    transaction.commit()?;
    Ok(results)
}

fn apply_all(transaction: &WriteTransaction, batch: &mut [Op]) -> Result<Vec<Result<Done, StoreError>>, redb::Error> {
    let mut records = transaction.open_table(RECORDS)?;
    let mut counter = transaction.open_table(COUNTER)?;
    let mut last = counter.get(())?.map_or(0, |row| row.value());
    let mut results = Vec::with_capacity(batch.len());
    for op in batch {
        results.push(apply(&mut records, &mut last, op)?);
    }
    counter.insert((), last)?;
    Ok(results)
}

/// Applies one change or says why not; an error of the database itself fails the whole batch.
fn apply(records: &mut Records<'_>, last: &mut Version, op: &Op) -> Result<Result<Done, StoreError>, redb::Error> {
    let key = (&*op.namespace, &*op.key);
    let conflict = || Ok(Err(StoreError::Conflict(format!("`{}`", op.key.escape_debug()))));
    let version = |records: &Records<'_>| -> Result<Option<Version>, redb::Error> {
        Ok(records.get(key)?.map(|row| row.value().0))
    };
    let mut write = |records: &mut Records<'_>, value: &[u8], sum| -> Result<_, redb::Error> {
        *last += 1;
        records.insert(key, (*last, value))?;
        Ok(Ok(Done { version: *last, sum, changed: true }))
    };
    match &op.change {
        Change::Set(value) => write(records, value, 0),
        Change::Swap(expected, _) if version(records)? != *expected => conflict(),
        Change::Swap(_, value) => write(records, value, 0),
        Change::Delete(Some(expected)) if version(records)? != Some(*expected) => conflict(),
        Change::Delete(_) => {
            let changed = records.remove(key)?.is_some();
            Ok(Ok(Done { changed, ..Done::default() }))
        }
        Change::Increment(delta) => {
            let sum = records.get(key)?.map_or(Ok(*delta), |row| add(row.value().1, *delta));
            match sum {
                Ok(sum) => write(records, sum.to_string().as_bytes(), sum),
                Err(reason) => Ok(Err(StoreError::Invalid(format!("`{}` {reason}", op.key.escape_debug())))),
            }
        }
    }
}

fn add(value: &[u8], delta: i64) -> Result<i64, &'static str> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
    let number = number.ok_or("does not hold a decimal integer")?;
    number.checked_add(delta).ok_or("would overflow 64 bits")
}
