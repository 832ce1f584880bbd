//! An embedded node: the one place where the stores, the scheduler and the runtime meet.
//!
//! Made in two steps, so that the real addresses can be told before anything else is: [`Bound::listen`] takes the sockets,
//! [`Bound::start`] opens the data directory and serves. Used by `node`, `dev` and `serve`. Every background task is in one
//! `JoinSet`; one that ends by itself is a fault of the node, told by [`Node::failed`]. Stopping refuses new work, gives what
//! runs the grace, then cuts it.

use dunlin_api::{Body, BoxFuture, FunctionName, LocalNode as _, Prepare as _};
use dunlin_runtime::{CompileLimits, Compiler, Executor, RuntimeConfig};
use dunlin_scheduler::{
    admin::{self, Admin, CallError, InvokeByName, Phase, Readiness, Token},
    catalog::Catalog,
    deploy::Deployer,
    gateway::{self, Caller, Gateway},
    log_hub::LogHub,
    router::Router,
    store::embedded::Embedded,
};
use http::{HeaderValue, Request, Response};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};

/// The name of a node that has no others to be told from.
const NAME: &str = "local";
/// What requests to the admin API get to finish: they answer at once, except for deploys.
const ADMIN_GRACE: Duration = Duration::from_secs(2);

/// Settings of an embedded node.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    /// Where functions are served.
    pub(crate) http: SocketAddr,
    /// Where the admin API is served.
    pub(crate) admin: SocketAddr,
    /// What is deployed, and the key-value stores.
    pub(crate) data: PathBuf,
    /// Compiled code.
    pub(crate) code: PathBuf,
    /// Invocations at once; none = what suits the machine.
    pub(crate) slots: Option<u32>,
    /// Who may use the admin API; none = everyone who reaches it.
    pub(crate) token: Option<Token>,
    /// What runs when the node stops gets this long to finish.
    pub(crate) grace: Duration,
    /// Adds times to every response, not only where they are asked for.
    pub(crate) timing: bool,
    /// Cancelled when requests may be served; until then who connects waits. None = at once.
    pub(crate) open: Option<CancellationToken>,
}

/// A node that has its sockets and does not serve yet: who connects waits.
pub(crate) struct Bound {
    pub(crate) http_addr: SocketAddr,
    pub(crate) admin_addr: SocketAddr,
    http: TcpListener,
    admin: TcpListener,
    config: NodeConfig,
}

/// A node that serves.
pub(crate) struct Node {
    pub(crate) http_addr: SocketAddr,
    pub(crate) admin_addr: SocketAddr,
    /// How many functions were deployed when it started.
    pub(crate) functions: usize,
    executor: Arc<Executor>,
    readiness: Readiness,
    grace: Duration,
    gateway: Stoppable,
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
        let (http, admin) = (listen(config.http, "--http").await?, listen(config.admin, "--admin").await?);
        Ok(Self { http_addr: http.local_addr()?, admin_addr: admin.local_addr()?, http, admin, config })
    }

    /// Opens the stores, starts the runtime and serves.
    pub(crate) async fn start(self) -> anyhow::Result<Node> {
        let Self { http_addr, admin_addr, http, admin: admin_listener, config } = self;
        raise_file_limit();
        let data = config.data.clone();
        let stores = tokio::task::spawn_blocking(move || Embedded::open(&data)).await??;
        let logs = Arc::new(LogHub::default());
        let executor =
            Executor::new(runtime_config(&config, admin_addr), stores.artifacts(), stores.keyvalue(), logs.clone())?;
        let catalog = Arc::new(Catalog::open(stores.catalog()).await?);
        let snapshot = catalog.snapshot();
        let functions = snapshot.functions.len();
        let router = Arc::new(Router::new(executor.clone(), snapshot));
        let deployer = Deployer::new(NAME, catalog.clone(), stores.artifacts(), executor.clone());
        let deployer = Arc::new(deployer.waiting_for(router.served()));
        let front = gateway::Config {
            node: HeaderValue::from_static(NAME),
            always_timing: config.timing,
            grace: config.grace,
            ..gateway::Config::default()
        };
        let readiness = Readiness::default();
        let load = executor.clone();
        let stop = CancellationToken::new();
        let admin_stop = CancellationToken::new();
        let api = Admin {
            node: NAME.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            http: Some(http_addr),
            admin: Some(admin_addr),
            hosts: Vec::new(),
            token: config.token,
            failures: admin::Failures::default(),
            max_component: admin::DEFAULT_MAX_COMPONENT,
            readiness: readiness.clone(),
            catalog: catalog.clone(),
            deployer: deployer.clone(),
            artifacts: stores.artifacts(),
            logs,
            invoke: Arc::new(ByName(Caller::new(router.clone(), front.clone()))),
            load: Arc::new(move || load.load()),
            stop: admin_stop.clone(),
        };

        let mut tasks = JoinSet::new();
        tasks.spawn(named("the catalog", follow_catalog(catalog.clone(), stop.clone())));
        tasks.spawn(named("the router", router.clone().follow(catalog.subscribe())));
        tasks.spawn(named("the sweeper", sweep(deployer, stop.clone())));
        tasks.spawn(named("warming", warm(executor.clone(), catalog, stop.clone())));
        let gateway_stop = CancellationToken::new();
        let front = Gateway::new(router, front);
        let serve = serve(front, http, config.open, gateway_stop.clone());
        let gateway = Stoppable::new(serve, gateway_stop);
        let admin = Stoppable::new(admin::serve(admin_listener, Arc::new(api), ADMIN_GRACE), admin_stop);
        readiness.set(Phase::Ready);
        let grace = config.grace;
        Ok(Node { http_addr, admin_addr, functions, executor, readiness, grace, gateway, admin, tasks, stop })
    }
}

