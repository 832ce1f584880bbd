//! What is written to the database of messages, and how.

use dunlin_api::{Message, StoreError, subject, trigger::Start};
use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};
use std::sync::{Arc, PoisonError, RwLock};

use super::{
    ACKED, CONSUMERS, DEAD, DEAD_LETTERS, ID_TIMES, IDS, LAST, LOG_BYTES, MARKS, MESSAGES, SIZES, STREAMS, Subjects,
    row, stream, work,
};
use crate::{
    deploy::now_ms,
    store::{
        embedded::{
            database::Wakes,
            writer::{Commits, Results},
        },
        events::DUPLICATES,
    },
};

mod resolve;

/// Dead letters and ids that one append forgets at most: more than it adds.
const FORGET: usize = 4;

type Applied<T> = Result<Result<T, StoreError>, redb::Error>;

/// Where a message is appended.
pub(in crate::store::embedded) enum To {
    /// The queue that its subject names.
    Work,
    Dead,
    Stream(String),
}

impl To {
    fn log(&self, subject: &str) -> String {
        match self {
            Self::Work => work(subject),
            Self::Dead => DEAD.to_owned(),
            Self::Stream(name) => stream(name),
        }
    }

    /// What numbers its messages.
    fn numbers(&self) -> String {
        match self {
            Self::Work => "work".to_owned(),
            Self::Dead => DEAD.to_owned(),
            Self::Stream(name) => stream(name),
        }
    }
}

/// One write.
pub(in crate::store::embedded) enum Op {
    Append {
        to: To,
        message: Message,
        id: Option<String>,
    },
    /// A consumer is done with a message.
    Ended {
        log: String,
        sequence: u64,
        consumer: String,
    },
    /// A message failed so often for a consumer.
    Failed {
        log: String,
        sequence: u64,
        consumer: String,
        failed: u32,
    },
    /// The first of these logs that has the message loses it.
    Delete {
        logs: Vec<String>,
        sequence: u64,
    },
    /// Finds or makes the stream for a subject.
    Resolve {
        stream: Option<String>,
        subject: String,
    },
    /// Makes a consumer of a stream, or changes its subjects.
    Ensure {
        stream: String,
        consumer: String,
        subject: String,
        start: Start,
    },
    Remove {
        stream: String,
        consumer: String,
    },
}

/// What a committed write gave.
#[derive(Default)]
pub(in crate::store::embedded) struct Done {
    /// The number of an appended message.
    pub(super) sequence: u64,
    /// Whether a message was there to be deleted.
    pub(super) deleted: bool,
    /// The name of a resolved stream.
    pub(in crate::store::embedded) stream: String,
}

/// Applies writes, and tells those who wait for messages.
pub(super) struct Writes {
    pub(super) streams: Arc<RwLock<Subjects>>,
    pub(super) wakes: Arc<Wakes>,
}

impl Commits for Writes {
    type Op = Op;
    type Done = Done;

    fn apply(&self, to: &WriteTransaction, ops: &[&Op]) -> Results<Done> {
        let mut tables = Tables::open(to, now_ms(), LOG_BYTES)?;
        ops.iter().map(|op| tables.apply(op)).collect()
    }

    fn committed(&self, op: &Op, done: &Done) {
        match op {
            Op::Append { to, message, .. } => self.wakes.wake(&to.log(&message.subject)),
            Op::Resolve { subject, .. } => {
                let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
                resolve::resolved(&mut streams, &done.stream, subject);
            }
            _ => {}
        }
    }
}

