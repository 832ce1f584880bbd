//! Runs invocations on this node: finds the revision ready or makes it so, admits, runs.
//!
//! Callers are the router, which invokes, and the deployer, which checks and prepares. Code is compiled once per
//! artifact however many wait for it, never while a call holds a slot; the memory of ready revisions is bounded (`cache`).

use bytes::Bytes;
use dunlin_api::{
    Artifacts, Body, BoxFuture, ByteSize, Declined, Digest, Invocation, Invoke, InvokeError, KeyValue, Load, LocalNode,
    Logs, Prepare, Publish, Refusal, Revision, Settings, StoreError, Timing, World,
};
use http::Response;
use std::{
    num::NonZero,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    StartError,
    admission::{Admission, Admitted},
    cache::{self, ReadyCache},
    code::{self, CodeStore},
    compile::Compile,
    config::RuntimeConfig,
    engine::Engines,
    entry,
    host::{EgressClient, EgressConfig},
    inspect::inspect,
    loader::{Loader, Why},
    ready::{Node, Ready},
};

/// How often idle instances are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// The runtime of one node.
pub struct Executor {
    node: Arc<Node>,
    loader: Arc<Loader>,
    artifacts: Arc<dyn Artifacts>,
    ready: ReadyCache,
    /// Calls that wait for code to be loaded or compiled; they hold no slot.
    waiting: AtomicU32,
    config: RuntimeConfig,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Executor {
    /// Starts the runtime of a node. Must be called within a tokio runtime, best that of [`crate::tokio_runtime`].
    ///
    /// # Errors
    /// If the data directory cannot be used or wasmtime cannot work on this machine.
    pub fn new(
        config: RuntimeConfig,
        artifacts: Arc<dyn Artifacts>,
        keyvalue: Arc<dyn KeyValue>,
        publish: Arc<dyn Publish>,
        logs: Arc<dyn Logs>,
    ) -> Result<Arc<Self>, StartError> {
        let engines = Engines::new(config.slots)?;
        Self::with_engines(engines, config, artifacts, keyvalue, publish, logs)
    }

    /// As [`Executor::new`] with engines that were made before, for as many slots: that can happen beside other things.
    ///
    /// # Errors
    /// If the data directory cannot be used.
    pub fn with_engines(
        engines: Engines,
        config: RuntimeConfig,
        artifacts: Arc<dyn Artifacts>,
        keyvalue: Arc<dyn KeyValue>,
        publish: Arc<dyn Publish>,
        logs: Arc<dyn Logs>,
    ) -> Result<Arc<Self>, StartError> {
        let store = CodeStore::open(config.data_dir.join("code"), config.code_cache)
            .map_err(|error| StartError::Directory { dir: config.data_dir.clone(), error })?;
        let admission = Admission::new(config.slots, engines.ticker.clone());
        let egress = EgressConfig { forbidden: config.forbidden_egress.clone(), ..EgressConfig::default() };
        let tasks = TaskTracker::new();
        let node = Arc::new(Node {
            engines,
            admission,
            keyvalue,
            publish,
            logs,
            egress: Arc::new(EgressClient::new(egress)),
            after: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            seconds: AtomicU32::new(1),
        });
        let compile = Compile::new(config.compiler.clone(), config.max_compiles);
        let loader = Arc::new(Loader::new(node.clone(), store, compile, tasks.clone()));
        let executor = Arc::new(Self {
            node,
            loader,
            artifacts,
            ready: cache::bounded(config.code_memory),
            waiting: AtomicU32::new(0),
            config,
            stop: CancellationToken::new(),
            tasks,
        });
        executor.tasks.spawn(sweep(Arc::downgrade(&executor), executor.stop.clone()));
        Ok(executor)
    }

    /// How much code may be kept loaded; see [`RuntimeConfig::code_memory`].
    pub fn code_memory(&self) -> ByteSize {
        self.config.code_memory
    }

    /// How much code is loaded, counted in the same way.
    pub fn code_loaded(&self) -> ByteSize {
        ByteSize(self.ready.weight())
    }

    /// Compiled files that were found corrupt since start; each was compiled again.
    pub fn corrupt_code_files(&self) -> u64 {
        self.loader.corrupt_files()
    }

    /// Refuses new invocations, waits for running ones until `grace` has passed, then stops. True if all had ended.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.node.admission.drain();
        self.stop.cancel();
        self.node.after.close();
        self.tasks.close();
        let quiet = async {
            while LocalNode::load(self).in_flight > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.node.after.wait().await;
        };
        let drained = tokio::time::timeout(grace, quiet).await.is_ok();
        self.note(0).await;
        drained
    }

    /// Notes on disk what was called in the second `since` or later.
    async fn note(&self, since: u32) {
        let (now, second) = (SystemTime::now(), self.node.seconds.load(Relaxed));
        let called = self.ready.iter().filter(|(_, ready)| ready.used() >= since.max(1));
        let at = |used: u32| now - Duration::from_secs(second.saturating_sub(used).into());
        self.loader.note(called.map(|(_, ready)| (ready.code.clone(), at(ready.used()))).collect()).await;
    }

    /// The revision, ready to be called; loads or compiles it if it must, for a call or ahead of one.
    async fn ready(&self, revision: &Arc<Revision>, why: Why) -> Result<Arc<Ready>, Refusal> {
        let key = (revision.function.clone(), revision.id.clone());
        let make = async {
            let code = self.loader.code(revision, &self.artifacts, why).await?;
            Ready::new(self.node.clone(), revision.clone(), code)
        };
        let ready = self.ready.get_or_insert_async(&key, make).await?;
        cache::keep(&self.ready, key, &ready);
        Ok(ready)
    }

