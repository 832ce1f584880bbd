//! Calls that nobody waits for over HTTP, the same on the gateway and on the admin API: 202 with a `Location` for a call,
//! and below it its status, its result and its cancellation.
//!
//! A result is the function's own answer, status and fields and all. The gateway shows a call only where it was sent to:
//! a function of one host must not answer in the name of another. Waiting is bounded by [`MAX_WAIT`].

use dunlin_api::{Body, InvocationId, Problem, Revision, StoreError};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use serde::Serialize;
use std::time::Duration;

use super::{AsyncCalls, CallRecord, Cancelled, State, fields::Preferences};

/// What the gateway answers itself: no route begins with it.
pub(crate) const RESERVED: &str = "/_dunlin/";
/// Where the gateway has its calls.
pub(crate) const GATEWAY: &str = "/_dunlin/invocations/";
/// Where the admin API has its calls.
pub(crate) const ADMIN: &str = "/v1/invocations/";
/// Longest wait for an end: proxies give up after about this time.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Where calls are asked about.
pub(crate) struct Desk<'a> {
    pub calls: &'a dyn AsyncCalls,
    /// What ids follow in a `Location`.
    pub prefix: &'static str,
    /// The host that is asked; none where every call may be seen.
    pub host: Option<Option<&'a str>>,
}

/// What a 202 says.
#[derive(Serialize)]
struct Receipt<'a> {
    id: InvocationId,
    location: &'a str,
    state: State,
}

