//! How far a trigger has got: the record `cron/<function>/<trigger>`, which all nodes share.
//!
//! It holds the last tick that was dealt with, and only moves forward. Written after a tick was appended, so that a crash in
//! between appends it once more with the same id and not never.

use dunlin_api::{FunctionName, StoreError, Version, trigger::TriggerId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::CatalogStore;

/// Attempts when others write it meanwhile.
const ATTEMPTS: usize = 16;

/// The record as it was read or written last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) tick: Timestamp,
    version: Version,
}

#[derive(Serialize, Deserialize)]
struct Written {
    /// Milliseconds since the Unix epoch.
    tick: i64,
}

fn prefix(function: &FunctionName) -> String {
    format!("cron/{function}/")
}

/// The key of a trigger's record.
pub(super) fn key(function: &FunctionName, trigger: &TriggerId) -> String {
    format!("{}{trigger}", prefix(function))
}

impl Mark {
    /// The record at `key`.
    pub(super) async fn read(records: &dyn CatalogStore, key: &str) -> Result<Option<Self>, StoreError> {
        let Some((value, version)) = records.get(key).await? else { return Ok(None) };
        let corrupt = |reason: String| StoreError::Corrupt(format!("the record `{key}`"), reason);
        let written: Written = serde_json::from_slice(&value).map_err(|e| corrupt(e.to_string()))?;
        let tick = Timestamp::from_millisecond(written.tick).map_err(|e| corrupt(e.to_string()))?;
        Ok(Some(Self { tick, version }))
    }

    /// Moves the record at `key`, which was `known`, to `tick` unless it is there or further, and returns what it is then.
    pub(super) async fn advance(
        records: &dyn CatalogStore,
        key: &str,
        known: Option<Self>,
        tick: Timestamp,
    ) -> Result<Self, StoreError> {
        let value = serde_json::to_vec(&Written { tick: tick.as_millisecond() }).expect("a number is JSON");
        let mut known = known;
        for _ in 0..ATTEMPTS {
            match known {
                Some(mark) if mark.tick >= tick => return Ok(mark),
                _ => {}
            }
            match records.put(key, value.clone().into(), known.map(|mark| mark.version)).await {
                Ok(version) => return Ok(Self { tick, version }),
                Err(StoreError::Conflict(_)) => known = Self::read(records, key).await?,
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict(format!("the record `{key}`")))
    }
}

/// Makes a trigger that is deployed anew begin at `now`, also if it was deployed before: what came in between was not missed.
pub(crate) async fn begin(
    records: &dyn CatalogStore,
    function: &FunctionName,
    trigger: &TriggerId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let key = key(function, trigger);
    let known = Mark::read(records, &key).await?;
    Mark::advance(records, &key, known, now).await.map(drop)
}

/// Forgets all triggers of a function.
pub(crate) async fn forget(records: &dyn CatalogStore, function: &FunctionName) -> Result<(), StoreError> {
    for record in records.list(&prefix(function)).await? {
        match records.delete(&record.key, record.version).await {
            // A node that did not know yet that the function is gone wrote it: it counts for nothing.
            Ok(()) | Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
