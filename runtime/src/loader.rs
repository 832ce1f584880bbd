//! Gets linked code for an artifact: from memory, from disk, or from the compiler, in this order.
//!
//! The executor asks when a revision is not ready. From disk it is one piece of work on one blocking thread, because a
//! call waits for it. Compiling happens once per artifact and goes on when the one who asked first has left. Bounded by
//! who holds the code: nothing is kept loaded here.

use dunlin_api::{Artifacts, Digest, Refusal, Revision, World};
use quick_cache::sync::Cache;
use std::{io, sync::Arc, time::SystemTime};
use tokio_util::task::TaskTracker;

use crate::{
    code::CodeStore,
    compile::Compile,
    engine::EngineKind,
    executor::fetch_refusal,
    inspect::inspect,
    ready::{Code, Node},
};
use shared::{CodeKey, SharedCode};

mod shared;

/// Compilations that others can join. More are not under way: the deployer runs fewer deploys at once, and calls that
/// wait for a compilation are bounded by the slots.
const COMPILING: usize = 4096;

/// Why code is loaded: only what is called counts as used, or prefetching would reverse the order that it goes by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// A call waits for it.
    Called,
    /// A deploy or a start makes it ready.
    Ahead,
}

pub(crate) struct Loader {
    node: Arc<Node>,
    store: CodeStore,
    compile: Compile,
    /// What is loaded now.
    shared: SharedCode,
    compiling: Cache<CodeKey, Arc<Code>>,
    tasks: TaskTracker,
}

impl Loader {
    /// Work that outlives its caller runs on `tasks`.
    pub(crate) fn new(node: Arc<Node>, store: CodeStore, compile: Compile, tasks: TaskTracker) -> Self {
        let compiling = Cache::new(COMPILING);
        Self { node, store, compile, shared: SharedCode::default(), compiling, tasks }
    }

    pub(crate) fn corrupt_files(&self) -> u64 {
        self.store.corrupt_files()
    }

    /// Forgets `artifact` in memory and on disk.
    pub(crate) fn forget(&self, artifact: &Digest) {
        for world in [World::Http02, World::Http03, World::Messaging] {
            self.shared.forget(&(*artifact, world));
        }
        for kind in [EngineKind::Plain, EngineKind::Concurrent] {
            if let Ok(target) = self.node.engines.target(kind) {
                self.store.forget(artifact, target);
            }
        }
    }

    /// The code of `revision`, linked.
    pub(crate) async fn code(
        self: &Arc<Self>,
        revision: &Arc<Revision>,
        artifacts: &Arc<dyn Artifacts>,
        why: Why,
    ) -> Result<Arc<Code>, Refusal> {
        let key = (revision.artifact, revision.world);
        if let Some(code) = self.shared.get(&key) {
            return Ok(code);
        }
        if let Some(code) = self.from_disk(key, why).await? {
            return Ok(code);
        }
        let (this, revision, artifacts) = (self.clone(), revision.clone(), artifacts.clone());
        let work = async move {
            let make = this.compiled(&revision, artifacts.as_ref());
            let code = this.compiling.get_or_insert_async(&key, make).await;
            this.compiling.remove(&key);
            code
        };
        self.tasks.spawn(work).await.map_err(|e| Refusal::Node(format!("loading failed: {e}")))?
    }

    /// Maps and links the code if it is on disk and genuine.
    async fn from_disk(self: &Arc<Self>, key: CodeKey, why: Why) -> Result<Option<Arc<Code>>, Refusal> {
        let this = self.clone();
        let code = blocking(move || {
            let mut kinds = likely(key.1).iter();
            kinds.find_map(|&kind| this.load(key, kind)).transpose()
        })
        .await??;
        if let (Some(code), Why::Called) = (&code, why) {
            // Now, as it may have to go again before the next round of notes; but no call waits for a write.
            let (this, code) = (self.clone(), code.clone());
            self.tasks.spawn_blocking(move || this.note_one(&code, SystemTime::now()));
        }
        Ok(code)
    }

