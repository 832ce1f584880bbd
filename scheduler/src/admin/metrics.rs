//! What the node counts, for Prometheus.

use axum::{extract::State, response::IntoResponse};
use http::{StatusCode, header};
use std::collections::BTreeMap;

use super::{
    Admin, Shared,
    problem::{Answer, Failure},
    schema::Problem,
};
use crate::metrics::{CONTENT_TYPE, Scrape, page};

/// What this node counts, in the text format of OpenMetrics 1.0.
#[utoipa::path(get, path = "/metrics", tag = "node",
    responses((status = 200, body = String, content_type = "application/openmetrics-text", description = "One line each"),
        (status = 500, body = Problem)))]
pub(super) async fn metrics(State(admin): State<Shared>) -> Answer<impl IntoResponse> {
    // A thousand functions take milliseconds, for which nobody else should wait.
    let written = tokio::task::spawn_blocking(move || page(&admin.metrics, scrape(&admin))).await;
    let failed = || Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the metrics could not be written");
    let text = written.ok().and_then(Result::ok).ok_or_else(failed)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

fn scrape(admin: &Admin) -> Scrape {
    let mut members = BTreeMap::new();
    for node in admin.control.nodes() {
        *members.entry(node.state).or_default() += 1;
    }
    Scrape {
        node: admin.node.clone(),
        version: admin.version.clone(),
        load: (admin.load)(),
        functions: admin.catalog.snapshot().functions.len(),
        members,
        events: admin.events.as_ref().map(|events| (events.stats)()).unwrap_or_default(),
        readings: (admin.readings)(),
    }
}
