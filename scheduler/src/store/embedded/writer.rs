//! The one writer of a database: commits what many callers queued in one transaction.
//!
//! A commit costs two syncs of the file, whatever is in it; so while one commit runs, the next batch gathers, and many
//! small writes of guests share their syncs. A caller is answered after the commit that holds its write, never before.
//! What nobody waits for (acknowledgements) joins the next commit, or has one of its own after [`LAZY`].
//! Bounds: [`QUEUE`] writes and [`QUEUE_BYTES`] wait; beyond that a write is refused at once, with the numbers. A batch
//! holds at most [`BATCH`] writes, so that the first in it does not wait for long.

use dunlin_api::StoreError;
use redb::WriteTransaction;
use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{database::Handle, unavailable};

/// Writes that may wait: more than all slots of a large node together.
const QUEUE: usize = 4_096;
/// Bytes of values that may wait.
const QUEUE_BYTES: usize = 64 << 20;
/// Writes in one transaction.
const BATCH: usize = 512;
/// The longest that a write waits for company if nobody waits for it.
const LAZY: Duration = Duration::from_millis(20);
/// The longest that a batch waits for those who were answered last: they often come again at once, and would else share
/// a commit without the first of them. Little beside the commit itself.
const COMPANY: Duration = Duration::from_micros(500);

/// What is written to one database.
pub(super) trait Commits: Send + 'static {
    /// One write.
    type Op: Send;
    /// What a committed write gave.
    type Done: Send;

    /// Applies the writes in their order, each or why not; an error of the database itself fails the whole batch.
    fn apply(&self, to: &WriteTransaction, ops: &[&Self::Op]) -> Results<Self::Done>;

    /// Told of each committed write before its caller is, so that who was answered finds its change on the way to those
    /// who wait for it.
    fn committed(&self, op: &Self::Op, done: &Self::Done);
}

/// What became of each write of a batch.
pub(super) type Results<Done> = Result<Vec<Result<Done, StoreError>>, redb::Error>;

type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

struct Job<C: Commits> {
    op: C::Op,
    /// None if nobody waits.
    reply: Option<oneshot::Sender<Result<C::Done, StoreError>>>,
    _permits: Permits,
}

/// The queue and the thread behind it. Dropping it commits what is queued and waits for that.
pub(super) struct Writer<C: Commits> {
    /// Bounded by the permits that jobs carry: a channel with a bound of its own would take a megabyte at once.
    queue: Option<mpsc::Sender<Job<C>>>,
    slots: Arc<Semaphore>,
    kib: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

impl<C: Commits> Writer<C> {
    #[expect(clippy::disallowed_methods, reason = "each job has a permit, and there are no more of them than QUEUE")]
    pub(super) fn start(database: Arc<Handle>, commits: C) -> std::io::Result<Self> {
        let (queue, waiting) = mpsc::channel();
        // A thread of its own: it syncs files all its life, which would hold a worker of the async runtime.
        let thread = std::thread::Builder::new().name("store-writer".into());
        let thread = thread.spawn(move || run(&database, &commits, &waiting))?;
        let (slots, kib) = (Arc::new(Semaphore::new(QUEUE)), Arc::new(Semaphore::new(QUEUE_BYTES >> 10)));
        Ok(Self { queue: Some(queue), slots, kib, thread: Some(thread) })
    }

    /// Queues `op` with `bytes` in it, or refuses it at once, and waits until it is on the disk. What was queued happens
    /// even if the caller leaves.
    pub(super) async fn write(&self, op: C::Op, bytes: usize) -> Result<C::Done, StoreError> {
        let full = || StoreError::Unavailable(format!("{QUEUE} writes or {} MiB wait already", QUEUE_BYTES >> 20));
        let kib = u32::try_from((bytes >> 10) + 1).map_err(|_| full())?;
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| full())?;
        let kib = self.kib.clone().try_acquire_many_owned(kib).map_err(|_| full())?;
        self.answered(op, (slot, kib)).await
    }