/// The open tables of one transaction.
pub(super) struct Tables<'txn> {
    /// In milliseconds since the Unix epoch.
    now: u64,
    /// What one log may hold.
    log_bytes: u64,
    messages: Table<'txn, (&'static str, u64), row::Value<'static>>,
    marks: Table<'txn, (&'static str, u64, &'static str), u32>,
    consumers: Table<'txn, (&'static str, &'static str), (&'static str, u64)>,
    streams: Table<'txn, &'static str, (&'static str, u64)>,
    sizes: Table<'txn, &'static str, (u64, u64)>,
    last: Table<'txn, &'static str, u64>,
    ids: Table<'txn, (&'static str, &'static str), (u64, u64)>,
    id_times: Table<'txn, (u64, &'static str, &'static str), ()>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(to: &'txn WriteTransaction, now: u64, log_bytes: u64) -> Result<Self, redb::Error> {
        Ok(Self {
            now,
            log_bytes,
            messages: to.open_table(MESSAGES)?,
            marks: to.open_table(MARKS)?,
            consumers: to.open_table(CONSUMERS)?,
            streams: to.open_table(STREAMS)?,
            sizes: to.open_table(SIZES)?,
            last: to.open_table(LAST)?,
            ids: to.open_table(IDS)?,
            id_times: to.open_table(ID_TIMES)?,
        })
    }

    fn apply(&mut self, op: &Op) -> Applied<Done> {
        match op {
            Op::Append { to, message, id } => {
                let appended = self.append(to, message, id.as_deref())?;
                Ok(appended.map(|sequence| Done { sequence, ..Done::default() }))
            }
            Op::Ended { log, sequence, consumer } => {
                self.ended(log, *sequence, consumer)?;
                Ok(Ok(Done::default()))
            }
            Op::Failed { log, sequence, consumer, failed } => {
                if self.messages.get((&**log, *sequence))?.is_some() {
                    self.marks.insert((&**log, *sequence, &**consumer), *failed)?;
                }
                Ok(Ok(Done::default()))
            }
            Op::Delete { logs, sequence } => {
                let mut deleted = false;
                for log in logs {
                    deleted = deleted || self.remove(log, *sequence)?;
                }
                Ok(Ok(Done { deleted, ..Done::default() }))
            }
            Op::Resolve { stream, subject } => {
                let resolved = self.resolve(stream.as_deref(), subject)?;
                Ok(resolved.map(|stream| Done { stream, ..Done::default() }))
            }
            Op::Ensure { stream, consumer, subject, start } => {
                Ok(self.ensure(stream, consumer, subject, *start)?.map(|()| Done::default()))
            }
            Op::Remove { stream: name, consumer } => {
                self.remove_consumer(&stream(name), consumer)?;
                Ok(Ok(Done::default()))
            }
        }
    }

    fn append(&mut self, to: &To, message: &Message, id: Option<&str>) -> Applied<u64> {
        let (log, numbers, now) = (to.log(&message.subject), to.numbers(), self.now);
        self.forget_old_ids()?;
        if let Some(id) = id
            && let Some(known) = self.ids.get((&*numbers, id))?.map(|row| row.value())
            && !is_old(known.1, now)
        {
            return Ok(Ok(known.0));
        }
        if matches!(to, To::Dead) {
            self.forget_old_dead_letters(FORGET)?;
        }
        let headers = row::headers(message)?;
        let value = (now, &*message.subject, &*headers, &*message.payload);
        let (count, bytes) = self.sizes.get(&*log)?.map_or((0, 0), |row| row.value());
        if bytes + row::size(value) > self.log_bytes {
            let what = format!("`{}` is full: {count} messages with {bytes} bytes wait in {log}", message.subject);
            let reason = format!("{what}, the most is {} bytes; see what its consumers do", self.log_bytes);
            return Ok(Err(StoreError::Unavailable(reason)));
        }
        let sequence = self.last.get(&*numbers)?.map_or(0, |row| row.value()) + 1;
        self.last.insert(&*numbers, sequence)?;
        if let Some(id) = id {
            self.ids.insert((&*numbers, id), (sequence, now))?;
            self.id_times.insert((now, &*numbers, id), ())?;
        }
        // As in JetStream: what nobody is interested in gets a number and is not kept.
        let kept = !matches!(to, To::Stream(_)) || self.is_needed(&log, sequence, &message.subject, "")?;
        if kept {
            self.messages.insert((&*log, sequence), value)?;
            self.sizes.insert(&*log, (count + 1, bytes + row::size(value)))?;
        }
        Ok(Ok(sequence))
    }

    /// Whether some consumer other than `except` has a message of a stream still to acknowledge.
    fn is_needed(&self, log: &str, sequence: u64, subject: &str, except: &str) -> Result<bool, redb::Error> {
        for row in self.consumers.range((log, "")..)? {
            let (key, consumer) = row?;
            let ((of, name), (subjects, after)) = (key.value(), consumer.value());
            if of != log {
                break;
            }
            if name != except && sequence > after && subject::covers(subjects, subject) {
                let mark = self.marks.get((log, sequence, name))?.map(|row| row.value());
                if mark != Some(ACKED) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn ended(&mut self, log: &str, sequence: u64, consumer: &str) -> Result<(), redb::Error> {
        let subject = self.messages.get((log, sequence))?.map(|row| row.value().1.to_owned());
        let Some(subject) = subject else { return Ok(()) };
        // Work has one consumer and no rows of consumers.
        if self.is_needed(log, sequence, &subject, consumer)? {
            self.marks.insert((log, sequence, consumer), ACKED)?;
        } else {
            self.remove(log, sequence)?;
        }
        Ok(())
    }

    /// Removes a message with all that is known of it; whether it was there.
    fn remove(&mut self, log: &str, sequence: u64) -> Result<bool, redb::Error> {
        let removed = self.messages.remove((log, sequence))?.map(|row| row::size(row.value()));
        let Some(size) = removed else { return Ok(false) };
        if !self.marks.is_empty()? {
            self.marks.retain_in((log, sequence, "")..(log, sequence + 1, ""), |_, _| false)?;
        }
        let (count, bytes) = self.sizes.get(log)?.map_or((0, 0), |row| row.value());
        if count > 1 {
            self.sizes.insert(log, (count - 1, bytes.saturating_sub(size)))?;
        } else {
            self.sizes.remove(log)?;
        }
        Ok(true)
    }

    fn ensure(&mut self, name: &str, consumer: &str, subject: &str, start: Start) -> Applied<()> {
        let log = stream(name);
        if self.streams.get(name)?.is_none() {
            return Ok(Err(StoreError::NotFound(format!("the stream {name}"))));
        }
        let known = self.consumers.get((&*log, consumer))?.map(|row| row.value().1);
        let last = self.last.get(&*log)?.map_or(0, |row| row.value());
        let after = match (known, start) {
            (Some(after), _) => after,
            (None, Start::All) => 0,
            (None, Start::New) => last,
            (None, Start::Time(ms)) => {
                let time = u64::try_from(ms).unwrap_or(0);
                let mut first = last + 1;
                for row in self.messages.range((&*log, 0)..=(&*log, u64::MAX))? {
                    let (key, message) = row?;
                    if message.value().0 >= time {
                        first = key.value().1;
                        break;
                    }
                }
                first - 1
            }
        };
        self.consumers.insert((&*log, consumer), (subject, after))?;
        Ok(Ok(()))
    }

    /// Removes a consumer and what was kept only for it.
    fn remove_consumer(&mut self, log: &str, consumer: &str) -> Result<(), redb::Error> {
        if self.consumers.remove((log, consumer))?.is_none() {
            return Ok(());
        }
        let mut kept = Vec::new();
        for row in self.messages.range((log, 0)..=(log, u64::MAX))? {
            let (key, message) = row?;
            kept.push((key.value().1, message.value().1.to_owned()));
        }
        for (sequence, subject) in kept {
            self.marks.remove((log, sequence, consumer))?;
            if !self.is_needed(log, sequence, &subject, consumer)? {
                self.remove(log, sequence)?;
            }
        }
        Ok(())
    }

    fn forget_old_ids(&mut self) -> Result<(), redb::Error> {
        for _ in 0..FORGET {
            let first = self.id_times.first()?.map(|(key, _)| {
                let (time, numbers, id) = key.value();
                (time, numbers.to_owned(), id.to_owned())
            });
            let Some((time, numbers, id)) = first.filter(|(time, ..)| is_old(*time, self.now)) else { break };
            self.id_times.remove((time, &*numbers, &*id))?;
            self.ids.remove((&*numbers, &*id))?;
        }
        Ok(())
    }

    /// Removes up to `most` dead letters that are too old.
    pub(super) fn forget_old_dead_letters(&mut self, most: usize) -> Result<(), redb::Error> {
        let oldest = self.now.saturating_sub(DEAD_LETTERS.as_millis() as u64);
        let mut old = Vec::new();
        for row in self.messages.range((DEAD, 0)..=(DEAD, u64::MAX))?.take(most) {
            let (key, message) = row?;
            if message.value().0 >= oldest {
                break;
            }
            old.push(key.value().1);
        }
        old.into_iter().try_for_each(|sequence| self.remove(DEAD, sequence).map(|_| ()))
    }
}

/// Whether an id of that time is forgotten; a clock that went back forgets it as well.
fn is_old(time: u64, now: u64) -> bool {
    time.abs_diff(now) > DUPLICATES.as_millis() as u64
}

#[cfg(test)]
mod tests;