impl Desk<'_> {
    /// Accepts `request` and answers with a receipt; or with the result, if `preferences` allow to wait for it and it comes
    /// in time.
    pub(crate) async fn submit(
        &self,
        revision: &Revision,
        mut request: Request<Body>,
        preferences: Preferences,
    ) -> Response<Body> {
        preferences.leave_rest(request.headers_mut());
        let host = self.host.flatten().map(str::to_owned);
        let accepted = match self.calls.submit(revision, request, host).await {
            Ok(accepted) => accepted,
            Err(error) => return error.to_response(),
        };
        let wait = preferences.wait.map(|wait| wait.min(MAX_WAIT)).filter(|wait| !wait.is_zero());
        let mut state = accepted.state;
        if let Some(wait) = wait {
            match self.calls.wait(accepted.id, wait).await {
                Ok(Some(call)) if call.state.has_ended() => return self.answer(&call).await,
                Ok(call) => state = call.map_or(state, |call| call.state),
                // It is accepted all the same.
                Err(error) => tracing::debug!(%error, "waiting for a call failed"),
            }
        }
        let applied = match wait {
            Some(wait) => format!("respond-async, wait={}", wait.as_secs()),
            None => "respond-async".to_owned(),
        };
        let mut response = self.receipt(accepted.id, state);
        let applied = HeaderValue::try_from(applied).expect("letters and digits are a valid header value");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        response
    }

    fn receipt(&self, id: InvocationId, state: State) -> Response<Body> {
        let location = format!("{}{id}", self.prefix);
        let mut response = json(StatusCode::ACCEPTED, &Receipt { id, location: &location, state });
        let location = HeaderValue::try_from(location).expect("a prefix and an id are a valid header value");
        response.headers_mut().insert(header::LOCATION, location);
        response
    }

    /// What is known of a call, as soon as it has ended or after `wait`.
    pub(crate) async fn status(&self, id: &str, wait: Duration) -> Response<Body> {
        match self.find(id, wait).await {
            Ok(call) => json(StatusCode::OK, &call),
            Err(response) => *response,
        }
    }

    /// The function's answer; 202 before there is one; a problem if there is none to come.
    pub(crate) async fn result(&self, id: &str, wait: Duration) -> Response<Body> {
        match self.find(id, wait).await {
            Ok(call) => self.answer(&call).await,
            Err(response) => *response,
        }
    }

    /// Cancels a call: 200 with its status, 409 if it had ended.
    pub(crate) async fn cancel(&self, id: &str) -> Response<Body> {
        let call = match self.find(id, Duration::ZERO).await {
            Ok(call) => call,
            Err(response) => return *response,
        };
        match self.calls.cancel(call.id).await {
            Ok(Cancelled::Cancelled(call)) => json(StatusCode::OK, &call),
            Ok(Cancelled::Ended(call)) => {
                let detail = format!("the call has ended already: it is {}", call.state.as_str());
                about(&call, StatusCode::CONFLICT, "already-ended", detail)
            }
            Ok(Cancelled::Unknown) => unknown(),
            Err(error) => failed(&error),
        }
    }

    async fn find(&self, id: &str, wait: Duration) -> Result<CallRecord, Box<Response<Body>>> {
        let Ok(id) = id.parse() else { return Err(Box::new(unknown())) };
        let call = self.calls.wait(id, wait.min(MAX_WAIT)).await.map_err(|error| Box::new(failed(&error)))?;
        let seen = |call: &CallRecord| self.host.is_none_or(|host| same_host(host, call.host.as_deref()));
        call.filter(seen).ok_or_else(|| Box::new(unknown()))
    }

    async fn answer(&self, call: &CallRecord) -> Response<Body> {
        if !call.state.has_ended() {
            let mut response = self.receipt(call.id, call.state);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
        match self.calls.result(call.id).await {
            Ok(Some(response)) => response,
            Ok(None) if call.state == State::Cancelled => {
                about(call, StatusCode::GONE, "cancelled", "the call was cancelled: it has no result".into())
            }
            Ok(None) => {
                let reason = call.reason.as_deref().unwrap_or("no reason is known");
                let detail = format!("the call failed for good after {} attempts: {reason}", call.attempts);
                about(call, StatusCode::GONE, "dead", detail)
            }
            Err(error) => failed(&error),
        }
    }

    /// Answers what stands below [`RESERVED`] on the gateway.
    pub(crate) async fn serve(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response<Body> {
        let path = uri.path().strip_prefix(self.prefix).unwrap_or_default();
        let (id, below) = path.split_once('/').map_or((path, None), |(id, below)| (id, Some(below)));
        let waits = || Preferences::of(headers).wait.or_else(|| asked(uri.query()?)).unwrap_or_default();
        match (method.as_str(), below) {
            ("GET" | "HEAD", None) => self.status(id, waits()).await,
            ("GET" | "HEAD", Some("result")) => self.result(id, waits()).await,
            ("DELETE", None) => self.cancel(id).await,
            (_, None | Some("result")) => {
                let allowed = if below.is_none() { "GET, HEAD, DELETE" } else { "GET, HEAD" };
                let detail = format!("this takes only {allowed}");
                let refusal = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
                let mut response = problem(&refusal);
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
                response
            }
            _ => unknown(),
        }
    }
}

/// `wait=N` of a query, in seconds.
fn asked(query: &str) -> Option<Duration> {
    let seconds = query.split('&').find_map(|part| part.strip_prefix("wait="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

fn same_host(a: Option<&str>, b: Option<&str>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        (a, b) => a == b,
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("only string keys");
    document(status, "application/json", body)
}

/// The answer with a problem document.
pub(super) fn problem(problem: &Problem) -> Response<Body> {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    document(status, "application/problem+json", problem.to_json())
}

fn document(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn about(call: &CallRecord, status: StatusCode, code: &str, detail: String) -> Response<Body> {
    let mut document = Problem::new(status, code, detail);
    document.invocation = Some(call.id);
    problem(&document)
}

fn unknown() -> Response<Body> {
    let detail = "there is no such call: it never was, or its result was kept long enough";
    problem(&Problem::new(StatusCode::NOT_FOUND, "no-invocation", detail))
}

fn failed(error: &StoreError) -> Response<Body> {
    tracing::error!(%error, "the record of a call could not be read");
    let detail = "the store failed: try again";
    let mut response = problem(&Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", detail));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_may_stand_in_the_query() {
        assert_eq!(asked("a=1&wait=5"), Some(Duration::from_secs(5)));
        assert_eq!(asked("await=5"), None);
        assert_eq!(asked("wait=-1"), None);
    }

    #[test]
    fn a_call_is_seen_only_at_its_host() {
        assert!(same_host(Some("A.example"), Some("a.example")) && same_host(None, None));
        assert!(!same_host(Some("a"), Some("b")) && !same_host(None, Some("a")) && !same_host(Some("a"), None));
    }
}
