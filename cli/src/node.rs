//! A node, alone or of a cluster: the one place where the stores, the scheduler and the runtime meet.
//!
//! Made in two steps, so that the real addresses can be told before anything else is: [`Bound::listen`] takes the sockets,
//! [`Bound::start`] opens the data directory and serves. Used by `node`, `dev` and `serve`. Every background task is in one
//! `JoinSet`; one that ends by itself is a fault of the node, told by [`Node::failed`]. Stopping refuses new work, gives what
//! runs the grace, then cuts it.

use anyhow::Context as _;
use dunlin_api::{
    Body, BoxFuture, ByteSize, FunctionName, KeyValue, LocalNode as _, NodeName, Prepare as _, Problem, Revision,
    Settings,
};
use dunlin_runtime::{CompileLimits, Compiler, Engines, Executor, RuntimeConfig};
use dunlin_scheduler::{
    admin::{self, Admin, CallError, InvokeByName, Phase, Readiness, Token},
    catalog::Catalog,
    control::{self, Control, NodeStatus},
    deploy::{self, DeployRequest, Deployer, MakeReady},
    dispatch::{Dispatch, Peers},
    events::Events,
    gateway::{self, Caller, Gateway},
    log_hub::LogHub,
    log_share::Lines,
    metrics,
    router::Router,
    store::{ArtifactStore, CatalogStore, embedded::Embedded, events::EventStores},
};
use futures::{StreamExt as _, future, stream};
use http::{HeaderValue, Request, Response};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{Addresses, Link, Member, Part},
    cluster_args::ClusterConfig,
    component::Component,
    exit::{Exit, Failure},
};

mod fired;

use fired::Fired;

/// The name of a node that has no others to be told from.
const NAME: &str = "local";
/// What requests to the admin API get to finish: they answer at once, except for deploys.
const ADMIN_GRACE: Duration = Duration::from_secs(2);

/// How long the goodbyes may take when a node stops.
const GOODBYE: Duration = Duration::from_secs(3);

/// Settings of a node.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    /// Where functions are served.
    pub(crate) http: SocketAddr,
    /// Where the admin API is served.
    pub(crate) admin: SocketAddr,
    /// What is deployed, and the key-value stores.
    pub(crate) data: PathBuf,
    /// Whether nothing of that is needed after this process: it then stands in memory, and nothing waits for a disk.
    pub(crate) volatile: bool,
    /// Compiled code.
    pub(crate) code: PathBuf,
    /// Invocations at once; none = what suits the machine.
    pub(crate) slots: Option<u32>,
    /// Compiled code kept loaded.
    pub(crate) code_memory: ByteSize,
    /// Who may use the admin API; none = everyone who reaches it.
    pub(crate) token: Option<Token>,
    /// What runs when the node stops gets this long to finish.
    pub(crate) grace: Duration,
    /// Adds times to every response, not only where they are asked for.
    pub(crate) timing: bool,
    /// The cluster to join; none = it stands alone.
    pub(crate) cluster: Option<ClusterConfig>,
    /// Cancelled when requests may be served; until then who connects waits. None = at once.
    pub(crate) open: Option<CancellationToken>,
}

/// A node that has its sockets and does not serve yet: who connects waits.
pub(crate) struct Bound {
    /// None for a node that serves no HTTP.
    pub(crate) http_addr: Option<SocketAddr>,
    pub(crate) admin_addr: SocketAddr,
    http: Option<TcpListener>,
    admin: TcpListener,
    config: NodeConfig,
}

/// A node that serves.
pub(crate) struct Node {
    pub(crate) http_addr: Option<SocketAddr>,
    pub(crate) admin_addr: SocketAddr,
    /// Its name.
    pub(crate) name: NodeName,
    /// How many functions were deployed when it started.
    pub(crate) functions: usize,
    artifacts: Arc<dyn ArtifactStore>,
    deployer: Arc<Deployer>,
    executor: Arc<Executor>,
    /// What fires functions beside requests; none on a node that runs nothing.
    events: Option<Arc<Events<Arc<Dispatch<Executor>>>>>,
    part: Option<Part>,
    readiness: Readiness,
    grace: Duration,
    gateway: Option<Stoppable>,
    admin: Stoppable,
    /// Name of each task that ends.
    tasks: JoinSet<&'static str>,
    stop: CancellationToken,
}

