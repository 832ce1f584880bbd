//! Deploys: from an uploaded artifact and settings to a revision that serves.
//!
//! Called by [`crate::admin`]. The order is check → prepare → consumers of its triggers → write the revision → compare-and-set
//! the deployment, so traffic moves only to a revision that some node has ready, no event after the deploy is missed, and a deploy that fails or is cut off anywhere leaves the old one serving.
//! The same bytes with the same settings change nothing. A caller that leaves ends its deploy at the next step; what was
//! committed by then holds and is published. Bounds: 4 deploys run (each may hold one component in memory) and
//! 256 more wait; the rest is refused at once.

use dunlin_api::{Deployment, FunctionName, HttpTrigger, Prepare, Revision, RevisionId, StoreError, Version};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

use crate::{
    catalog::{Catalog, Entry, KEPT_REVISIONS},
    routes::check_routes,
    snapshot::Snapshot,
    store::{ArtifactStore, events::EventStores},
};

mod claims;
mod error;
mod messages;
mod nodes;
mod sweep;
pub(crate) mod triggers;

pub use error::DeployError;
pub use messages::{DeployRequest, DeployResult, NodeReady};
pub use nodes::{Alone, MakeReady, Readied};
pub use sweep::{SPARED, Swept};

/// Deploys that run at once: compiling is bounded elsewhere, this bounds the components held in memory.
const TURNS: u32 = 4;
/// Deploys that wait for their turn.
const WAITING: usize = 256;
/// Attempts to switch when other nodes deploy the same function meanwhile.
const ATTEMPTS: usize = 16;
/// The gateway takes a new snapshot within milliseconds; a deploy that is committed does not fail because it did not.
const SERVED: Duration = Duration::from_secs(2);

/// Deploys and removes functions.
pub struct Deployer {
    nodes: Arc<dyn MakeReady>,
    catalog: Arc<Catalog>,
    artifacts: Arc<dyn ArtifactStore>,
    prepare: Arc<dyn Prepare>,
    waiting: Semaphore,
    /// One permit for each deploy that runs; who sweeps takes all of them.
    turns: Semaphore,
    /// One change at a time goes from its route check to the published snapshot, or two deploys could take one route.
    switching: Semaphore,
    unreferenced: Notify,
    served: Option<watch::Receiver<Arc<Snapshot>>>,
    events: Option<EventStores>,
}

impl Deployer {
    /// Deploys to `catalog` from `artifacts`; `nodes` makes components ready where they will run, `prepare` checks them here.
    pub fn new(
        nodes: Arc<dyn MakeReady>,
        catalog: Arc<Catalog>,
        artifacts: Arc<dyn ArtifactStore>,
        prepare: Arc<dyn Prepare>,
    ) -> Self {
        Self {
            nodes,
            catalog,
            artifacts,
            prepare,
            waiting: Semaphore::new(TURNS as usize + WAITING),
            turns: Semaphore::new(TURNS as usize),
            switching: Semaphore::new(1),
            unreferenced: Notify::new(),
            served: None,
            events: None,
        }
    }

    /// Makes deploys answer only when `served`, what this node's gateway serves by, has the new deployment: who was
    /// told that a deploy is done finds it at the gateway.
    #[must_use]
    pub fn waiting_for(mut self, served: watch::Receiver<Arc<Snapshot>>) -> Self {
        self.served = Some(served);
        self
    }

    /// Makes triggers beside HTTP possible: without these stores a function that has one is refused.
    #[must_use]
    pub fn with_events(mut self, events: EventStores) -> Self {
        self.events = Some(events);
        self
    }

    /// What was given by [`with_events`](Self::with_events).
    pub(crate) fn events(&self) -> Option<&EventStores> {
        self.events.as_ref()
    }