    /// Like [`Self::ready`], for a call: bounded in number and by the call's deadline.
    async fn ready_by(
        &self,
        revision: &Arc<Revision>,
        deadline: tokio::time::Instant,
    ) -> Result<Arc<Ready>, InvokeError> {
        let _place = Waiting::enter(&self.waiting, self.config.slots).ok_or_else(|| InvokeError::Busy(self.load()))?;
        let timeout = revision.settings.limits.timeout;
        let ready = tokio::time::timeout_at(deadline, self.ready(revision, Why::Called)).await;
        ready.map_err(|_| InvokeError::Deadline(timeout))?.map_err(|refusal| {
            tracing::error!(function = %revision.function, revision = %revision.id, %refusal, "not ready");
            InvokeError::NotReady(refusal.to_string())
        })
    }
}

impl Invoke for Executor {
    async fn invoke(&self, call: Invocation) -> Result<Response<Body>, InvokeError> {
        let key = (call.revision.function.clone(), call.revision.id.clone());
        let (ready, load) = match self.ready.get(&key) {
            Some(ready) => (ready, None),
            None => {
                let asked = Instant::now();
                (self.ready_by(&call.revision, call.deadline).await?, Some(asked.elapsed()))
            }
        };
        let admitted = ready.admit(call.last)?;
        let mut response = run(ready, call, admitted).await?;
        if let (Some(load), Some(timing)) = (load, response.extensions_mut().get_mut::<Timing>()) {
            (timing.load, timing.cold) = (load, true);
        }
        Ok(response)
    }
}

impl LocalNode for Executor {
    fn begin(
        &self,
        call: Invocation,
    ) -> Result<impl Future<Output = Result<Response<Body>, InvokeError>> + Send, Box<Declined>> {
        let key = (call.revision.function.clone(), call.revision.id.clone());
        let Some(ready) = self.ready.get(&key) else {
            let why = InvokeError::NotReady("it is not loaded here".into());
            return Err(Box::new(Declined { call, why }));
        };
        match ready.admit(call.last) {
            Ok(admitted) => Ok(run(ready, call, admitted)),
            Err(why) => Err(Box::new(Declined { call, why })),
        }
    }

    fn load(&self) -> Load {
        self.node.admission.load()
    }

    fn is_ready(&self, revision: &Revision) -> bool {
        self.ready.contains_key(&(revision.function.clone(), revision.id.clone()))
    }

    fn ready_count(&self) -> usize {
        self.ready.len()
    }

    fn has_room(&self) -> bool {
        cache::has_room(&self.ready)
    }

    fn by_recent_use(&self, revisions: Vec<Arc<Revision>>) -> impl Future<Output = Vec<Arc<Revision>>> + Send {
        self.loader.by_recent_use(revisions)
    }
}

/// Runs an admitted call, as soon as it has its slot.
async fn run(ready: Arc<Ready>, call: Invocation, admitted: Admitted) -> Result<Response<Body>, InvokeError> {
    ready.mark_used();
    let timeout = ready.revision.settings.limits.timeout;
    let (permit, queue) = admitted.permit(call.deadline, timeout).await?;
    let mut response = entry::run(ready, call, permit).await?;
    if !queue.is_zero()
        && let Some(timing) = response.extensions_mut().get_mut::<Timing>()
    {
        timing.queue = queue;
    }
    Ok(response)
}

impl Prepare for Executor {
    fn check<'a>(&'a self, component: Bytes, settings: &'a Settings) -> BoxFuture<'a, Result<World, Refusal>> {
        Box::pin(async move {
            settings.check().map_err(Refusal::Settings)?;
            let (size, limit) = (ByteSize(component.len() as u64), self.config.max_component);
            if size > limit {
                return Err(Refusal::TooLarge { size, limit });
            }
            let settings = settings.clone();
            let work = tokio::task::spawn_blocking(move || inspect(&component, &settings));
            let inspection = work.await.map_err(|e| Refusal::NotComponent(format!("reading it failed: {e}")))??;
            Ok(inspection.world)
        })
    }

    fn prepare(&self, revision: Arc<Revision>) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move { self.ready(&revision, Why::Ahead).await.map(drop) })
    }

    fn retire(&self, artifact: Digest) {
        self.ready.retain(|_, ready| ready.revision.artifact != artifact);
        self.loader.forget(&artifact);
    }
}

/// A place among the calls that wait for code.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicU32, limit: u32) -> Option<Self> {
        count.fetch_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1)).ok().map(|_| Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Looks after what is ready until the executor goes or stops: retires idle instances, moves the clock, takes notes.
async fn sweep(executor: Weak<Executor>, stop: CancellationToken) {
    let (started, mut noted) = (Instant::now(), 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
        let Some(executor) = executor.upgrade() else { return };
        for (_, ready) in executor.ready.iter() {
            ready.instances.sweep();
        }
        // A node that runs for a century stays in its last second.
        let second = u32::try_from(started.elapsed().as_secs()).unwrap_or(u32::MAX).max(1);
        executor.node.seconds.store(second, Relaxed);
        if u64::from(second - noted) >= code::NOTED.as_secs() {
            executor.note(noted).await;
            noted = second;
        }
    }
}

/// What a store's failure means for the one who wanted an artifact.
pub(crate) fn fetch_refusal(error: &StoreError) -> Refusal {
    Refusal::Node(format!("its artifact cannot be had: {error}"))
}
