//! Routes that are about to be taken: two nodes may deploy at the same moment, and neither sees the other's deployment yet.
//!
//! One record of the catalog holds the newest claim of each function that deployed in the last minute. A deploy reads it,
//! looks for conflicts, and writes its own claim by compare-and-set before its deployment: of two that want one route, the
//! second finds the claim of the first. Bounded by the deploys of a minute.

use bytes::Bytes;
use dunlin_api::{FunctionName, HttpTrigger, Revision, RevisionId, StoreError, Version};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

use super::{ATTEMPTS, DeployError, now_ms};
use crate::{
    catalog::Catalog,
    routes::{check_claim, check_routes},
    snapshot::Snapshot,
};

/// The record.
const KEY: &str = "claims";
/// A deployment that was written this long ago is in everybody's snapshot.
const VALID: Duration = Duration::from_secs(60);

/// What a function is about to serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claim {
    revision: RevisionId,
    http: Vec<HttpTrigger>,
    at_ms: u64,
}

type Claims = BTreeMap<FunctionName, Claim>;

/// Claims the routes of `revision`.
///
/// # Errors
/// The conflict with another function or claim, or the store failed.
pub(super) async fn claim(catalog: &Catalog, revision: &Revision) -> Result<(), DeployError> {
    change(catalog, |claims| {
        // One snapshot for both: what it shows is checked here, and what it does not show yet is checked as a claim.
        let snapshot = catalog.snapshot();
        check_routes(&snapshot, &revision.function, &revision.settings.http)?;
        for (name, claim) in claims.iter().filter(|(name, claim)| !settled(&snapshot, name, claim)) {
            check_claim(&revision.function, &revision.settings.http, name, &claim.http)?;
        }
        let claim = Claim { revision: revision.id.clone(), http: revision.settings.http.clone(), at_ms: now_ms() };
        claims.insert(revision.function.clone(), claim);
        Ok(())
    })
    .await
}

/// Forgets the claim of a function that was removed.
pub(super) async fn release(catalog: &Catalog, function: &FunctionName) -> Result<(), DeployError> {
    change(catalog, |claims| {
        claims.remove(function);
        Ok(())
    })
    .await
}

async fn change(
    catalog: &Catalog,
    mut edit: impl FnMut(&mut Claims) -> Result<(), DeployError>,
) -> Result<(), DeployError> {
    for _ in 0..ATTEMPTS {
        let (mut claims, version) = read(catalog).await?;
        let oldest = now_ms().saturating_sub(VALID.as_millis() as u64);
        claims.retain(|_, claim| claim.at_ms >= oldest);
        edit(&mut claims)?;
        let value = serde_json::to_vec(&claims).expect("names are strings");
        match catalog.store().put(KEY, value.into(), version).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Conflict("the record of claimed routes".into()).into())
}

async fn read(catalog: &Catalog) -> Result<(Claims, Option<Version>), DeployError> {
    let Some((value, version)) = catalog.store().get(KEY).await? else { return Ok((Claims::new(), None)) };
    Ok((parse(&value)?, Some(version)))
}

fn parse(value: &Bytes) -> Result<Claims, StoreError> {
    serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("the record `{KEY}`"), e.to_string()))
}

/// Whether the snapshot shows what was claimed, so that the claim says nothing more.
fn settled(snapshot: &Snapshot, name: &FunctionName, claim: &Claim) -> bool {
    let deployed = snapshot.functions.get(name);
    deployed.is_some_and(|deployed| deployed.serving.iter().any(|(revision, _)| revision.id == claim.revision))
}
