//! Calls that nobody waits for: accepted at `…/invoke` with `Prefer: respond-async`, asked about here.

use axum::{body::Body as AxumBody, extract::State, response::Response};
use dunlin_api::{Body, FunctionName};
use http::{Request, StatusCode, header};
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;

use super::{
    Admin, Shared,
    extract::{Parameter, Params},
    invoke::sandboxed,
    problem::{Answer, Failure},
    schema::Problem,
};
use crate::{
    calls::{
        CallRecord,
        fields::Preferences,
        http::{ADMIN, Desk},
    },
    gateway::without_hop_fields,
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    /// Wait so long for its end, in milliseconds, at most a minute.
    #[serde(default)]
    wait_ms: u64,
}

type Id = Parameter<String>;

/// What is known of a call.
#[utoipa::path(get, path = "/v1/invocations/{id}", tag = "invocations", params(("id" = String, Path, description = "The call"), Wait),
    responses((status = 200, body = CallRecord), (status = 404, body = Problem)))]
pub(super) async fn status(State(admin): State<Shared>, id: Id, wait: Params<Wait>) -> Answer<Response> {
    Ok(desk(&admin)?.status(&id.0, Duration::from_millis(wait.0.wait_ms)).await.map(AxumBody::new))
}

/// The function's answer to a call.
#[utoipa::path(get, path = "/v1/invocations/{id}/result", tag = "invocations",
    params(("id" = String, Path, description = "The call"), Wait),
    responses(
        (status = "default", description = "The function's answer; also the last one of a call that is dead"),
        (status = 202, description = "There is none yet"),
        (status = 404, body = Problem), (status = 410, body = Problem, description = "There will be none"),
    ))]
pub(super) async fn result(State(admin): State<Shared>, id: Id, wait: Params<Wait>) -> Answer<Response> {
    let answer = desk(&admin)?.result(&id.0, Duration::from_millis(wait.0.wait_ms)).await;
    Ok(sandboxed(answer.map(AxumBody::new)))
}

/// Cancels a call.
#[utoipa::path(delete, path = "/v1/invocations/{id}", tag = "invocations", params(("id" = String, Path, description = "The call")),
    responses((status = 200, body = CallRecord), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "It has ended")))]
pub(super) async fn cancel(State(admin): State<Shared>, id: Id) -> Answer<Response> {
    Ok(desk(&admin)?.cancel(&id.0).await.map(AxumBody::new))
}

/// Accepts a call of `name`.
pub(super) async fn submit(
    admin: &Admin,
    name: &FunctionName,
    mut request: Request<Body>,
    preferences: Preferences,
) -> Answer<Response> {
    let desk = desk(admin)?;
    without_hop_fields(request.headers_mut());
    let revision = desk.calls.resolve(name).map_err(|error| {
        let failure = Failure::new(error.status(), error.code(), error.public_detail());
        if error.status() == StatusCode::SERVICE_UNAVAILABLE {
            failure.with_header(header::RETRY_AFTER, "1")
        } else {
            failure
        }
    })?;
    Ok(sandboxed(desk.submit(&revision, request, preferences).await.map(AxumBody::new)))
}

fn desk(admin: &Admin) -> Answer<Desk<'_>> {
    let calls = admin.calls.as_deref().ok_or_else(|| {
        Failure::new(StatusCode::NOT_IMPLEMENTED, "no-calls", "this node keeps no calls that nobody waits for")
    })?;
    Ok(Desk { calls, prefix: ADMIN, host: None })
}