/// A server that is stopped by its own token.
struct Stoppable {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Bound {
    /// Takes the sockets.
    pub(crate) async fn listen(config: NodeConfig) -> anyhow::Result<Self> {
        let serves = config.cluster.as_ref().is_none_or(|cluster| cluster.gateway);
        let http = if serves { Some(listen(config.http, "--http").await?) } else { None };
        let admin = listen(config.admin, "--admin").await?;
        let http_addr = http.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(Self { http_addr, admin_addr: admin.local_addr()?, http, admin, config })
    }

    /// Opens the stores, starts the runtime, joins the cluster if there is one, and serves.
    pub(crate) async fn start(self) -> anyhow::Result<Node> {
        let Self { http_addr, admin_addr, http, admin: admin_listener, config } = self;
        raise_file_limit();
        let link = match config.cluster.clone() {
            Some(cluster) => Some(Link::connect(cluster).await?),
            None => None,
        };
        let name = link.as_ref().map_or_else(|| NAME.parse().expect("it is a name"), |link| link.name().clone());
        let mut forbidden = vec![admin_addr];
        if let Some(link) = &link {
            forbidden.extend(link.servers().await);
        }
        let runtime = runtime_config(&config, forbidden);
        let slots = runtime.slots;
        // Both take milliseconds, one of the disk and one of the address space.
        let engines = async { Ok(tokio::task::spawn_blocking(move || Engines::new(slots)).await??) };
        let (stores, engines) = tokio::try_join!(Stores::open(link.as_ref(), &config), engines)?;
        let logs = Arc::new(LogHub::default());
        let (artifacts, bus) = (stores.artifacts.clone(), stores.events.bus.clone());
        let executor = Executor::with_engines(engines, runtime, artifacts, stores.keyvalue, bus, logs.clone())?;
        let catalog = Arc::new(Catalog::open(stores.catalog).await?);
        let snapshot = catalog.snapshot();
        let functions = snapshot.functions.len();

        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(named("the catalog", follow_catalog(catalog.clone(), stop.clone())));
        let addresses = Addresses { http: http_addr, admin: admin_addr };
        let wired = match link {
            Some(link) => {
                Wired::among(
                    // On the heap, as it takes kilobytes.
                    Box::pin(link.join(
                        executor.clone(),
                        catalog.clone(),
                        logs.clone(),
                        addresses,
                        (&mut tasks, &stop),
                    ))
                    .await?,
                )
            }
            None => {
                tasks.spawn(named("warming", warm(executor.clone(), catalog.clone(), stop.clone())));
                Wired::alone(&name, &executor, &catalog, logs.clone(), addresses)
            }
        };
        let readings = readings(executor.clone(), wired.dispatch.clone(), wired.part.clone());
        let router = Arc::new(Router::new(wired.dispatch, snapshot));
        let artifacts: Arc<dyn ArtifactStore> = stores.artifacts;
        let deployer = Deployer::new(wired.nodes, catalog.clone(), artifacts.clone(), executor.clone());
        let deployer = deployer.waiting_for(router.served()).with_events(stores.events.clone());
        let deployer = Arc::new(deployer);
        let fired = Fired::start(
            (&config, &name),
            stores.events,
            &router,
            (&executor, &logs),
            wired.part.as_ref(),
            (&mut tasks, &stop),
        );
        let front = gateway::Config {
            node: HeaderValue::from_str(name.as_str())?,
            always_timing: config.timing,
            grace: config.grace,
            ..gateway::Config::default()
        };
        let readiness = Readiness::default();
        let load = executor.clone();
        let admin_stop = CancellationToken::new();
        let api = Admin {
            node: name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            http: http_addr,
            admin: Some(admin_addr),
            hosts: Vec::new(),
            token: config.token,
            failures: admin::Failures::default(),
            max_component: admin::DEFAULT_MAX_COMPONENT,
            readiness: readiness.clone(),
            catalog: catalog.clone(),
            deployer: deployer.clone(),
            artifacts: artifacts.clone(),
            logs,
            lines: wired.lines,
            invoke: Arc::new(ByName(Caller::new(router.clone(), front.clone()))),
            calls: Some(fired.calls.clone()),
            load: Arc::new(move || load.load()),
            metrics: router.metrics().clone(),
            readings: Arc::new(readings),
            control: wired.control,
            events: Some(fired.admin()),
            looks_only: http_addr.is_none(),
            stop: admin_stop.clone(),
        };

        tasks.spawn(until_stopped(stop.clone(), "the router", router.clone().follow(catalog.subscribe())));
        // What is volatile goes as a whole, and its compiled code is shared with other processes.
        if !config.volatile {
            tasks.spawn(named("the sweeper", sweep(deployer.clone(), stop.clone())));
        }
        let gateway = http.map(|http| {
            let stop = CancellationToken::new();
            let front = Gateway::new(router, front).with_calls(fired.calls.clone());
            let serve = serve(front, http, config.open, stop.clone());
            Stoppable::new(serve, stop)
        });
        let admin = Stoppable::new(admin::serve(admin_listener, Arc::new(api), ADMIN_GRACE), admin_stop);
        readiness.set(Phase::Ready);
        let (grace, part) = (config.grace, wired.part);
        Ok(Node {
            http_addr,
            admin_addr,
            name,
            functions,
            artifacts,
            deployer,
            executor,
            events: fired.events,
            part,
            readiness,
            grace,
            gateway,
            admin,
            tasks,
            stop,
        })
    }
}

/// What the parts of a node know when its metrics are asked for.
fn readings(
    executor: Arc<Executor>,
    dispatch: Arc<Dispatch<Executor>>,
    part: Option<Part>,
) -> impl Fn() -> metrics::Readings {
    move || {
        let (sent, retries) = dispatch.sent();
        let received = part.as_ref().map_or(0, Part::received);
        let member = |peers: &Peers| metrics::Cluster { connected: peers.nats.is_connected(), sent, retries, received };
        metrics::Readings {
            loaded: executor.ready_count(),
            corrupt_code_files: executor.corrupt_code_files(),
            cluster: dispatch.peers().map(member),
        }
    }
}

/// What is kept, and where.
struct Stores {
    catalog: Arc<dyn CatalogStore>,
    artifacts: Arc<dyn ArtifactStore>,
    keyvalue: Arc<dyn KeyValue>,
    events: EventStores,
}

impl Stores {
    async fn open(link: Option<&Link>, config: &NodeConfig) -> anyhow::Result<Self> {
        if let Some(Link { store, .. }) = link {
            let (catalog, artifacts, keyvalue) = (store.catalog(), store.artifacts(), store.keyvalue());
            return Ok(Self { catalog, artifacts, keyvalue, events: store.events() });
        }
        let data = config.data.clone();
        let open = if config.volatile { Embedded::open_volatile } else { Embedded::open };
        let store = tokio::task::spawn_blocking(move || open(&data)).await??;
        let (catalog, artifacts, keyvalue) = (store.catalog(), store.artifacts(), store.keyvalue());
        Ok(Self { catalog, artifacts, keyvalue, events: store.events() })
    }
}

/// What differs between a node that stands alone and a member of a cluster.
struct Wired {
    dispatch: Arc<Dispatch<Executor>>,
    control: Arc<dyn Control>,
    nodes: Arc<dyn MakeReady>,
    lines: Arc<dyn Lines>,
    part: Option<Part>,
}

impl Wired {
    fn among(Member { dispatch, control, nodes, lines, part }: Member) -> Self {
        Self { dispatch, control: Arc::new(control), nodes, lines: Arc::new(lines), part: Some(part) }
    }