    /// Waits for room for a small `op`, and until it is on the disk.
    pub(super) async fn settle(&self, op: C::Op) -> Result<C::Done, StoreError> {
        let permits = self.room().await;
        self.answered(op, permits).await
    }

    /// Waits for room for a small `op` and leaves it to the next commit. A crash before that loses it.
    pub(super) async fn later(&self, op: C::Op) -> Result<(), StoreError> {
        let permits = self.room().await;
        self.queue(Job { op, reply: None, _permits: permits })
    }

    async fn room(&self) -> Permits {
        const OPEN: &str = "the semaphores are never closed";
        let slot = self.slots.clone().acquire_owned().await.expect(OPEN);
        (slot, self.kib.clone().acquire_owned().await.expect(OPEN))
    }

    async fn answered(&self, op: C::Op, permits: Permits) -> Result<C::Done, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue(Job { op, reply: Some(reply), _permits: permits })?;
        answer.await.map_err(|_| StoreError::Unavailable("the writer ended before this write".into()))?
    }

    fn queue(&self, job: Job<C>) -> Result<(), StoreError> {
        let queue = self.queue.as_ref().expect("the queue is only taken when the writer is dropped");
        queue.send(job).map_err(|_| StoreError::Unavailable("the writer has ended".into()))
    }
}

impl<C: Commits> Drop for Writer<C> {
    fn drop(&mut self) {
        self.queue = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

fn run<C: Commits>(database: &Handle, commits: &C, waiting: &mpsc::Receiver<Job<C>>) {
    let (mut batch, mut answered) = (Vec::new(), 0);
    while let Ok(first) = waiting.recv() {
        answered = gather(&mut batch, first, waiting, answered);
        let results = match commit(database, commits, &batch) {
            Ok(results) => results,
            Err(error) => {
                tracing::error!(%error, writes = batch.len(), "a commit failed: these writes are refused");
                if let Err(error) = database.reopen() {
                    tracing::error!(%error, "the database could not be opened again: the next write tries it");
                }
                batch.iter().map(|_| Err(unavailable("a write was not committed", &error))).collect()
            }
        };
        for (job, result) in batch.drain(..).zip(results) {
            if let Ok(done) = &result {
                commits.committed(&job.op, done);
            }
            if let Some(reply) = job.reply {
                // The caller may have left.
                let _ = reply.send(result);
            }
        }
    }
}

/// Fills a batch; returns how many wait for an answer. `expected` of them may come at once.
fn gather<C: Commits>(
    batch: &mut Vec<Job<C>>,
    first: Job<C>,
    waiting: &mpsc::Receiver<Job<C>>,
    expected: usize,
) -> usize {
    let mut begun = Instant::now();
    let mut awaited = usize::from(first.reply.is_some());
    batch.push(first);
    while batch.len() < BATCH {
        let patience = match awaited {
            0 => LAZY,
            _ if awaited < expected => COMPANY,
            _ => Duration::ZERO,
        };
        let Ok(next) = waiting.recv_timeout(patience.saturating_sub(begun.elapsed())) else { break };
        if next.reply.is_some() {
            // The first that somebody waits for ends the patience with those that nobody does.
            begun = if awaited == 0 { Instant::now() } else { begun };
            awaited += 1;
        }
        batch.push(next);
    }
    awaited
}

fn commit<C: Commits>(database: &Handle, commits: &C, batch: &[Job<C>]) -> Results<C::Done> {
    if database.get().is_err() {
        database.reopen()?;
    }
    let mut transaction = database.get()?.begin_write()?;
    // Two-phase, because guests choose what is written and a checksum that is not cryptographic must not decide which
    // state is valid; and no repair run over the whole file when the process was killed.
    transaction.set_quick_repair(true);
    let ops: Vec<_> = batch.iter().map(|job| &job.op).collect();
    let results = commits.apply(&transaction, &ops)?;
    transaction.commit()?;
    Ok(results)
}
