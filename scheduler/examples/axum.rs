//! The peer without WebAssembly of `bench/run`: a greeting from plain axum. `--example axum -- ADDR:PORT`.
//!
//! As one would write it: the runtime's defaults, one route, and no waiting for the other side's acknowledgement.

#![allow(clippy::unwrap_used, reason = "an example ends with what went wrong")]

use axum::{Router, routing::get, serve::ListenerExt as _};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(address).await.unwrap().tap_io(|stream| stream.set_nodelay(true).unwrap());
    let app = Router::new().route("/", get(async || "Hello, world!\n"));
    axum::serve(listener, app).await.unwrap();
}