    fn alone(
        name: &NodeName,
        executor: &Arc<Executor>,
        catalog: &Arc<Catalog>,
        logs: Arc<LogHub>,
        addresses: Addresses,
    ) -> Self {
        let dispatch = Arc::new(Dispatch::alone(executor.clone()));
        let status = NodeStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            http: addresses.http.map(|http| http.to_string()),
            admin: Some(addresses.admin.to_string()),
            ..NodeStatus::alone(name.clone())
        };
        let control =
            control::Alone { status, node: executor.clone(), catalog: catalog.clone(), dispatch: dispatch.clone() };
        let nodes = deploy::Alone { node: name.to_string(), prepare: executor.clone() };
        Self { dispatch, control: Arc::new(control), nodes: Arc::new(nodes), lines: logs, part: None }
    }
}

impl Node {
    /// The URL of the admin API.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.admin_addr)
    }

    /// The URL of the HTTP front, without a trailing slash.
    pub(crate) fn http_url(&self) -> String {
        format!("http://{}", self.http_addr.unwrap_or(self.admin_addr))
    }

    /// Makes `component` the serving revision of `name`, as the admin API does.
    pub(crate) async fn deploy(
        &self,
        name: FunctionName,
        component: Component,
        settings: Settings,
    ) -> anyhow::Result<()> {
        let Component { bytes, digest } = component;
        let size = ByteSize(bytes.len() as u64);
        let bytes = stream::once(future::ready(Ok(bytes))).boxed();
        self.artifacts.put(digest, bytes, size).await.context("the component cannot be stored")?;
        let request = DeployRequest { function: name, artifact: digest, settings, expected: None };
        match self.deployer.deploy(request).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let (status, code) = error.problem();
                Err(Failure::of_problem(&Problem::new(status, code, error.to_string())).into())
            }
        }
    }

    /// Waits until a part of the node that should run as long as it does has ended; says which.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let what = tokio::select! {
            ended = self.tasks.join_next() => describe(ended, "a task"),
            ended = broken(&mut self.gateway) => describe(ended.map(|e| e.map(|()| "the gateway")), "the gateway"),
            ended = self.admin.tasks.join_next() => describe(ended.map(|e| e.map(|()| "the admin API")), "the admin API"),
        };
        Failure::new(Exit::Platform, format!("{what}: the node stops")).into()
    }

    /// Takes no more invocations, waits for those that run until the grace has passed, and ends. True if all had ended.
    pub(crate) async fn stop(mut self) -> bool {
        self.readiness.set(Phase::Draining);
        if let Some(events) = &self.events {
            events.set_open(false);
        }
        if let Some(part) = &self.part {
            part.drain();
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.stop.cancel();
            // The gateway answers what is on its connections already; only then may the executor refuse.
            gateway.ended().await;
        }
        let drained = self.executor.drain(self.grace).await;
        if let (Some(part), true) = (&self.part, drained) {
            // Their answers leave this node before it does.
            let _cut_off = tokio::time::timeout(GOODBYE, part.idle()).await;
        }
        self.admin.stop.cancel();
        self.admin.ended().await;
        self.stop.cancel();
        let goodbye = async { while self.tasks.join_next().await.is_some() {} };
        // NATS may be away.
        let _cut_off = tokio::time::timeout(if self.part.is_some() { GOODBYE } else { Duration::ZERO }, goodbye).await;
        self.tasks.shutdown().await;
        drained
    }
}

