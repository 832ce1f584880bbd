//! The database of durable messages: work, dead letters, and the streams that were made for subjects.
//!
//! Called by the streams and the bus. Messages stand in logs: one for each queue of work, one for dead letters, one for each
//! stream; a message of a stream is kept for the consumers that have not acknowledged it. What a write returned is on the
//! disk. Bounds: [`LOG_BYTES`] in one log, then appending is refused; dead letters stay for [`DEAD_LETTERS`].

use dunlin_api::{Message, StoreError, subject};
use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::{
    collections::BTreeMap,
    fs::File,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use super::{
    OpenError,
    database::{Handle, Place, Wakes},
    unavailable,
    writer::Writer,
};
use crate::{
    deploy::now_ms,
    store::events::{MAX_MESSAGE_BYTES, Own},
};

mod reading;
mod row;
mod write;

pub(super) use reading::Reading;
use write::{Done, Tables, Writes};
pub(super) use write::{Op, To};

/// Bytes of messages in one log.
const LOG_BYTES: u64 = 1 << 30;
/// How long a dead letter stays.
const DEAD_LETTERS: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Pages of the newest messages; the kernel caches the file as well.
const CACHE_BYTES: usize = 32 << 20;

/// (log, number) → (time in ms, subject, headers by postcard, payload).
const MESSAGES: TableDefinition<'_, (&str, u64), row::Value<'_>> = TableDefinition::new("messages");
/// (log, number, consumer) → how often the message failed there, or [`ACKED`].
const MARKS: TableDefinition<'_, (&str, u64, &str), u32> = TableDefinition::new("marks");
/// A consumer has acknowledged a message that others still need.
const ACKED: u32 = u32::MAX;
/// (log, consumer) → (its subjects, the number after which it begins).
const CONSUMERS: TableDefinition<'_, (&str, &str), (&str, u64)> = TableDefinition::new("consumers");
/// stream → (its subjects, joined by spaces; when it was made, in ms).
const STREAMS: TableDefinition<'_, &str, (&str, u64)> = TableDefinition::new("streams");
/// log → (messages, bytes); logs without messages have no row.
const SIZES: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("sizes");
/// What numbers its messages on its own → the last number.
const LAST: TableDefinition<'_, &str, u64> = TableDefinition::new("last");
/// (what numbers, id) → (number, time in ms).
const IDS: TableDefinition<'_, (&str, &str), (u64, u64)> = TableDefinition::new("ids");
/// The same by time, to forget them: (time in ms, what numbers, id).
const ID_TIMES: TableDefinition<'_, (u64, &str, &str), ()> = TableDefinition::new("id_times");

/// What the logs of queues begin with; the queue follows.
const WORK: &str = "work/";
/// The log of dead letters.
const DEAD: &str = "dead";

/// The log of a queue.
pub(super) fn work(queue: &str) -> String {
    format!("{WORK}{queue}")
}

/// The log of a stream.
pub(super) fn stream(name: &str) -> String {
    format!("stream/{name}")
}

/// Streams with the subjects they take.
pub(super) type Subjects = BTreeMap<String, Vec<String>>;

/// The open database.
pub(super) struct Queue {
    // Declared before the database: its thread must have ended when the file is closed.
    writer: Writer<Writes>,
    database: Arc<Handle>,
    streams: Arc<RwLock<Subjects>>,
    pub(super) wakes: Arc<Wakes>,
    _lock: Arc<File>,
}

impl Queue {
    pub(super) fn open(place: &Place, wakes: Arc<Wakes>, lock: Arc<File>) -> Result<Self, OpenError> {
        let database = Arc::new(Handle::open(place, CACHE_BYTES, create)?);
        let streams = read_streams(&database).map_err(|e| place.refuse(e))?;
        let streams = Arc::new(RwLock::new(streams));
        let writes = Writes { streams: streams.clone(), wakes: wakes.clone() };
        let writer = Writer::start(database.clone(), writes).map_err(|e| place.refuse(e))?;
        Ok(Self { writer, database, streams, wakes, _lock: lock })
    }

    /// Appends, or refuses at once when too much waits. Returns the number of the message.
    pub(super) async fn append(&self, to: To, message: Message, id: Option<&str>) -> Result<u64, StoreError> {
        check(&message)?;
        let size = message.size();
        let id = id.map(str::to_owned);
        Ok(self.writer.write(Op::Append { to, message, id }, size).await?.sequence)
    }

    /// Writes something small, when there is room.
    pub(super) async fn write(&self, op: Op) -> Result<Done, StoreError> {
        self.writer.settle(op).await
    }

    /// Leaves something small to the next commit.
    async fn later(&self, op: Op) -> Result<(), StoreError> {
        self.writer.later(op).await
    }

    /// The stream that takes `subject`; there is at most one, because streams do not overlap.
    pub(super) fn taking(&self, subject: &str) -> Option<String> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        let takes = |subjects: &Vec<String>| subjects.iter().any(|taken| subject::covers(taken, subject));
        streams.iter().find(|(_, subjects)| takes(subjects)).map(|(name, _)| name.clone())
    }

    /// Runs `read` in a transaction.
    fn read<T>(
        &self,
        what: &str,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || read(&self.database.get()?.begin_read()?);
        run().map_err(|e| unavailable(what, e))
    }

    /// The subjects of a consumer of a stream and where it begins; none if it does not exist.
    pub(super) fn consumer(&self, log: &str, name: &str) -> Result<Option<(String, u64)>, StoreError> {
        self.read("reading a consumer", |from| {
            let row = from.open_table(CONSUMERS)?.get((log, name))?;
            Ok(row.map(|row| (row.value().0.to_owned(), row.value().1)))
        })
    }

    /// The queues that hold messages, with how many.
    pub(super) fn queues(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.read("listing queues", |from| {
            let mut queues = BTreeMap::new();
            for row in from.open_table(SIZES)?.range(WORK..)? {
                let (log, size) = row?;
                let Some(queue) = log.value().strip_prefix(WORK) else { break };
                queues.insert(queue.to_owned(), size.value().0);
            }
            Ok(queues)
        })
    }

    /// Whether a log holds no messages.
    pub(super) fn is_empty(&self, log: &str) -> Result<bool, StoreError> {
        self.read("counting messages", |from| Ok(from.open_table(SIZES)?.get(log)?.is_none()))
    }

    /// The logs of one of the own streams whose subjects may match `filter`.
    fn logs(&self, of: Own, filter: Option<&str>) -> Result<Vec<String>, StoreError> {
        if of == Own::Dead {
            return Ok(vec![DEAD.to_owned()]);
        }
        let wanted = |queue: &String| filter.is_none_or(|filter| subject::covers(filter, queue));
        Ok(self.queues()?.into_keys().filter(wanted).map(|queue| work(&queue)).collect())
    }
}

