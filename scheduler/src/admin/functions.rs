//! Functions: what is deployed, deploying, removing.

use axum::{Json as JsonAnswer, extract::State};
use dunlin_api::{Digest, FunctionName, Revision, RevisionId, Settings, Version};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Shared,
    extract::{Json, Name, Params},
    problem::{Answer, Failure},
    schema::{self, Problem},
    triggers::{self, Trigger},
};
use crate::{
    deploy::{DeployError, DeployRequest, DeployResult, show_route},
    snapshot::Deployed,
};

/// Functions in one answer, unless the caller wants fewer.
const PAGE: usize = 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Goes on after this name.
    #[param(value_type = Option<String>)]
    after: Option<FunctionName>,
    /// At most this many, 1 to 1,000.
    limit: Option<usize>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    /// Whether events that wait for it are given up. Without it they are a reason not to remove it.
    #[serde(default)]
    discard_events: bool,
}

/// Functions in order of their names.
#[derive(Serialize, ToSchema)]
pub(super) struct FunctionList {
    functions: Vec<FunctionSummary>,
    /// The `after` that gives the next ones; absent when these were the last.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<FunctionName>,
}

/// A function in a list.
#[derive(Serialize, ToSchema)]
pub(super) struct FunctionSummary {
    #[schema(value_type = String)]
    name: FunctionName,
    /// The version of its deployment.
    version: Version,
    serving: Vec<Serving>,
    routes: Vec<String>,
}

/// A revision that serves.
#[derive(Serialize, ToSchema)]
pub(super) struct Serving {
    #[schema(value_type = String)]
    revision: RevisionId,
    /// Its share of the calls, in proportion to the others.
    weight: u32,
}

/// A function with its revisions.
#[derive(Serialize, ToSchema)]
pub(super) struct FunctionDetails {
    #[serde(flatten)]
    summary: FunctionSummary,
    /// The revisions kept, newest last.
    #[schema(value_type = Vec<schema::Revision>)]
    revisions: Vec<Revision>,
    /// What fires it beside HTTP.
    triggers: Vec<Trigger>,
}

/// What to deploy.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeployBody {
    /// The SHA-256 of an artifact that was uploaded.
    #[schema(value_type = String)]
    artifact: Digest,
    #[serde(default)]
    #[schema(value_type = schema::Settings)]
    settings: Settings,
    /// The version that the caller saw, 0 for none: another one is refused with 409. Absent = deploy in any case.
    expected: Option<Version>,
}

/// The deployed functions.
#[utoipa::path(get, path = "/v1/functions", tag = "functions", params(Page),
    responses((status = 200, body = FunctionList)))]
pub(super) async fn list(State(admin): State<Shared>, page: Params<Page>) -> Answer<JsonAnswer<FunctionList>> {
    let Params(Page { after, limit }) = page;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        let detail = format!("limit is {limit}: it must be between 1 and {PAGE}");
        return Err(Failure::new(StatusCode::BAD_REQUEST, "bad-query", detail));
    }
    let snapshot = admin.catalog.snapshot();
    let later = snapshot.functions.keys().filter(|name| after.as_ref().is_none_or(|after| *name > after));
    let mut names: Vec<_> = later.collect();
    names.sort_unstable();
    let next = (names.len() > limit).then(|| names[limit - 1].clone());
    names.truncate(limit);
    let functions = names.into_iter().filter_map(|name| Some(summary(snapshot.functions.get(name)?))).collect();
    Ok(JsonAnswer(FunctionList { functions, next }))
}

/// One function.
#[utoipa::path(get, path = "/v1/functions/{name}", tag = "functions",
    params(("name" = String, Path, description = "The function")),
    responses((status = 200, body = FunctionDetails), (status = 404, body = Problem)))]
pub(super) async fn show(State(admin): State<Shared>, name: Name) -> Answer<JsonAnswer<FunctionDetails>> {
    let deployed = admin.catalog.snapshot().functions.get(&name.0).cloned();
    let revisions = admin.catalog.revisions(&name.0).await?;
    let (deployed, revisions) = deployed.zip(revisions).ok_or(DeployError::NoFunction(name.0))?;
    // Boxed: see `deploy`.
    let stats = admin.events.as_ref().map(|events| (events.stats)()).unwrap_or_default();
    let triggers = Box::pin(triggers::of(&deployed, admin.deployer.events(), &stats)).await;
    Ok(JsonAnswer(FunctionDetails { summary: summary(&deployed), revisions, triggers }))
}

/// Removes a function with all its revisions.
#[utoipa::path(delete, path = "/v1/functions/{name}", tag = "functions",
    params(("name" = String, Path, description = "The function"), Removal),
    responses(
        (status = 204, description = "It is removed"), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "Events wait for it"),
    ))]
pub(super) async fn remove(State(admin): State<Shared>, name: Name, how: Params<Removal>) -> Answer<StatusCode> {
    Box::pin(admin.deployer.remove(&name.0, how.0.discard_events)).await?;
    admin.logs.forget(&name.0);
    Ok(StatusCode::NO_CONTENT)
}

/// Deploys an uploaded artifact. The same artifact with the same settings changes nothing.
#[utoipa::path(post, path = "/v1/functions/{name}/deploy", tag = "functions",
    params(("name" = String, Path, description = "The function")),
    request_body = DeployBody,
    responses(
        (status = 200, body = schema::DeployResult), (status = 404, body = Problem, description = "Upload the artifact first"),
        (status = 409, body = Problem, description = "Another version, or a route that is taken"),
        (status = 422, body = Problem, description = "It cannot run here; the code and the detail say why"),
    ))]
pub(super) async fn deploy(
    State(admin): State<Shared>,
    name: Name,
    Json(body): Json<DeployBody>,
) -> Answer<JsonAnswer<DeployResult>> {
    let DeployBody { artifact, settings, expected } = body;
    let request = DeployRequest { function: name.0, artifact, settings, expected };
    // Boxed: the whole deploy would otherwise be part of every handler's future.
    Ok(JsonAnswer(Box::pin(admin.deployer.deploy(request)).await?))
}

fn summary(deployed: &Deployed) -> FunctionSummary {
    let serving = deployed.serving.iter();
    let triggers = serving.clone().filter(|(_, weight)| *weight > 0).flat_map(|(revision, _)| &revision.settings.http);
    let mut routes: Vec<_> = triggers.map(show_route).collect();
    routes.dedup();
    FunctionSummary {
        name: deployed.deployment.function.clone(),
        version: deployed.version,
        serving: serving.map(|(r, weight)| Serving { revision: r.id.clone(), weight: *weight }).collect(),
        routes,
    }
}
