//! Problem details for HTTP APIs (RFC 9457): the body of every error Dunlin itself answers with.

use http::{HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{Body, InvocationId, InvokeError, Retry};

/// A problem document. Extension members say what a person or a program needs next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// A URI that names the kind of problem.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What went wrong this time, and what to do.
    pub detail: String,
    /// The stable code of the kind of problem.
    pub code: String,
    /// The id to look for in the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<InvocationId>,
    /// Whether guest code had begun to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<bool>,
}

impl Problem {
    /// A problem of kind `code`.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            r#type: format!("urn:dunlin:error:{code}"),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.into(),
            invocation: None,
            started: None,
        }
    }

    /// The problem an HTTP caller sees for `error`.
    pub fn of(error: &InvokeError, invocation: InvocationId, started: bool) -> Self {
        let mut problem = Self::new(error.status(), error.code(), error.public_detail());
        problem.invocation = Some(invocation);
        problem.started = Some(started);
        problem
    }

    /// The document as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a problem has only string keys")
    }
}

impl InvokeError {
    /// The HTTP answer to this error: problem document, `Retry-After` where waiting helps, `Allow` where it is due.
    pub fn to_response(&self, invocation: InvocationId, started: bool) -> Response<Body> {
        let mut response = Response::new(Body::full(Problem::of(self, invocation, started).to_json()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Retry::After(wait) = self.retry() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if let Self::Method(allowed) = self
            && let Ok(value) = HeaderValue::from_str(allowed)
        {
            headers.insert(header::ALLOW, value);
        }
        response
    }
}
