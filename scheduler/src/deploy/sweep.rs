//! Removes what no deployment refers to: artifacts, compiled code, and revisions that a crash left behind.
//!
//! Run by the node beside its other tasks: at start, every hour, and soon after a deploy or a removal dropped something.
//! It works only while no deploy runs here, and spares for [`SPARED`] what was just uploaded, so that nobody's upload
//! disappears between its PUT and its deploy, also when that is served by another node.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

use super::{DeployError, Deployer, now_ms};

/// An upload that nobody deployed for this long was given up.
pub const SPARED: Duration = Duration::from_secs(3_600);
/// Between sweeps when nothing was dropped.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// Between sweeps however often something is dropped, and before trying again while deploys run.
const PAUSE: Duration = Duration::from_secs(5);

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Revisions without a deployment.
    pub revisions: usize,
    /// Artifacts without a revision.
    pub artifacts: usize,
}

impl Deployer {
    /// Sweeps until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            match self.sweep(SPARED).await {
                Ok(Some(swept)) if swept != Swept::default() => {
                    tracing::info!(revisions = swept.revisions, artifacts = swept.artifacts, "swept");
                }
                Ok(Some(_)) => {}
                Ok(None) => self.unreferenced.notify_one(),
                Err(error) => tracing::warn!(%error, "sweeping failed: it is tried again later"),
            }
            let rest = async {
                tokio::time::sleep(PAUSE).await;
                // Waiting for an hour at most is meant: the hour being over is a reason to sweep as well.
                let _ = tokio::time::timeout(INTERVAL, self.unreferenced.notified()).await;
            };
            if stop.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }

    /// Removes what nothing refers to and what was not used for `spared`; none while deploys run.
    ///
    /// # Errors
    /// When a store fails; what was removed by then is gone.
    pub async fn sweep(&self, spared: Duration) -> Result<Option<Swept>, DeployError> {
        let Ok(_all) = self.turns.try_acquire_many(super::TURNS) else { return Ok(None) };
        let mut swept = Swept::default();
        let spared_ms = u64::try_from(spared.as_millis()).unwrap_or(u64::MAX);
        for revision in self.catalog.orphans(now_ms().saturating_sub(spared_ms)).await? {
            self.catalog.forget(&revision.function, &revision.id).await?;
            swept.revisions += 1;
        }
        // Before the deployments: an artifact that comes later is not looked at.
        let artifacts = self.artifacts.list().await?;
        let entries = self.catalog.entries().await?;
        let used: HashSet<_> = entries.iter().flat_map(|entry| &entry.artifacts).collect();
        for artifact in artifacts.iter().filter(|a| !used.contains(&a.digest)) {
            self.prepare.retire(artifact.digest);
            let age = SystemTime::now().duration_since(artifact.used).unwrap_or_default();
            if age >= spared {
                self.artifacts.delete(artifact.digest).await?;
                swept.artifacts += 1;
            }
        }
        Ok(Some(swept))
    }
}
