//! The nodes of the cluster: who there is, draining, weights; where a function would run; whether all is well.

use axum::{Json as JsonAnswer, extract::State};
use dunlin_api::NodeName;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Shared,
    extract::{Json, Name, Parameter},
    problem::{Answer, Failure},
    schema::Problem,
};
use crate::{
    control::{ControlError, Finding, NodeStatus, Why},
    deploy::DeployError,
    membership::MembershipError,
};

/// The nodes in order of their names.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeList {
    nodes: Vec<NodeStatus>,
}

/// What a diagnosis found.
#[derive(Serialize, ToSchema)]
pub(super) struct Diagnosis {
    findings: Vec<Finding>,
}

/// A weight.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Weight {
    /// Calls that the node may run at once as far as its share of the calls goes; null = what it was started with.
    slots: Option<u32>,
}

/// The nodes of the cluster.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", responses((status = 200, body = NodeList)))]
pub(super) async fn list(State(admin): State<Shared>) -> JsonAnswer<NodeList> {
    JsonAnswer(NodeList { nodes: admin.control.nodes() })
}

/// Keeps calls from a node; it finishes what it has and stays drained until this is deleted, also over a restart.
#[utoipa::path(put, path = "/v1/nodes/{node}/drain", tag = "nodes",
    params(("node" = String, Path, description = "The node")),
    responses((status = 204, description = "It drains"), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn drain(State(admin): State<Shared>, node: Parameter<NodeName>) -> Answer<StatusCode> {
    admin.control.drain(&node.0, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a drained node take calls again.
#[utoipa::path(delete, path = "/v1/nodes/{node}/drain", tag = "nodes",
    params(("node" = String, Path, description = "The node")),
    responses((status = 204, description = "It takes calls"), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn undrain(State(admin): State<Shared>, node: Parameter<NodeName>) -> Answer<StatusCode> {
    admin.control.drain(&node.0, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the weight of a node while it runs.
#[utoipa::path(put, path = "/v1/nodes/{node}/slots", tag = "nodes", request_body = Weight,
    params(("node" = String, Path, description = "The node")),
    responses((status = 204, description = "It has that weight"), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn set_slots(
    State(admin): State<Shared>,
    node: Parameter<NodeName>,
    Json(weight): Json<Weight>,
) -> Answer<StatusCode> {
    admin.control.set_slots(&node.0, weight.slots).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a node that is lost or has left.
#[utoipa::path(delete, path = "/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "The node")),
    responses((status = 204, description = "It is forgotten"), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn forget(State(admin): State<Shared>, node: Parameter<NodeName>) -> Answer<StatusCode> {
    admin.control.forget(&node.0).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where a call of a function would run now, and why.
#[utoipa::path(get, path = "/v1/functions/{name}/why", tag = "nodes",
    params(("name" = String, Path, description = "The function")),
    responses((status = 200, description = "The choice, every node with its numbers, the last failures"),
        (status = 404, body = Problem)))]
pub(super) async fn why(State(admin): State<Shared>, name: Name) -> Answer<JsonAnswer<Why>> {
    let why = admin.control.why(&name.0).ok_or(DeployError::NoFunction(name.0))?;
    Ok(JsonAnswer(why))
}

/// Checks the cluster end to end.
#[utoipa::path(get, path = "/v1/doctor", tag = "nodes", responses((status = 200, body = Diagnosis)))]
pub(super) async fn doctor(State(admin): State<Shared>) -> JsonAnswer<Diagnosis> {
    JsonAnswer(Diagnosis { findings: admin.control.diagnose().await })
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        use MembershipError as M;
        let (status, code) = match error {
            ControlError::Membership(M::Store(error)) => return error.into(),
            ControlError::Alone => (StatusCode::CONFLICT, "alone"),
            ControlError::Membership(M::Unknown(_)) => (StatusCode::NOT_FOUND, "no-node"),
            ControlError::Membership(M::Alive(_)) => (StatusCode::CONFLICT, "node-alive"),
            ControlError::Membership(M::NoSlots) => (StatusCode::UNPROCESSABLE_ENTITY, "bad-slots"),
        };
        Self::new(status, code, error.to_string())
    }
}
