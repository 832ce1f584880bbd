//! The same `Idempotency-Key` for the same function means the same call. The first request reserves its key before the
//! call is queued; a repeat gets the id of the first. If the first one broke off after its reservation, the repeat queues
//! the call under that id.

use dunlin_api::{Digest, FunctionName, InvocationId, StoreError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{record, submit::SubmitError};
use crate::store::CatalogStore;

/// Reservations that may vanish under a reader before it gives up: they expire once in their life.
const TRIES: usize = 4;

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservation {
    pub id: InvocationId,
    /// SHA-256 over method, target and body.
    pub fingerprint: Digest,
    pub created_ms: u64,
    pub keep_ms: u64,
}

/// Where the reservation of `key` is. Keys are secrets of their callers, of any length and alphabet: their hash is neither.
pub(super) fn record(function: &FunctionName, key: &str) -> String {
    let digest = Digest::of(key.as_bytes());
    let shard = record::shard("idem", usize::from(digest.as_bytes()[0]));
    format!("{shard}{function}/{digest}")
}

/// Begins a fingerprint.
pub(super) fn fingerprint(method: &str, target: &str) -> Sha256 {
    Sha256::new().chain_update(method).chain_update([0]).chain_update(target).chain_update([0])
}

/// Reserves `key` for `mine`, or returns the reservation that was there with the same fingerprint.
///
/// # Errors
/// `KeyReused` if it was reserved for another request; when the store fails.
pub(super) async fn reserve(
    records: &dyn CatalogStore,
    key: &str,
    mine: Reservation,
) -> Result<Reservation, SubmitError> {
    let value = serde_json::to_vec(&mine).expect("a reservation has only string keys");
    for _ in 0..TRIES {
        match records.put(key, value.clone().into(), None).await {
            Ok(_) => return Ok(mine),
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some((found, _)) = records.get(key).await? {
            let found: Reservation = decode(key, &found)?;
            return if found.fingerprint == mine.fingerprint { Ok(found) } else { Err(SubmitError::KeyReused) };
        }
    }
    Err(StoreError::Conflict(format!("the record `{key}`")).into())
}

pub(super) fn decode(key: &str, value: &[u8]) -> Result<Reservation, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Corrupt(format!("the record `{key}`"), error.to_string()))
}