    /// Makes `request` the serving revision of its function.
    ///
    /// # Errors
    /// Says what is wrong and what to do; the function is as it was.
    pub async fn deploy(&self, request: DeployRequest) -> Result<DeployResult, DeployError> {
        let _place = self.waiting.try_acquire().map_err(|_| DeployError::Busy(TURNS as usize + WAITING))?;
        request.settings.check().map_err(DeployError::Settings)?;
        check_routes(&self.catalog.snapshot(), &request.function, &request.settings.http)?;
        let _turn = turn(&self.turns).await;
        self.check_expected(&request).await?;
        let revision = Arc::new(self.revision(&request).await?);
        let nodes = nodes::ready_somewhere(&*self.nodes, &revision).await?;
        let deployed = self.catalog.snapshot().functions.get(&revision.function).cloned();
        triggers::prepare(self.events.as_ref(), deployed.as_deref(), &revision).await?;
        let (version, changed) = self.switch(&revision, request.expected).await?;
        if changed {
            self.until_served(&revision.function, version).await;
            tracing::info!(function = %revision.function, revision = %revision.id, version, "deployed");
        }
        Ok(DeployResult {
            function: revision.function.clone(),
            revision: revision.id.clone(),
            artifact: revision.artifact,
            changed,
            version,
            routes: revision.settings.http.iter().map(show_route).collect(),
            nodes,
        })
    }

    /// Ends the deployment of `name` and forgets its revisions and its places in streams. Invocations that run are not
    /// interrupted. Events that wait for it are given up only if `discard` says so. What an earlier removal or a deploy
    /// that failed left behind is removed as well.
    ///
    /// # Errors
    /// `NoFunction`, `EventsWait`, or the store failed.
    pub async fn remove(&self, name: &FunctionName, discard: bool) -> Result<(), DeployError> {
        let _switch = turn(&self.switching).await;
        let entry = self.catalog.entry(name).await?;
        let remains = match &self.events {
            Some(events) => Some(triggers::Remains::find(events, name).await?),
            None => None,
        };
        if entry.is_none() && remains.as_ref().is_none_or(triggers::Remains::is_empty) {
            return Err(DeployError::NoFunction(name.clone()));
        }
        if let Some(remains) = remains.as_ref().filter(|_| !discard) {
            remains.check_nothing_waits(name).await?;
        }
        if let Some((entry, version)) = entry {
            self.catalog.remove(name, version).await?;
            claims::release(&self.catalog, name).await?;
            for id in &entry.deployment.revisions {
                self.catalog.forget(name, id).await?;
            }
            self.unreferenced.notify_one();
        }
        if let Some(remains) = remains {
            remains.remove(name).await?;
        }
        tracing::info!(function = %name, discard, "removed");
        Ok(())
    }

    async fn until_served(&self, name: &FunctionName, version: Version) {
        let Some(mut served) = self.served.clone() else { return };
        let there = served.wait_for(|snapshot| snapshot.functions.get(name).is_some_and(|f| f.version >= version));
        if tokio::time::timeout(SERVED, there).await.is_err() {
            tracing::warn!(function = %name, version, "the gateway does not serve a deployment yet that is committed");
        }
    }

    /// Refuses before anything expensive happens what the switch would refuse.
    async fn check_expected(&self, request: &DeployRequest) -> Result<(), DeployError> {
        let found = self.catalog.entry(&request.function).await?.map(|(_, version)| version);
        conflict(&request.function, request.expected, found)
    }

    /// The revision to deploy: a kept one as it is, a new one after its check.
    async fn revision(&self, request: &DeployRequest) -> Result<Revision, DeployError> {
        let id = RevisionId::of(&request.artifact, &request.settings);
        // Marks it as used, so that no sweep takes it from under this deploy.
        let size_bytes = self.artifacts.touch(request.artifact).await?;
        let size_bytes = size_bytes.ok_or(DeployError::UnknownArtifact(request.artifact))?;
        if let Some(kept) = self.catalog.revision(&request.function, &id).await? {
            // Twelve digits name a revision; nobody gets another one that happens to share them.
            if kept.artifact == request.artifact && kept.settings == request.settings {
                return Ok(kept);
            }
        }
        let component = self.artifacts.fetch(request.artifact).await?;
        let world = self.prepare.check(component, &request.settings).await.map_err(DeployError::Refused)?;
        Ok(Revision {
            function: request.function.clone(),
            id,
            artifact: request.artifact,
            size_bytes,
            world,
            settings: request.settings.clone(),
            created_ms: now_ms(),
        })
    }

