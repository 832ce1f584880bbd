//! What is deployed: functions, their immutable revisions and their deployments, on top of a [`CatalogStore`].
//!
//! Opened by the node before it serves; written by [`crate::deploy`]; read by everyone else as a [`Snapshot`] that is
//! published whole after each change. A change costs reads of the changed function only. Changes that others make arrive
//! through [`Catalog::follow`]. Bounds: [`KEPT_REVISIONS`] per function, 32 reads at once while loading.
//!
//! Keys: `fn/<function>` holds the deployment, `rev/<function>/<revision>` each revision.

use bytes::Bytes;
use dunlin_api::{Deployment, Digest, FunctionName, Revision, RevisionId, StoreError, Version};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    snapshot::{Deployed, Snapshot},
    store::{CatalogStore, Change},
};

/// Revisions kept of one function, the serving ones included: enough to go back over a bad week.
pub const KEPT_REVISIONS: usize = 10;
/// Reads under way at once while the catalog is loaded from a store that is elsewhere.
const LOADS: usize = 32;
/// Between attempts to read the catalog again when the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// What `fn/<function>` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub(crate) deployment: Deployment,
    /// The artifacts of `deployment.revisions`, in the same order: who sweeps artifacts need not read every revision.
    pub(crate) artifacts: Vec<Digest>,
}

/// The deployed functions and the store behind them.
pub struct Catalog {
    store: Arc<dyn CatalogStore>,
    published: watch::Sender<Arc<Snapshot>>,
}

impl Catalog {
    /// Loads everything that serves from `store`.
    ///
    /// # Errors
    /// When the store fails, or holds what is not a catalog (`Corrupt`, naming the key).
    pub async fn open(store: Arc<dyn CatalogStore>) -> Result<Self, StoreError> {
        let snapshot = load(&*store).await?;
        Ok(Self { store, published: watch::Sender::new(Arc::new(snapshot)) })
    }

    pub(crate) fn store(&self) -> &dyn CatalogStore {
        &*self.store
    }