impl Node {
    /// The URL of the admin API.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.admin_addr)
    }

    /// The URL of the HTTP front, without a trailing slash.
    pub(crate) fn http_url(&self) -> String {
        format!("http://{}", self.http_addr)
    }

    /// Waits until a part of the node that should run as long as it does has ended; says which.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let what = tokio::select! {
            ended = self.tasks.join_next() => describe(ended, "a task"),
            ended = self.gateway.tasks.join_next() => describe(ended.map(|e| e.map(|()| "the gateway")), "the gateway"),
            ended = self.admin.tasks.join_next() => describe(ended.map(|e| e.map(|()| "the admin API")), "the admin API"),
        };
        Failure::new(Exit::Platform, format!("{what}: the node stops")).into()
    }

    /// Takes no more invocations, waits for those that run until the grace has passed, and ends. True if all had ended.
    pub(crate) async fn stop(mut self) -> bool {
        self.readiness.set(Phase::Draining);
        self.gateway.stop.cancel();
        // The gateway answers what is on its connections already; only then may the executor refuse.
        self.gateway.ended().await;
        let drained = self.executor.drain(self.grace).await;
        self.admin.stop.cancel();
        self.admin.ended().await;
        self.stop.cancel();
        self.tasks.shutdown().await;
        drained
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
struct ByName(Caller<Arc<Executor>>);

impl InvokeByName for ByName {
    fn call(&self, name: FunctionName, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, CallError>> {
        Box::pin(async move { Ok(self.0.call(&name, request).await) })
    }
}

/// Serves `listener` from the moment that `open` is cancelled until `stop` is.
async fn serve(
    gateway: Gateway<Arc<Executor>>,
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

fn runtime_config(config: &NodeConfig, admin: SocketAddr) -> RuntimeConfig {
    let mut runtime = RuntimeConfig::new(&config.code);
    runtime.slots = config.slots.unwrap_or(runtime.slots);
    runtime.forbidden_egress = vec![admin];
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

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

async fn follow_catalog(catalog: Arc<Catalog>, stop: CancellationToken) {
    catalog.follow(stop).await;
}

async fn sweep(deployer: Arc<Deployer>, stop: CancellationToken) {
    deployer.run(stop).await;
}

/// Makes what serves ready, as much of it as is kept loaded, one after the other, so that the first calls after a start
/// find it warm.
async fn warm(executor: Arc<Executor>, catalog: Arc<Catalog>, stop: CancellationToken) {
    let snapshot = catalog.snapshot();
    let serving = snapshot.functions.values().flat_map(|deployed| &deployed.serving);
    for (revision, _) in serving.take(executor.max_loaded()) {
        if let Err(error) = executor.prepare(revision.clone()).await {
            tracing::warn!(function = %revision.function, revision = %revision.id, %error, "it could not be made ready");
        }
    }
    stop.cancelled().await;
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
