//! Gets linked code for an artifact: from memory, from disk, or from the compiler, in this order.
//!
//! Whatever it takes happens once per artifact and goes on when the one who asked first has left.

use dunlin_api::{Artifacts, Digest, Refusal, Revision, World};
use quick_cache::sync::Cache;
use std::{io, sync::Arc};
use tokio_util::task::TaskTracker;
use wasmtime::component::Component;

use crate::{
    code::CodeStore,
    compile::Compile,
    engine::EngineKind,
    executor::fetch_refusal,
    inspect::inspect,
    ready::{Code, Node},
};

/// Components remembered here, so that revisions with the same artifact share one. Small, because ready revisions hold
/// their code themselves and are what bounds the memory of a node.
const MAX_SHARED: usize = 64;

pub(crate) struct Loader {
    node: Arc<Node>,
    store: CodeStore,
    compile: Compile,
    loaded: Cache<(Digest, World), Code>,
    tasks: TaskTracker,
}

impl Loader {
    /// Work that outlives its caller runs on `tasks`.
    pub(crate) fn new(node: Arc<Node>, store: CodeStore, compile: Compile, tasks: TaskTracker) -> Self {
        Self { node, store, compile, loaded: Cache::new(MAX_SHARED), tasks }
    }

    pub(crate) fn corrupt_files(&self) -> u64 {
        self.store.corrupt_files()
    }

    /// Forgets `artifact` in memory and on disk.
    pub(crate) fn forget(&self, artifact: &Digest) {
        for world in [World::Http02, World::Http03, World::Messaging] {
            self.loaded.remove(&(*artifact, world));
        }
        self.store.forget(artifact);
    }

    /// The code of `revision`, linked.
    pub(crate) async fn code(
        self: &Arc<Self>,
        revision: &Arc<Revision>,
        artifacts: &Arc<dyn Artifacts>,
    ) -> Result<Code, Refusal> {
        let key = (revision.artifact, revision.world);
        if let Some(code) = self.loaded.get(&key) {
            return Ok(code);
        }
        let (this, revision, artifacts) = (self.clone(), revision.clone(), artifacts.clone());
        let work = async move { this.loaded.get_or_insert_async(&key, this.make(&revision, artifacts.as_ref())).await };
        self.tasks.spawn(work).await.map_err(|e| Refusal::Node(format!("loading failed: {e}")))?
    }

    async fn make(self: &Arc<Self>, revision: &Revision, artifacts: &dyn Artifacts) -> Result<Code, Refusal> {
        let (artifact, world) = (revision.artifact, revision.world);
        // Which engine it needs is known before it is read only for 0.3; a 0.2 component almost always needs the plain
        // one.
        let likely = match world {
            World::Http02 | World::Messaging => &[EngineKind::Plain, EngineKind::Concurrent][..],
            World::Http03 => &[EngineKind::Concurrent][..],
        };
        for &kind in likely {
            if let Some(component) = self.map(artifact, kind).await? {
                return self.link(component, kind, world).await;
            }
        }
        let bytes = artifacts.fetch(artifact).await.map_err(|e| fetch_refusal(&e))?;
        let needed = inspect(&bytes, &revision.settings)?.engine;
        let component = self.compiled(artifact, needed, &bytes).await?;
        self.link(component, needed, world).await
    }

    /// Compiles `bytes`, takes the result into the store and maps it from there.
    async fn compiled(
        self: &Arc<Self>,
        artifact: Digest,
        kind: EngineKind,
        bytes: &[u8],
    ) -> Result<Component, Refusal> {
        let disk = |e: io::Error| Refusal::Node(format!("compiled code cannot be stored: {e}"));
        let (input, output) = (self.store.scratch().map_err(disk)?, self.store.scratch().map_err(disk)?);
        tokio::fs::write(&input, bytes).await.map_err(disk)?;
        self.compile.run(kind, &input, &output).await?;
        let this = self.clone();
        let save = move || -> Result<(), Refusal> {
            let engine = &this.node.engines.get(kind)?.engine;
            this.store.save(&artifact, kind, engine, &output).map_err(disk)
        };
        blocking(save).await??;
        let missing = || Refusal::Node("compiled code was lost as soon as it was stored".into());
        self.map(artifact, kind).await?.ok_or_else(missing)
    }

    /// Maps the code from disk if it is there and genuine.
    async fn map(self: &Arc<Self>, artifact: Digest, kind: EngineKind) -> Result<Option<Component>, Refusal> {
        let this = self.clone();
        blocking(move || Ok(this.store.load(&artifact, kind, &this.node.engines.get(kind)?.engine))).await?
    }

    async fn link(self: &Arc<Self>, component: Component, kind: EngineKind, world: World) -> Result<Code, Refusal> {
        let this = self.clone();
        blocking(move || Code::link(&this.node.engines, kind, world, &component)).await?
    }
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Refusal::Node(format!("a task failed: {e}")))
}
