//! Followers of a key-value store: consumers to which every change of its keys is delivered.
//!
//! What changed is written in the transaction of the change itself, so no acknowledged write is ever missed. Bound: one row
//! for each key and follower, because a later change of a key replaces the earlier one.

use bytes::Bytes;
use dunlin_api::{Message, StoreError, trigger::ChangeSource};
use redb::{ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use std::sync::Arc;

use super::{Change as Write, RECORDS, Records};
use crate::{
    deploy::now_ms,
    store::{
        embedded::{
            streams::log::{Log, Scan, Settled},
            unavailable,
        },
        events::{CHANGED, OPERATION, Stored, VERSION, key_matches},
    },
};

/// (store, follower) → the pattern of the keys that matter to it.
const FOLLOWERS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("followers");
/// (follower, number of the change) → (key, whether it was deleted, when, how often its delivery failed).
const CHANGES: TableDefinition<'_, (&str, u64), (&str, bool, u64, u32)> = TableDefinition::new("changes");
/// (follower, key) → the number of its last change.
const LATEST: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("latest");
/// Changes read at once.
const PAGE: usize = 256;

/// What followers are woken by.
pub(in crate::store::embedded) fn log(store: &str) -> String {
    format!("changes/{store}")
}

pub(super) fn create_tables(to: &WriteTransaction) -> Result<(), redb::Error> {
    Followers::open(to)?;
    Ok(())
}

/// What to do with a follower.
pub(in crate::store::embedded) enum Change {
    /// Make it, or give it this pattern; with `all`, a new one begins with all keys that are there.
    Ensure { keys: String, all: bool },
    /// Forget it.
    Remove,
    /// This change was handled.
    Handled(u64),
    /// The delivery of this change failed so often.
    Failed(u64, u32),
}

pub(super) struct Followers<'txn> {
    followers: Table<'txn, (&'static str, &'static str), &'static str>,
    changes: Table<'txn, (&'static str, u64), (&'static str, bool, u64, u32)>,
    latest: Table<'txn, (&'static str, &'static str), u64>,
}

impl<'txn> Followers<'txn> {
    pub(super) fn open(to: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            followers: to.open_table(FOLLOWERS)?,
            changes: to.open_table(CHANGES)?,
            latest: to.open_table(LATEST)?,
        })
    }

    /// Notes a change of `key` for those who follow it.
    pub(super) fn changed(
        &mut self,
        (store, key): (&str, &str),
        number: u64,
        deleted: bool,
    ) -> Result<(), redb::Error> {
        let mut who = Vec::new();
        for row in self.followers.range((store, "")..)? {
            let (row_key, pattern) = row?;
            let (followed, follower) = row_key.value();
            if followed != store {
                break;
            }
            if key_matches(pattern.value(), key) {
                who.push(follower.to_owned());
            }
        }
        who.iter().try_for_each(|follower| self.note(follower, key, number, deleted))
    }

    fn note(&mut self, follower: &str, key: &str, number: u64, deleted: bool) -> Result<(), redb::Error> {
        let earlier = self.latest.insert((follower, key), number)?.map(|row| row.value());
        if let Some(earlier) = earlier {
            self.changes.remove((follower, earlier))?;
        }
        self.changes.insert((follower, number), (key, deleted, now_ms(), 0))?;
        Ok(())
    }

    pub(super) fn apply(
        &mut self,
        records: &impl ReadableTable<(&'static str, &'static str), (u64, &'static [u8])>,
        (store, follower): (&str, &str),
        change: &Change,
    ) -> Result<(), redb::Error> {
        match change {
            Change::Ensure { keys, all } => {
                let new = self.followers.insert((store, follower), &**keys)?.is_none();
                if new && *all {
                    for row in records.range((store, "")..)? {
                        let (row_key, record) = row?;
                        let (namespace, key) = row_key.value();
                        if namespace != store {
                            break;
                        }
                        if key_matches(keys, key) {
                            self.note(follower, key, record.value().0, false)?;
                        }
                    }
                }
            }
            Change::Remove => {
                self.followers.remove((store, follower))?;
                self.changes.retain_in((follower, 0)..=(follower, u64::MAX), |_, _| false)?;
                let after = format!("{follower}\0");
                self.latest.retain_in((follower, "")..(&*after, ""), |_, _| false)?;
            }
            Change::Handled(number) => {
                let key = self.changes.remove((follower, *number))?.map(|row| row.value().0.to_owned());
                if let Some(key) = key {
                    self.latest.remove((follower, &*key))?;
                }
            }
            Change::Failed(number, failed) => {
                let row = self.changes.get((follower, *number))?;
                let row = row.map(|row| (row.value().0.to_owned(), row.value().1, row.value().2));
                if let Some((key, deleted, time)) = row {
                    self.changes.insert((follower, *number), (&*key, deleted, time, *failed))?;
                }
            }
        }
        Ok(())
    }
}

