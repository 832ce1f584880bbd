//! Reading messages: for consumers, and for people.

use dunlin_api::{StoreError, subject};
use std::sync::Arc;

use super::{ACKED, DEAD, DEAD_LETTERS, MARKS, MESSAGES, Op, Queue, SIZES, row};
use crate::{
    deploy::now_ms,
    store::{
        embedded::streams::log::{Log, Scan, Settled},
        events::{Own, Stored},
    },
};

/// Messages that one scan looks at, whether they match or not.
const LOOKED_AT: usize = 1_024;
/// Bytes of payloads that one scan returns, so that large messages do not come by the hundred.
const SCAN_BYTES: usize = 16 << 20;

impl Queue {
    /// Messages of an own stream in order, see [`crate::store::events::Streams::list`].
    pub(in crate::store::embedded) fn list(
        &self,
        of: Own,
        filter: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let logs = self.logs(of, filter)?;
        self.read("listing messages", |from| {
            let table = from.open_table(MESSAGES)?;
            let mut listed = Vec::new();
            for log in &logs {
                let mut found = 0;
                for row in table.range((&**log, after.saturating_add(1))..=(&**log, u64::MAX))? {
                    if found == limit {
                        break;
                    }
                    let (key, value) = row?;
                    let wanted = |filter| subject::covers(filter, value.value().1);
                    if filter.is_none_or(wanted) && is_kept(log, value.value().0) {
                        listed.push(row::read(key.value().1, value.value())?);
                        found += 1;
                    }
                }
            }
            listed.sort_unstable_by_key(|stored| stored.sequence);
            listed.truncate(limit);
            Ok(listed)
        })
    }

    /// One message of an own stream.
    pub(in crate::store::embedded) fn message(&self, of: Own, sequence: u64) -> Result<Option<Stored>, StoreError> {
        let logs = self.logs(of, None)?;
        self.read("reading a message", |from| {
            let table = from.open_table(MESSAGES)?;
            for log in &logs {
                if let Some(value) = table.get((&**log, sequence))?
                    && is_kept(log, value.value().0)
                {
                    return row::read(sequence, value.value()).map(Some);
                }
            }
            Ok(None)
        })
    }

    /// Deletes one message of an own stream; whether it was there.
    pub(in crate::store::embedded) async fn delete(&self, of: Own, sequence: u64) -> Result<bool, StoreError> {
        let logs = self.logs(of, None)?;
        Ok(self.write(Op::Delete { logs, sequence }).await?.deleted)
    }
}

fn is_kept(log: &str, time_ms: u64) -> bool {
    log != DEAD || now_ms().saturating_sub(time_ms) <= DEAD_LETTERS.as_millis() as u64
}

/// The messages of a log for one consumer.
pub(in crate::store::embedded) struct Reading {
    pub(in crate::store::embedded) queue: Arc<Queue>,
    /// What deliveries name as their stream.
    pub(in crate::store::embedded) name: String,
    pub(in crate::store::embedded) log: String,
    pub(in crate::store::embedded) consumer: String,
    /// None = all.
    pub(in crate::store::embedded) subject: Option<String>,
    /// Where it begins.
    pub(in crate::store::embedded) after: u64,
}

impl Reading {
    fn wants(&self, subject: &str) -> bool {
        self.subject.as_deref().is_none_or(|wanted| subject::covers(wanted, subject))
    }

    fn op_ended(&self, sequence: u64) -> Op {
        Op::Ended { log: self.log.clone(), sequence, consumer: self.consumer.clone() }
    }
}

impl Log for Reading {
    fn name(&self) -> &str {
        &self.name
    }

    fn scan(&self, after: u64, limit: usize) -> Result<Scan, StoreError> {
        self.queue.read("reading messages", |from| {
            let (messages, marks) = (from.open_table(MESSAGES)?, from.open_table(MARKS)?);
            let (mut scan, mut bytes) = (Scan { ended: true, ..Scan::default() }, 0);
            let first = after.max(self.after).saturating_add(1);
            for (looked_at, row) in messages.range((&*self.log, first)..=(&*self.log, u64::MAX))?.enumerate() {
                if looked_at == LOOKED_AT || scan.found.len() == limit || bytes > SCAN_BYTES {
                    scan.ended = false;
                    break;
                }
                let (key, value) = row?;
                scan.last = key.value().1;
                if self.wants(value.value().1) {
                    let mark = marks.get((&*self.log, scan.last, &*self.consumer))?.map_or(0, |mark| mark.value());
                    if mark != ACKED {
                        bytes += value.value().3.len();
                        scan.found.push((row::read(scan.last, value.value())?, mark));
                    }
                }
            }
            Ok(scan)
        })
    }

    fn get(&self, sequence: u64) -> Result<Option<(Stored, u32)>, StoreError> {
        self.queue.read("reading a message", |from| {
            let Some(value) = from.open_table(MESSAGES)?.get((&*self.log, sequence))? else { return Ok(None) };
            let mark = from.open_table(MARKS)?.get((&*self.log, sequence, &*self.consumer))?;
            let mark = mark.map_or(0, |mark| mark.value());
            let stored = row::read(sequence, value.value())?;
            Ok((mark != ACKED).then_some((stored, mark)))
        })
    }

    fn count(&self, after: u64) -> Result<u64, StoreError> {
        self.queue.read("counting messages", |from| {
            if self.subject.is_none() && after == 0 {
                return Ok(from.open_table(SIZES)?.get(&*self.log)?.map_or(0, |size| size.value().0));
            }
            let (messages, marks) = (from.open_table(MESSAGES)?, from.open_table(MARKS)?);
            let (first, mut count) = (after.max(self.after).saturating_add(1), 0);
            for row in messages.range((&*self.log, first)..=(&*self.log, u64::MAX))? {
                let (key, value) = row?;
                let mark = || marks.get((&*self.log, key.value().1, &*self.consumer));
                if self.wants(value.value().1) && mark()?.is_none_or(|mark| mark.value() != ACKED) {
                    count += 1;
                }
            }
            Ok(count)
        })
    }

    fn acked(&self, sequence: u64) -> Settled<'_> {
        Box::pin(self.queue.later(self.op_ended(sequence)))
    }

    fn ended(&self, sequence: u64) -> Settled<'_> {
        Box::pin(async move { self.queue.write(self.op_ended(sequence)).await.map(|_| ()) })
    }

    fn failed(&self, sequence: u64, failed: u32) -> Settled<'_> {
        let (log, consumer) = (self.log.clone(), self.consumer.clone());
        let op = Op::Failed { log, sequence, consumer, failed };
        Box::pin(async move { self.queue.write(op).await.map(|_| ()) })
    }
}
