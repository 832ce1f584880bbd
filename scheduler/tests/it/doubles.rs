//! Scripted doubles of what the runtime and the gateway provide, and a whole scheduler around them.

use bytes::Bytes;
use dunlin_api::{
    Body, BoxFuture, Digest, FunctionName, HttpTrigger, InvocationId, InvokeError, Load, Prepare, Refusal, Revision,
    Settings, Timing, World,
};
use dunlin_scheduler::{
    admin::{Admin, CallError, Failures, InvokeByName, Phase, Readiness},
    catalog::Catalog,
    control::{Control, Finding, NodeStatus, Why},
    deploy::{Alone, DeployRequest, DeployResult, Deployer},
    log_hub::LogHub,
    metrics::{Metrics, Readings},
    store::{ArtifactStore, CatalogStore, embedded::Embedded, events::EventStores},
};
use http::{Request, Response};
use http_body_util::BodyExt;
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::contract::artifacts::pieces;

/// Makes components ready as their bytes say: `core` is a core module, `slow` compiles until it is let go, `broken` does
/// not compile; everything else is fine.
#[derive(Default)]
pub(crate) struct Workshop {
    pub(crate) checked: Mutex<Vec<Bytes>>,
    pub(crate) retired: Mutex<Vec<Digest>>,
    /// Artifacts that do not compile.
    pub(crate) broken: Mutex<Vec<Digest>>,
    /// Artifacts that compile only with a permit.
    pub(crate) slow: Mutex<Vec<Digest>>,
    pub(crate) permits: Semaphore0,
}

/// A semaphore that begins empty.
pub(crate) struct Semaphore0(pub(crate) Semaphore);

impl Default for Semaphore0 {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Prepare for Workshop {
    fn check<'a>(&'a self, component: Bytes, _: &'a Settings) -> BoxFuture<'a, Result<World, Refusal>> {
        let core = component.starts_with(b"core");
        self.checked.lock().unwrap().push(component);
        Box::pin(async move { if core { Err(Refusal::CoreModule) } else { Ok(World::Http02) } })
    }

    fn prepare(&self, revision: Arc<Revision>) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            let slow = self.slow.lock().unwrap().contains(&revision.artifact);
            if slow {
                self.permits.0.acquire().await.unwrap().forget();
            }
            let broken = self.broken.lock().unwrap().contains(&revision.artifact);
            if broken { Err(Refusal::Compile("as the test wants".into())) } else { Ok(()) }
        })
    }

    fn retire(&self, artifact: Digest) {
        self.retired.lock().unwrap().push(artifact);
    }
}

/// Answers with what the guest would see.
pub(crate) struct Mirror(pub(crate) Arc<Catalog>);

impl InvokeByName for Mirror {
    fn call(&self, name: FunctionName, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, CallError>> {
        Box::pin(async move {
            let invocation = InvocationId::new();
            let snapshot = self.0.snapshot();
            let deployed = snapshot.functions.get(&name);
            let failed = |error, started| CallError { error, invocation, started };
            let deployed = deployed.ok_or_else(|| failed(InvokeError::NoFunction(name.clone()), false))?;
            let (parts, body) = request.into_parts();
            if parts.uri.path() == "/trap" {
                return Err(failed(InvokeError::Trap("secret of the machine".into()), true));
            }
            let body = body.collect().await.unwrap().to_bytes();
            let secret = parts.headers.contains_key("authorization");
            let seen = format!("{} {} {} {secret}", parts.method, parts.uri, String::from_utf8_lossy(&body));
            let mut response = Response::new(Body::from(seen));
            let timing = Timing { cold: true, run: Duration::from_micros(1_500), ..Timing::default() };
            response.extensions_mut().insert(timing);
            response.extensions_mut().insert(deployed.serving[0].0.id.clone());
            Ok(response)
        })
    }
}

/// One node without others.
struct NoCluster;

impl Control for NoCluster {
    fn nodes(&self) -> Vec<NodeStatus> {
        vec![NodeStatus::alone("here".parse().unwrap())]
    }

