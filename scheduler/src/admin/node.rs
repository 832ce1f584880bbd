//! This node: alive, ready, version, load.

use axum::{Json, extract::State};
use dunlin_api::Load;
use http::StatusCode;
use serde::Serialize;
use std::net::SocketAddr;
use utoipa::ToSchema;

use super::{
    Phase, Shared,
    problem::{Answer, Failure},
    schema::{self, Problem},
};

/// The version of this node.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionInfo {
    version: String,
}

/// This node.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeInfo {
    node: String,
    version: String,
    /// Where functions are served.
    #[schema(value_type = Option<String>)]
    http: Option<SocketAddr>,
    /// Where this API is served.
    #[schema(value_type = Option<String>)]
    admin: Option<SocketAddr>,
    #[schema(value_type = schema::Load)]
    load: Load,
    /// How many functions are deployed.
    functions: usize,
    /// `starting`, `ready` or `draining`.
    state: &'static str,
}

/// Whether the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "node", responses((status = 200, description = "It is")))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether this node takes invocations.
#[utoipa::path(get, path = "/readyz", tag = "node",
    responses((status = 200, description = "It does"), (status = 503, body = Problem)))]
pub(super) async fn readyz(State(admin): State<Shared>) -> Answer<&'static str> {
    let detail = match admin.readiness.get() {
        Phase::Ready => return Ok("ok\n"),
        Phase::Starting => "the node is starting",
        Phase::Draining => "the node is draining and takes no new invocations",
    };
    Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail))
}

/// The version of this node.
#[utoipa::path(get, path = "/v1/version", tag = "node", responses((status = 200, body = VersionInfo)))]
pub(super) async fn version(State(admin): State<Shared>) -> Json<VersionInfo> {
    Json(VersionInfo { version: admin.version.clone() })
}

/// This node: addresses, load, state.
#[utoipa::path(get, path = "/v1/node", tag = "node", responses((status = 200, body = NodeInfo)))]
pub(super) async fn node(State(admin): State<Shared>) -> Json<NodeInfo> {
    Json(NodeInfo {
        node: admin.node.clone(),
        version: admin.version.clone(),
        http: admin.http,
        admin: admin.admin,
        load: (admin.load)(),
        functions: admin.catalog.snapshot().functions.len(),
        state: match admin.readiness.get() {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
        },
    })
}