/// What may be published or appended.
///
/// # Errors
/// Says what is wrong, and which limit.
pub(super) fn check(message: &Message) -> Result<(), StoreError> {
    let text = |c: char| !matches!(c, '\r' | '\n' | '\0');
    let named = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic() && c != ':');
    if let Some((name, _)) = message.headers.iter().find(|(name, value)| !named(name) || !value.chars().all(text)) {
        let name: String = name.escape_debug().take(80).collect();
        let reason = "names are printed ASCII without spaces and colons, values have no line ends";
        return Err(StoreError::Invalid(format!("the header `{name}` cannot be sent: {reason}")));
    }
    subject::check_subject(&message.subject).map_err(StoreError::Invalid)?;
    let size = message.size();
    if size > MAX_MESSAGE_BYTES {
        let reason = format!("headers included: it may have at most {MAX_MESSAGE_BYTES}");
        return Err(StoreError::Invalid(format!("a message has {size} bytes, {reason}")));
    }
    Ok(())
}

fn create(to: &WriteTransaction) -> Result<(), redb::Error> {
    let mut tables = Tables::open(to, now_ms(), LOG_BYTES)?;
    tables.forget_old_dead_letters(usize::MAX)
}

fn read_streams(database: &Handle) -> Result<Subjects, redb::Error> {
    let table = database.get()?.begin_read()?.open_table(STREAMS)?;
    let rows = table.iter()?.map(|row| {
        let (name, row) = row?;
        Ok((name.value().to_owned(), row::subjects(row.value().0)))
    });
    rows.collect()
}