/// Waits for a gateway that ends by itself; for ever if there is none.
async fn broken(gateway: &mut Option<Stoppable>) -> Option<Result<(), tokio::task::JoinError>> {
    match gateway {
        Some(gateway) => gateway.tasks.join_next().await,
        None => std::future::pending().await,
    }
}

impl Stoppable {
    fn new(serve: impl Future<Output = ()> + Send + 'static, stop: CancellationToken) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(serve);
        Self { tasks, stop }
    }

    async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The admin API calls functions through the gateway's caller: same limits, ids and answers.
struct ByName(Caller<Arc<Dispatch<Executor>>>);

impl InvokeByName for ByName {
    fn call(&self, name: FunctionName, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, CallError>> {
        Box::pin(async move { Ok(self.0.call(&name, request).await) })
    }
}

/// Serves `listener` from the moment that `open` is cancelled until `stop` is.
async fn serve(
    gateway: Gateway<Arc<Dispatch<Executor>>>,
    listener: TcpListener,
    open: Option<CancellationToken>,
    stop: CancellationToken,
) {
    if let Some(open) = open {
        tokio::select! {
            () = open.cancelled() => {}
            () = stop.cancelled() => return,
        }
    }
    gateway.serve(listener, stop).await;
}

async fn listen(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let failure = Failure::new(Exit::Failure, format!("cannot listen on {address}: {e}"));
        failure.hint(format!("give another address with {option}; port 0 takes one that is free")).into()
    })
}