    /// Makes `revision` the only serving one; returns the version and whether anything changed.
    async fn switch(&self, revision: &Revision, expected: Option<Version>) -> Result<(Version, bool), DeployError> {
        let name = &revision.function;
        let _switch = turn(&self.switching).await;
        for _ in 0..ATTEMPTS {
            let before = self.catalog.entry(name).await?;
            let version = before.as_ref().map(|(_, version)| *version);
            conflict(name, expected, version)?;
            let serving = before.as_ref().map(|(entry, _)| entry.deployment.serving.as_slice());
            if let (Some([(id, _)]), Some(version)) = (serving, version)
                && *id == revision.id
            {
                return Ok((version, false));
            }
            claims::claim(&self.catalog, revision).await?;
            self.catalog.keep(revision).await?;
            let (entry, dropped) = serve_only(before.map(|(entry, _)| entry), revision);
            match self.catalog.switch(&entry, version).await {
                Ok(version) => {
                    self.forget(name, &dropped).await;
                    return Ok((version, true));
                }
                // Another node deployed it meanwhile: look again.
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(DeployError::Contended(name.clone()))
    }

    /// Deletes revisions that are not kept any more. The deploy has happened, so a failure is left to the next sweep.
    async fn forget(&self, name: &FunctionName, dropped: &[RevisionId]) {
        for id in dropped {
            if let Err(error) = self.catalog.forget(name, id).await {
                tracing::warn!(function = %name, revision = %id, %error, "an old revision stays until the next sweep");
            }
        }
        if !dropped.is_empty() {
            self.unreferenced.notify_one();
        }
    }
}

/// The entry in which only `revision` serves, and the revisions that it does not keep any more.
fn serve_only(before: Option<Entry>, revision: &Revision) -> (Entry, Vec<RevisionId>) {
    let (mut ids, mut artifacts) = before.map(|b| (b.deployment.revisions, b.artifacts)).unwrap_or_default();
    if let Some(at) = ids.iter().position(|id| *id == revision.id) {
        ids.remove(at);
        artifacts.remove(at);
    }
    ids.push(revision.id.clone());
    artifacts.push(revision.artifact);
    let surplus = ids.len().saturating_sub(KEPT_REVISIONS);
    let dropped = ids.drain(..surplus).collect();
    artifacts.drain(..surplus);
    let deployment =
        Deployment { function: revision.function.clone(), serving: vec![(revision.id.clone(), 1)], revisions: ids };
    (Entry { deployment, artifacts }, dropped)
}

fn conflict(name: &FunctionName, expected: Option<Version>, found: Option<Version>) -> Result<(), DeployError> {
    match expected {
        Some(expected) if expected != found.unwrap_or(0) => {
            Err(DeployError::Conflict { function: name.clone(), expected, found: found.unwrap_or(0) })
        }
        _ => Ok(()),
    }
}

async fn turn(semaphore: &Semaphore) -> SemaphorePermit<'_> {
    semaphore.acquire().await.expect("the semaphores of a deployer are never closed")
}

/// A route as people write it: `POST shop.example.com/checkout/{id}`.
pub(crate) fn show_route(trigger: &HttpTrigger) -> String {
    let methods = if trigger.methods.is_empty() { String::new() } else { trigger.methods.join(",") + " " };
    format!("{methods}{}{}", trigger.host.as_deref().unwrap_or(""), trigger.route)
}

/// Now, in milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
