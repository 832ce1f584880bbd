//! Runs a function directly, whatever its routes are, and shows where, which revision, how warm, and where the time went.

use axum::{
    body::Body as AxumBody,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use dunlin_api::{Body, FunctionName, RanOn, RevisionId, Timing};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use http_body::Body as _;
use std::time::Duration;

use super::{
    Admin, CallError, Shared,
    extract::Name,
    invocations,
    problem::{Answer, Failure},
    schema::Problem,
};
use crate::calls::fields::{PREFER, Preferences};

const REVISION: HeaderName = HeaderName::from_static("dunlin-revision");
const NODE: HeaderName = HeaderName::from_static("dunlin-node");
const START: HeaderName = HeaderName::from_static("dunlin-start");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Calls a function at `/`, with any method.
#[utoipa::path(method(get, post, put, delete, patch), path = "/v1/functions/{name}/invoke", tag = "functions",
    params(("name" = String, Path, description = "The function")),
    responses((status = "default", description = "The function's answer; 202 with a location at once if `Prefer` is `respond-async`"),
        (status = 404, body = Problem)))]
pub(super) async fn call(state: State<Shared>, name: Name, request: Request) -> Answer<Response> {
    run(&state.0, name.0, request).await
}

/// Calls a function at any path, with any method.
#[utoipa::path(method(get, post, put, delete, patch), path = "/v1/functions/{name}/invoke/{path}", tag = "functions",
    params(("name" = String, Path, description = "The function"), ("path" = String, Path, description = "What it sees")),
    responses((status = "default", description = "The function's answer"), (status = 404, body = Problem)))]
pub(super) async fn call_path(state: State<Shared>, name: Name, request: Request) -> Answer<Response> {
    run(&state.0, name.0, request).await
}

async fn run(admin: &Admin, name: FunctionName, request: Request) -> Answer<Response> {
    let (mut parts, body) = request.into_parts();
    parts.uri = seen_by_guest(&parts.uri)?;
    if admin.token.is_some() {
        // The token of this API is nothing that a guest should see.
        parts.headers.remove(header::AUTHORIZATION);
    }
    parts.extensions.clear();
    let body = if body.is_end_stream() { Body::Empty } else { Body::stream(body) };
    if admin.calls.is_some() && parts.headers.contains_key(PREFER) {
        let preferences = Preferences::of(&parts.headers);
        if preferences.respond_async {
            let request = http::Request::from_parts(parts, body);
            return Box::pin(invocations::submit(admin, &name, request, preferences)).await;
        }
    }
    match admin.invoke.call(name, http::Request::from_parts(parts, body)).await {
        Ok(response) => Ok(shown(admin, response)),
        Err(CallError { error, invocation, started }) => {
            tracing::debug!(%error, %invocation, started, "an invocation by name failed");
            Ok(error.to_response(invocation, started).map(AxumBody::new))
        }
    }
}

/// The path below `…/invoke` and the query, exactly as they were sent.
fn seen_by_guest(uri: &Uri) -> Answer<Uri> {
    // "", "v1", "functions", the name, "invoke", the rest.
    let rest = uri.path().splitn(6, '/').nth(5).unwrap_or("");
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let seen = format!("/{rest}{query}").parse();
    seen.map_err(|_| {
        Failure::new(StatusCode::BAD_REQUEST, "bad-path", "the path is not one that a function can be given")
    })
}

fn shown(admin: &Admin, mut response: http::Response<Body>) -> Response {
    let revision = response.extensions_mut().remove::<RevisionId>();
    let timing = response.extensions_mut().remove::<Timing>();
    let ran_on = response.extensions_mut().remove::<RanOn>();
    let headers = response.headers_mut();
    if let Some(value) = revision.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
        headers.insert(REVISION, value);
    }
    if let Ok(value) = HeaderValue::from_str(ran_on.as_ref().map_or(&*admin.node, |RanOn(node)| node.as_str())) {
        headers.insert(NODE, value);
    }
    if let Some(timing) = timing {
        show_timing(headers, &timing);
    }
    sandboxed(response.map(AxumBody::new).into_response())
}

/// A page of a guest, opened here in a browser, must not run with the rights of this API's origin.
pub(super) fn sandboxed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn show_timing(headers: &mut HeaderMap, timing: &Timing) {
    headers.insert(START, HeaderValue::from_static(if timing.cold { "cold" } else { "warm" }));
    let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    let text = format!(
        "queue;dur={:.3}, load;dur={:.3}, instantiate;dur={:.3}, run;dur={:.3}",
        ms(timing.queue),
        ms(timing.load),
        ms(timing.instantiate),
        ms(timing.run)
    );
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(SERVER_TIMING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sees_the_rest_of_the_path_as_it_was_sent() {
        for (sent, seen) in [
            ("/v1/functions/f/invoke", "/"),
            ("/v1/functions/f/invoke/", "/"),
            ("/v1/functions/f/invoke?a=b", "/?a=b"),
            ("/v1/functions/%66/invoke/a%2fb//c/?q=%20", "/a%2fb//c/?q=%20"),
            ("/v1/functions/f/invoke/http://x/invoke/", "/http://x/invoke/"),
        ] {
            assert_eq!(seen_by_guest(&sent.parse().unwrap()).unwrap(), seen);
        }
    }
}