fn runtime_config(config: &NodeConfig, forbidden: Vec<SocketAddr>) -> RuntimeConfig {
    let mut runtime = RuntimeConfig::new(&config.code);
    runtime.slots = config.slots.unwrap_or(runtime.slots);
    runtime.code_memory = config.code_memory;
    runtime.forbidden_egress = forbidden;
    if let Some(program) = this_program() {
        runtime.compiler =
            Compiler::Process { program, args: vec!["__compile".into()], limits: CompileLimits::default() };
    }
    runtime
}

/// This very program, also after an upgrade has put another one in its place.
fn this_program() -> Option<PathBuf> {
    if cfg!(target_os = "linux") { Some("/proc/self/exe".into()) } else { std::env::current_exe().ok() }
}

/// A task that says its name when it ends.
pub(crate) async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// For a task that has no end of its own.
pub(crate) async fn until_stopped(
    stop: CancellationToken,
    name: &'static str,
    task: impl Future<Output = ()>,
) -> &'static str {
    stop.run_until_cancelled(task).await;
    name
}

async fn follow_catalog(catalog: Arc<Catalog>, stop: CancellationToken) {
    catalog.follow(stop).await;
}

async fn sweep(deployer: Arc<Deployer>, stop: CancellationToken) {
    deployer.run(stop).await;
}

/// Makes what serves ready, what was called last first and as much as there is room for, one after the other, so that
/// the first calls after a start find it warm.
async fn warm(executor: Arc<Executor>, catalog: Arc<Catalog>, stop: CancellationToken) {
    let serving = serving(&catalog);
    let deployed = serving.len();
    for revision in executor.by_recent_use(serving).await {
        if stop.is_cancelled() {
            break;
        }
        if !executor.has_room() {
            let (loaded, code_memory) = (executor.ready_count(), executor.code_memory());
            tracing::info!(deployed, loaded, %code_memory, "the others are loaded when they are called: see --code-memory");
            break;
        }
        if let Err(error) = executor.prepare(revision.clone()).await {
            tracing::warn!(function = %revision.function, revision = %revision.id, %error, "it could not be made ready");
        }
    }
    stop.cancelled().await;
}

/// Not the snapshot itself, which would stay in memory with the task.
fn serving(catalog: &Catalog) -> Vec<Arc<Revision>> {
    let snapshot = catalog.snapshot();
    snapshot.functions.values().flat_map(|deployed| &deployed.serving).map(|(revision, _)| revision.clone()).collect()
}

fn describe(ended: Option<Result<&'static str, tokio::task::JoinError>>, fallback: &str) -> String {
    match ended {
        Some(Ok(name)) => format!("{name} ended by itself"),
        Some(Err(error)) => format!("{fallback} failed: {error}"),
        None => format!("{fallback} is gone"),
    }
}

/// Each connection takes a file descriptor: the soft limit is often 1,024 where the hard one is far above.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}
