//! Errors of the admin API: problem documents, also for paths and methods that do not exist.

use axum::response::{IntoResponse, Response};
use dunlin_api::{Problem, StoreError};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use crate::deploy::DeployError;

/// An answer that is a problem document.
#[derive(Debug)]
pub(super) struct Failure {
    problem: Box<Problem>,
    header: Option<(HeaderName, HeaderValue)>,
}

pub(super) type Answer<T> = Result<T, Failure>;

impl Failure {
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(status, code, detail)), header: None }
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    fn retry_soon(self) -> Self {
        if self.problem.status == StatusCode::SERVICE_UNAVAILABLE {
            self.with_header(header::RETRY_AFTER, "1")
        } else {
            self
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (status, [(header::CONTENT_TYPE, kind)], self.problem.to_json()).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<DeployError> for Failure {
    fn from(error: DeployError) -> Self {
        let (status, code) = error.problem();
        // Inside of the store stays in the log.
        let unavailable = matches!(
            &error,
            DeployError::Store(StoreError::Unavailable(_))
                | DeployError::Trigger { source: StoreError::Unavailable(_), .. }
        );
        let detail = if unavailable {
            tracing::error!(%error, "a request failed in the store");
            "the store failed: the log of this node says why, and in a cluster `dunlin doctor` whether NATS does"
                .to_owned()
        } else {
            error.to_string()
        };
        Self::new(status, code, detail).retry_soon()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        DeployError::from(error).into()
    }
}

pub(super) async fn not_found(uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    Failure::new(
        StatusCode::NOT_FOUND,
        "not-found",
        format!("there is no {path} here: /openapi.json says what there is"),
    )
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", format!("{path} does not take {method}"))
}
