//! An axum router as a function. It sees the whole path, so its routes begin with the function's own.

use axum::{
    Json, Router,
    extract::Query,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

#[wstd_axum::http_server]
fn main() -> Router {
    Router::new().route("/{{name}}/", get(greet)).route("/{{name}}/sum", post(sum))
}

#[derive(Deserialize)]
struct Who {
    name: Option<String>,
}

async fn greet(Query(who): Query<Who>) -> String {
    format!("Hello, {}!\n", who.name.as_deref().unwrap_or("world"))
}

#[derive(Deserialize)]
struct Numbers {
    numbers: Vec<f64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Sum {
    sum: f64,
}

async fn sum(Json(Numbers { numbers }): Json<Numbers>) -> Json<Sum> {
    Json(Sum { sum: numbers.iter().sum() })
}