/// The changes of one store for one follower.
pub(in crate::store::embedded) struct Following {
    records: Arc<Records>,
    store: String,
    follower: String,
}

impl Following {
    pub(in crate::store::embedded) fn new(records: Arc<Records>, store: &str, follower: &str) -> Self {
        Self { records, store: store.to_owned(), follower: follower.to_owned() }
    }

    /// The pattern that it follows; none if it does not exist.
    pub(in crate::store::embedded) fn pattern(&self) -> Result<Option<String>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.records.database.get()?.begin_read()?.open_table(FOLLOWERS)?;
            Ok(table.get((&*self.store, &*self.follower))?.map(|row| row.value().to_owned()))
        };
        read().map_err(|e| unavailable("reading a follower", e))
    }

    fn rows(&self, from: u64, to: u64, limit: usize) -> Result<Scan, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.records.database.get()?.begin_read()?;
            let (changes, records) = (transaction.open_table(CHANGES)?, transaction.open_table(RECORDS)?);
            let mut scan = Scan::default();
            for row in changes.range((&*self.follower, from)..=(&*self.follower, to))?.take(limit) {
                let (number, change) = row?;
                let (number, (key, deleted, time_ms, failed)) = (number.value().1, change.value());
                let record = records.get((&*self.store, key))?;
                let payload = record.map(|row| Bytes::copy_from_slice(row.value().1)).unwrap_or_default();
                let message = Message::new(key, payload)
                    .with(OPERATION, if deleted { "delete" } else { "put" })
                    .with(CHANGED, ChangeSource::Store(self.store.clone()).to_string())
                    .with(VERSION, number.to_string());
                scan.found.push((Stored { sequence: number, time_ms, message }, failed));
                scan.last = number;
            }
            scan.ended = scan.found.len() < limit;
            Ok(scan)
        };
        read().map_err(|e| unavailable("reading changes", e))
    }

    /// Writes to the follower.
    pub(in crate::store::embedded) async fn change(&self, change: Change) -> Result<(), StoreError> {
        self.records.settle(&self.store, &self.follower, Write::Follower(change)).await
    }
}

impl Log for Following {
    fn name(&self) -> &'static str {
        "keyvalue"
    }

    fn scan(&self, after: u64, limit: usize) -> Result<Scan, StoreError> {
        self.rows(after.saturating_add(1), u64::MAX, limit.min(PAGE))
    }

    fn get(&self, sequence: u64) -> Result<Option<(Stored, u32)>, StoreError> {
        Ok(self.rows(sequence, sequence, 1)?.found.pop())
    }

    fn count(&self, after: u64) -> Result<u64, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.records.database.get()?.begin_read()?.open_table(CHANGES)?;
            let from = after.saturating_add(1);
            Ok(table.range((&*self.follower, from)..=(&*self.follower, u64::MAX))?.count() as u64)
        };
        read().map_err(|e| unavailable("counting changes", e))
    }

    fn acked(&self, sequence: u64) -> Settled<'_> {
        let change = Write::Follower(Change::Handled(sequence));
        Box::pin(self.records.later(&self.store, &self.follower, change))
    }

    fn ended(&self, sequence: u64) -> Settled<'_> {
        Box::pin(self.change(Change::Handled(sequence)))
    }

    fn failed(&self, sequence: u64, failed: u32) -> Settled<'_> {
        Box::pin(self.change(Change::Failed(sequence, failed)))
    }
}
