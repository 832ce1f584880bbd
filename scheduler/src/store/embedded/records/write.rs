//! What is written to a database of records, and how.

use bytes::Bytes;
use dunlin_api::{StoreError, Version};
use redb::{ReadableTable, Table, WriteTransaction};
use std::sync::Arc;
use tokio::sync::broadcast;

use super::{COUNTER, RECORDS, follow, follow::Followers};
use crate::store::embedded::{
    database::Wakes,
    writer::{Commits, Results},
};

/// What to do with one key.
pub(in crate::store::embedded) enum Change {
    /// Write it, whatever it was.
    Set(Bytes),
    /// Write it if its version is this one (none = it must not exist).
    Swap(Option<Version>, Bytes),
    /// Delete it; with a version, only if it still has that.
    Delete(Option<Version>),
    /// Add to the decimal integer in it; absent = 0.
    Increment(i64),
    /// The key is a follower of the namespace.
    Follower(follow::Change),
}

/// What a committed change gave.
#[derive(Clone, Copy, Default)]
pub(in crate::store::embedded) struct Done {
    /// The key's version now; 0 after a deletion.
    pub(in crate::store::embedded) version: Version,
    /// The sum after [`Change::Increment`].
    pub(in crate::store::embedded) sum: i64,
    /// Whether anything changed: deleting what is absent changes nothing.
    changed: bool,
}

pub(super) struct Op {
    pub(super) namespace: Box<str>,
    pub(super) key: Box<str>,
    pub(super) change: Change,
}

/// Applies writes and tells those who watch or follow.
pub(super) struct Writes {
    pub(super) changes: broadcast::Sender<String>,
    pub(super) wakes: Arc<Wakes>,
}

impl Commits for Writes {
    type Op = Op;
    type Done = Done;

    fn apply(&self, to: &WriteTransaction, ops: &[&Op]) -> Results<Done> {
        let mut counter = to.open_table(COUNTER)?;
        let mut tables = Tables {
            records: to.open_table(RECORDS)?,
            followers: Followers::open(to)?,
            last: counter.get(())?.map_or(0, |row| row.value()),
        };
        let results = ops.iter().map(|op| tables.apply(op)).collect::<Result<Vec<_>, _>>()?;
        counter.insert((), tables.last)?;
        Ok(results)
    }

    fn committed(&self, op: &Op, done: &Done) {
        if done.changed {
            // No receiver means that nobody watches.
            let _ = self.changes.send(op.key.clone().into());
            self.wakes.wake(&follow::log(&op.namespace));
        }
    }
}

struct Tables<'txn> {
    records: Table<'txn, (&'static str, &'static str), (u64, &'static [u8])>,
    followers: Followers<'txn>,
    /// The counter behind the versions.
    last: Version,
}

impl Tables<'_> {
    fn apply(&mut self, op: &Op) -> Result<Result<Done, StoreError>, redb::Error> {
        let key = (&*op.namespace, &*op.key);
        let conflict = || Ok(Err(StoreError::Conflict(format!("`{}`", op.key.escape_debug()))));
        match &op.change {
            Change::Set(value) => self.write(key, value, 0),
            Change::Swap(expected, _) if self.version(key)? != *expected => conflict(),
            Change::Swap(_, value) => self.write(key, value, 0),
            Change::Delete(Some(expected)) if self.version(key)? != Some(*expected) => conflict(),
            Change::Delete(_) => {
                let changed = self.records.remove(key)?.is_some();
                if changed {
                    self.last += 1;
                    self.followers.changed(key, self.last, true)?;
                }
                Ok(Ok(Done { changed, ..Done::default() }))
            }
            Change::Increment(delta) => {
                let sum = self.records.get(key)?.map_or(Ok(*delta), |row| add(row.value().1, *delta));
                match sum {
                    Ok(sum) => self.write(key, sum.to_string().as_bytes(), sum),
                    Err(reason) => Ok(Err(StoreError::Invalid(format!("`{}` {reason}", op.key.escape_debug())))),
                }
            }
            Change::Follower(change) => {
                self.followers.apply(&self.records, key, change)?;
                Ok(Ok(Done::default()))
            }
        }
    }

    fn version(&self, key: (&str, &str)) -> Result<Option<Version>, redb::Error> {
        Ok(self.records.get(key)?.map(|row| row.value().0))
    }

    fn write(&mut self, key: (&str, &str), value: &[u8], sum: i64) -> Result<Result<Done, StoreError>, redb::Error> {
        self.last += 1;
        self.records.insert(key, (self.last, value))?;
        self.followers.changed(key, self.last, false)?;
        Ok(Ok(Done { version: self.last, sum, changed: true }))
    }
}

fn add(value: &[u8], delta: i64) -> Result<i64, &'static str> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
    let number = number.ok_or("does not hold a decimal integer")?;
    number.checked_add(delta).ok_or("would overflow 64 bits")
}