    fn why(&self, _: &FunctionName) -> Option<Why> {
        None
    }

    fn diagnose(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async { Vec::new() })
    }
}

/// Everything but the runtime and the gateway, over the embedded store.
pub(crate) struct Scheduler {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) artifacts: Arc<dyn ArtifactStore>,
    pub(crate) store: Arc<dyn CatalogStore>,
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) deployer: Arc<Deployer>,
    pub(crate) events: EventStores,
}

impl Scheduler {
    pub(crate) async fn open(dir: &Path) -> Self {
        Self::build(dir, |deployer| deployer).await
    }

    pub(crate) async fn build(dir: &Path, change: impl FnOnce(Deployer) -> Deployer) -> Self {
        let stores = Embedded::open(dir).unwrap();
        let workshop = Arc::new(Workshop::default());
        let catalog = Arc::new(Catalog::open(stores.catalog()).await.unwrap());
        let nodes = Arc::new(Alone { node: "here".into(), prepare: workshop.clone() });
        let deployer = Deployer::new(nodes, catalog.clone(), stores.artifacts(), workshop.clone());
        let deployer = Arc::new(change(deployer));
        let (artifacts, store, events) = (stores.artifacts(), stores.catalog(), stores.events());
        Self { catalog, artifacts, store, workshop, deployer, events }
    }

    pub(crate) async fn upload(&self, component: &[u8]) -> Digest {
        let digest = Digest::of(component);
        self.artifacts.put(digest, pieces(component), dunlin_api::ByteSize::mib(1)).await.unwrap();
        digest
    }

    /// Uploads `component` and deploys it as `name` at `/name`.
    pub(crate) async fn deploy(&self, name: &str, component: &[u8]) -> DeployResult {
        self.upload(component).await;
        self.deployer.deploy(request(name, component)).await.unwrap()
    }

    /// The artifact that serves `name`.
    pub(crate) fn serving(&self, name: &str) -> Option<Digest> {
        let snapshot = self.catalog.snapshot();
        let deployed = snapshot.functions.get(&name.parse().unwrap())?;
        assert_eq!(deployed.serving.len(), 1);
        Some(deployed.serving[0].0.artifact)
    }

    pub(crate) fn admin(&self) -> Admin {
        let readiness = Readiness::default();
        readiness.set(Phase::Ready);
        let logs = Arc::new(LogHub::default());
        Admin {
            node: "here".into(),
            version: "1.2.3".into(),
            http: None,
            admin: None,
            hosts: vec!["dunlin.example".into()],
            token: None,
            failures: Failures::default(),
            max_component: dunlin_api::ByteSize(1_000),
            readiness,
            catalog: self.catalog.clone(),
            deployer: self.deployer.clone(),
            artifacts: self.artifacts.clone(),
            logs: logs.clone(),
            lines: logs,
            invoke: Arc::new(Mirror(self.catalog.clone())),
            calls: None,
            load: Arc::new(|| Load { in_flight: 1, slots: 8 }),
            metrics: Arc::new(Metrics::new(&self.catalog.snapshot())),
            readings: Arc::new(Readings::default),
            control: Arc::new(NoCluster),
            events: None,
            looks_only: false,
            stop: CancellationToken::new(),
        }
    }
}

/// Settings with a route at `/name`.
pub(crate) fn settings(name: &str) -> Settings {
    let http = vec![HttpTrigger { route: format!("/{name}"), host: None, methods: Vec::new() }];
    Settings { http, ..Settings::default() }
}

/// A deploy of `component` as `name` at `/name`.
pub(crate) fn request(name: &str, component: &[u8]) -> DeployRequest {
    let function = name.parse().unwrap();
    DeployRequest { function, artifact: Digest::of(component), settings: settings(name), expected: None }
}