    /// The code that was compiled for the engine `kind`, if there is some. Blocks.
    fn load(&self, key: CodeKey, kind: EngineKind) -> Option<Result<Arc<Code>, Refusal>> {
        self.try_load(key, kind).transpose()
    }

    fn try_load(&self, key: CodeKey, kind: EngineKind) -> Result<Option<Arc<Code>>, Refusal> {
        let ((artifact, world), engines) = (key, &self.node.engines);
        let target = engines.target(kind)?;
        // Asked before the engine is: most nodes have code for one of the two, and need only that one.
        if !self.store.has(&artifact, target) {
            return Ok(None);
        }
        let engine = engines.get(kind)?;
        let full = |e: wasmtime::Error| Refusal::Node(format!("its code cannot be mapped: {e:#}"));
        let Some(mapped) = self.store.load(&artifact, target, &engine.engine).map_err(full)? else { return Ok(None) };
        let code = Code::link(engine, target, world, artifact, &mapped)?;
        Ok(Some(self.shared.share(key, code)))
    }

    /// Compiles the component of `revision`, takes the result into the store and maps it from there.
    async fn compiled(self: &Arc<Self>, revision: &Revision, artifacts: &dyn Artifacts) -> Result<Arc<Code>, Refusal> {
        let key = (revision.artifact, revision.world);
        // Another may have compiled it since the caller looked.
        if let Some(code) = self.from_disk(key, Why::Ahead).await? {
            return Ok(code);
        }
        let disk = |e: io::Error| Refusal::Node(format!("compiled code cannot be stored: {e}"));
        let bytes = artifacts.fetch(revision.artifact).await.map_err(|e| fetch_refusal(&e))?;
        let kind = inspect(&bytes, &revision.settings)?.engine;
        let (input, output) = (self.store.scratch().map_err(disk)?, self.store.scratch().map_err(disk)?);
        tokio::fs::write(&input, bytes).await.map_err(disk)?;
        self.compile.run(kind, &input, &output).await?;
        let this = self.clone();
        let keep = move || {
            this.store.save(&key.0, this.node.engines.target(kind)?, &output).map_err(disk)?;
            let missing = || Err(Refusal::Node("compiled code was lost as soon as it was stored".into()));
            this.load(key, kind).unwrap_or_else(missing)
        };
        blocking(keep).await?
    }

    /// Notes on disk that these were used, each at its time.
    pub(crate) async fn note(self: &Arc<Self>, used: Vec<(Arc<Code>, SystemTime)>) {
        let this = self.clone();
        let note = move || {
            for (code, at) in used {
                this.note_one(&code, at);
            }
        };
        if let Err(error) = blocking(note).await {
            tracing::warn!(%error, "what was used recently is not noted");
        }
    }

    fn note_one(&self, code: &Code, at: SystemTime) {
        self.store.note(&code.artifact, code.target, at);
    }

    /// Puts what was used most recently first; what has no code on disk comes last.
    pub(crate) async fn by_recent_use(self: &Arc<Self>, mut revisions: Vec<Arc<Revision>>) -> Vec<Arc<Revision>> {
        let (this, unsorted) = (self.clone(), revisions.clone());
        let sort = move || {
            revisions.sort_by_cached_key(|revision| std::cmp::Reverse(this.last_used(revision)));
            revisions
        };
        blocking(sort).await.unwrap_or(unsorted)
    }

    fn last_used(&self, revision: &Revision) -> Option<SystemTime> {
        let mut kinds = likely(revision.world).iter();
        kinds.find_map(|&kind| self.store.last_used(&revision.artifact, self.node.engines.target(kind).ok()?))
    }
}

/// Which engine a component needs is known before it is read only for 0.3; a 0.2 component almost always needs the plain
/// one.
fn likely(world: World) -> &'static [EngineKind] {
    match world {
        World::Http02 | World::Messaging => &[EngineKind::Plain, EngineKind::Concurrent],
        World::Http03 => &[EngineKind::Concurrent],
    }
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Refusal::Node(format!("a task failed: {e}")))
}
