//! The admin API: what the command line and operators talk to. HTTP/1.1, JSON, errors as RFC 9457 problem documents, and
//! described by itself at `/openapi.json` (OpenAPI 3.1).
//!
//! The node gives an [`Admin`] and a bound listener to [`serve`] and stops it by the token in it. Promises: every answer
//! that is not a function's own is JSON or a problem document; browsers on other sites cannot use it (the guard module); with a
//! token configured, nothing but liveness and readiness is told without it. Bounds: connections and times in [`serve`], JSON
//! bodies 1 MiB, uploads [`Admin::max_component`], followers of logs in [`LogHub`], deploys in [`Deployer`].

use axum::{Router, middleware, routing};
use dunlin_api::{Body, BoxFuture, ByteSize, FunctionName, InvocationId, InvokeError, Load};
use http::{Request, Response};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    calls::AsyncCalls,
    catalog::Catalog,
    control::Control,
    dead_letters::DeadLetters,
    deploy::Deployer,
    events::TriggerStats,
    log_hub::LogHub,
    log_share::Lines,
    metrics::{Metrics, Readings},
    store::{ArtifactStore, events::Bus},
};

mod artifacts;
mod dead_letters;
mod extract;
mod functions;
mod guard;
mod invocations;
mod invoke;
mod logs;
mod metrics;
mod node;
mod nodes;
mod problem;
mod publish;
mod schema;
mod serve;
mod triggers;

pub use guard::{Failures, Token, WeakToken};
use schema::Security;
pub use serve::serve;

/// Largest component by default: the largest published ones (Python with its libraries) have about 40 MiB.
pub const DEFAULT_MAX_COMPONENT: ByteSize = ByteSize::mib(64);

/// Everything that the admin API shows and changes.
pub struct Admin {
    /// This node's name.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// Where this node's gateway listens.
    pub http: Option<SocketAddr>,
    /// Where this API listens.
    pub admin: Option<SocketAddr>,
    /// Names by which this API may be asked, beside IP addresses and `localhost`; lower case, without port.
    pub hosts: Vec<String>,
    /// Who may use it; none = everyone who reaches it.
    pub token: Option<Token>,
    /// Failed attempts to use it.
    pub failures: Failures,
    /// Largest component that may be uploaded.
    pub max_component: ByteSize,
    /// Whether this node takes invocations.
    pub readiness: Readiness,
    /// What is deployed.
    pub catalog: Arc<Catalog>,
    /// Changes what is deployed.
    pub deployer: Arc<Deployer>,
    /// Where uploads go.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// What functions print here.
    pub logs: Arc<LogHub>,
    /// What functions print, on all nodes.
    pub lines: Arc<dyn Lines>,
    /// Runs functions by name.
    pub invoke: Arc<dyn InvokeByName>,
    /// Calls that nobody waits for; none = it takes none.
    pub calls: Option<Arc<dyn AsyncCalls>>,
    /// How busy this node is.
    pub load: Arc<dyn Fn() -> Load + Send + Sync>,
    /// What is counted of the invocations that arrive here.
    pub metrics: Arc<Metrics>,
    /// What is read for the page of metrics.
    pub readings: Arc<dyn Fn() -> Readings + Send + Sync>,
    /// The cluster.
    pub control: Arc<dyn Control>,
    /// Messages and what became of them; none on a node that takes no part in events.
    pub events: Option<AdminEvents>,
    /// Whether this node only runs functions: then nothing can be changed through it.
    pub looks_only: bool,
    /// Ends [`serve`] and the streams it serves.
    pub stop: CancellationToken,
}

/// What the API shows and changes of events.
pub struct AdminEvents {
    /// Where messages are published.
    pub bus: Arc<dyn Bus>,
    /// Events that were given up.
    pub dead: Arc<DeadLetters>,
    /// What became of the events of this node's triggers.
    pub stats: Arc<dyn Fn() -> Vec<TriggerStats> + Send + Sync>,
}

impl Admin {
    fn events(&self) -> problem::Answer<&AdminEvents> {
        let detail = "this node takes no part in events: ask one that does";
        let absent = || problem::Failure::new(http::StatusCode::NOT_IMPLEMENTED, "no-events", detail);
        self.events.as_ref().ok_or_else(absent)
    }
}

/// Runs a function whatever its routes are. Implemented over the router by whoever wires a node together.
pub trait InvokeByName: Send + Sync + 'static {
    /// Runs `name` with `request`, whose path and query are what the guest sees, and whose body is a stream. The
    /// function's limits hold, the one on the request body too. The answer carries in its extensions the
    /// [`dunlin_api::RevisionId`] that ran and its [`dunlin_api::Timing`].
    fn call(&self, name: FunctionName, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, CallError>>;
}

/// An invocation by name that failed.
#[derive(Debug, thiserror::Error)]
#[error("invocation {invocation}: {error}")]
pub struct CallError {
    /// Why.
    pub error: InvokeError,
    /// Its id.
    pub invocation: InvocationId,
    /// Whether guest code had begun to run.
    pub started: bool,
}

/// Whether a node takes invocations; shared between the one who starts and stops it and the API.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicU8>);

/// The phases of a node's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It does not serve yet.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what it has.
    Draining,
}

impl Readiness {
    /// Says which phase begins.
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    /// The phase now.
    pub fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }
}

type Shared = Arc<Admin>;

#[derive(OpenApi)]
#[openapi(
    info(title = "Dunlin admin API", description = "Functions, their revisions, deploys and logs of one Dunlin node."),
    paths(invoke::call, invoke::call_path),
    modifiers(&Security)
)]
struct Description;

/// The API as an axum router.
pub fn router(admin: Arc<Admin>) -> Router {
    let (router, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(node::healthz))
        .routes(routes!(node::readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(node::version))
        .routes(routes!(node::node))
        .routes(routes!(artifacts::has, artifacts::put))
        .routes(routes!(functions::list))
        .routes(routes!(functions::show, functions::remove))
        .routes(routes!(functions::deploy))
        .routes(routes!(invocations::status, invocations::cancel))
        .routes(routes!(invocations::result))
        .routes(routes!(logs::logs))
        .routes(routes!(publish::publish))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::show, dead_letters::purge))
        .routes(routes!(dead_letters::payload))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::forget))
        .routes(routes!(nodes::drain, nodes::undrain))
        .routes(routes!(nodes::set_slots))
        .routes(routes!(nodes::why))
        .routes(routes!(nodes::doctor))
        .split_for_parts();
    description.info.version.clone_from(&admin.version);
    // Taken out of axum's reach for methods that OpenAPI cannot name.
    router
        .route("/v1/functions/{name}/invoke", routing::any(invoke::call))
        // A catch-all wants at least one character, and the root has none.
        .route("/v1/functions/{name}/invoke/", routing::any(invoke::call))
        .route("/v1/functions/{name}/invoke/{*path}", routing::any(invoke::call_path))
        .route("/openapi.json", routing::get(move || std::future::ready(axum::Json(description.clone()))))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(admin.clone(), guard::guard))
        .with_state(admin)
}