    /// What serves now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().clone()
    }

    /// What serves now and from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.subscribe()
    }

    /// Publishes what other nodes change, until `stop`. The node runs it beside its other tasks.
    pub async fn follow(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let followed = stop.run_until_cancelled(self.follow_once()).await;
            if let Some(Err(error)) = followed {
                tracing::warn!(%error, "the catalog cannot be followed: it serves what it knows and tries again");
            }
            stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
        }
    }

    async fn follow_once(&self) -> Result<(), StoreError> {
        let mut changes = self.store.watch().await?;
        // What changed between the last load and the watch.
        self.reload().await?;
        while let Some(change) = changes.next().await {
            match change {
                Change::Key(key) => {
                    if let Some(Ok(name)) = key.strip_prefix("fn/").map(str::parse) {
                        self.refresh(&name).await?;
                    }
                }
                Change::Reload => self.reload().await?,
            }
        }
        Ok(())
    }

    async fn reload(&self) -> Result<(), StoreError> {
        loop {
            let before = self.snapshot();
            let next = load(&*self.store).await?;
            if self.publish(&before, next) {
                return Ok(());
            }
        }
    }

    /// Reads one function again and publishes it as it is now.
    pub(crate) async fn refresh(&self, name: &FunctionName) -> Result<(), StoreError> {
        loop {
            let before = self.snapshot();
            let known = before.functions.get(name);
            let found = self.entry(name).await?;
            if known.map(|k| k.version) == found.as_ref().map(|(_, version)| *version) {
                return Ok(());
            }
            let mut next = before.functions.clone();
            match found {
                None => next.remove(name),
                Some((entry, version)) => {
                    let deployed = resolve(&*self.store, entry.deployment, version, known).await?;
                    next.insert(name.clone(), Arc::new(deployed))
                }
            };
            if self.publish(&before, Snapshot { functions: next }) {
                return Ok(());
            }
        }
    }

    /// Publishes `next` unless someone else published since `before`: what was read for it may be older than that.
    fn publish(&self, before: &Arc<Snapshot>, next: Snapshot) -> bool {
        let next = Arc::new(next);
        self.published.send_if_modified(|current| {
            let unchanged = Arc::ptr_eq(current, before);
            if unchanged {
                *current = next;
            }
            unchanged
        })
    }

    /// The deployment of `name` as the store has it now.
    pub(crate) async fn entry(&self, name: &FunctionName) -> Result<Option<(Entry, Version)>, StoreError> {
        let key = function_key(name);
        let found = self.store.get(&key).await?;
        found.map(|(value, version)| Ok((parse(&key, &value)?, version))).transpose()
    }

    /// Every function as the store has it now.
    pub(crate) async fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let records = self.store.list("fn/").await?;
        records.iter().map(|record| parse(&record.key, &record.value)).collect()
    }

    /// Makes `entry` the deployment of its function if the stored one still has the version `expected`, and publishes
    /// it. After a `Conflict` the published state is the newer one.
    pub(crate) async fn switch(&self, entry: &Entry, expected: Option<Version>) -> Result<Version, StoreError> {
        let name = &entry.deployment.function;
        let switched = self.store.put(&function_key(name), to_json(entry), expected).await;
        self.refresh(name).await?;
        switched
    }

    /// Ends the deployment of `name` if it still has the version `expected`, and publishes that.
    pub(crate) async fn remove(&self, name: &FunctionName, expected: Version) -> Result<(), StoreError> {
        let removed = self.store.delete(&function_key(name), expected).await;
        self.refresh(name).await?;
        removed
    }

    /// A kept revision.
    ///
    /// # Errors
    /// When the store fails or the record is corrupt.
    pub async fn revision(&self, name: &FunctionName, id: &RevisionId) -> Result<Option<Revision>, StoreError> {
        let key = revision_key(name, id);
        let found = self.store.get(&key).await?;
        found.map(|(value, _)| parse(&key, &value)).transpose()
    }

    /// The kept revisions of `name`, newest last; none if it is not deployed.
    ///
    /// # Errors
    /// When the store fails or a record is corrupt.
    pub async fn revisions(&self, name: &FunctionName) -> Result<Option<Vec<Revision>>, StoreError> {
        let Some((entry, _)) = self.entry(name).await? else { return Ok(None) };
        let mut kept = Vec::with_capacity(entry.deployment.revisions.len());
        for id in &entry.deployment.revisions {
            kept.extend(self.revision(name, id).await?);
        }
        Ok(Some(kept))
    }

    /// Writes a revision; the same one again changes nothing, so that its first date stays.
    pub(crate) async fn keep(&self, revision: &Revision) -> Result<(), StoreError> {
        let key = revision_key(&revision.function, &revision.id);
        match self.store.put(&key, to_json(revision), None).await {
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes a revision that nothing refers to any more.
    pub(crate) async fn forget(&self, name: &FunctionName, id: &RevisionId) -> Result<(), StoreError> {
        let key = revision_key(name, id);
        let Some((_, version)) = self.store.get(&key).await? else { return Ok(()) };
        match self.store.delete(&key, version).await {
            Ok(()) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Revisions in the store that no deployment keeps, and that are older than `before_ms`: a crash left them.
    pub(crate) async fn orphans(&self, before_ms: u64) -> Result<Vec<Revision>, StoreError> {
        let records = self.store.list("rev/").await?;
        // Listed after the revisions: one that was deployed meanwhile is seen as kept.
        let entries = self.entries().await?;
        let kept: HashSet<_> = entries
            .iter()
            .map(|e| &e.deployment)
            .flat_map(|d| d.revisions.iter().map(|id| revision_key(&d.function, id)))
            .collect();
        let orphans = records.iter().filter(|record| !kept.contains(&record.key));
        let orphans = orphans.map(|record| parse::<Revision>(&record.key, &record.value));
        orphans.filter(|r| r.as_ref().map_or(true, |r| r.created_ms < before_ms)).collect()
    }
}

async fn load(store: &dyn CatalogStore) -> Result<Snapshot, StoreError> {
    let records = store.list("fn/").await?;
    let deployed = stream::iter(records).map(|record| async move {
        let entry: Entry = parse(&record.key, &record.value)?;
        let deployed = resolve(store, entry.deployment, record.version, None).await?;
        Ok::<_, StoreError>((deployed.deployment.function.clone(), Arc::new(deployed)))
    });
    Ok(Snapshot { functions: deployed.buffer_unordered(LOADS).try_collect().await? })
}

/// Finds the revisions that serve, among the `known` ones or in the store.
async fn resolve(
    store: &dyn CatalogStore,
    deployment: Deployment,
    version: Version,
    known: Option<&Arc<Deployed>>,
) -> Result<Deployed, StoreError> {
    let mut serving = Vec::with_capacity(deployment.serving.len());
    for (id, weight) in &deployment.serving {
        let same = known.and_then(|k| k.serving.iter().find(|(revision, _)| revision.id == *id));
        let revision = match same {
            Some((revision, _)) => revision.clone(),
            None => {
                let key = revision_key(&deployment.function, id);
                let (value, _) = store.get(&key).await?.ok_or_else(|| StoreError::NotFound(format!("`{key}`")))?;
                Arc::new(parse(&key, &value)?)
            }
        };
        serving.push((revision, *weight));
    }
    Ok(Deployed { deployment, version, serving })
}

fn function_key(name: &FunctionName) -> String {
    format!("fn/{name}")
}

fn revision_key(name: &FunctionName, id: &RevisionId) -> String {
    format!("rev/{name}/{id}")
}

fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("the record `{key}`"), e.to_string()))
}

fn to_json(record: &impl Serialize) -> Bytes {
    serde_json::to_vec(record).expect("records have only string keys").into()
}
