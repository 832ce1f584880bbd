//! Write functions for Dunlin in Rust.
//!
//! ```
//! use dunlin_sdk::{Error, Request, Response};
//!
//! #[dunlin_sdk::http]
//! fn handle(request: Request) -> Result<Response, Error> {
//!     let name = request.query_param("name").unwrap_or_else(|| "world".into());
//!     Ok(Response::text(format!("Hello, {name}!\n")))
//! }
//! # fn main() {}
//! ```
//!
//! With `crate-type = ["cdylib"]`, plain `cargo build --release --target wasm32-wasip2` makes the component; it exports
//! `wasi:http/incoming-handler` 0.2, so it runs on every host of that world.
//!
//! * [`Request`] and [`Response`] ask the host only for what the function looks at; bodies stream or are read whole
//!   within a bound that the caller gives.
//! * [`Error`] lets `?` work on any error; what it says stays in the log unless the author makes it public.
//! * [`fetch`] sends outbound requests, [`kv`] (feature `kv`) keeps values, feature `json` adds typed bodies.
//! * [`Event`] is what the other triggers bring: `#[dunlin_sdk::event]` makes a handler, [`event`](mod@event) says how it answers.
//!   `publish` (feature `messaging`) sends messages to subjects.
//! * Settings are `std::env::var`, log lines are [`info!`], [`warn!`], [`error!`] or `println!`: the host tags them with the
//!   invocation.
//! * An instance serves one request at a time, so calls may block. A handler may be an `async fn` all the same, to wait for
//!   several things at once: a [`fetch`] is awaited as well as sent, and [`task`] has the clock.
//!
//! ```
//! use dunlin_sdk::{Error, Request, Response, fetch};
//!
//! #[dunlin_sdk::http]
//! async fn handle(_request: Request) -> Result<Response, Error> {
//!     let rates = fetch::get("https://api.example.com/rates")?.await?;
//!     Ok(Response::bytes(rates.bytes(64 * 1024)?))
//! }
//! # fn main() {}
//! ```
//!
//! # Without this crate
//!
//! The function may also implement `Guest` of the [`wasip2`] crate itself (re-exported as [`guest`]) and pay for nothing
//! but its own calls:
//!
//! ```
//! use dunlin_sdk::guest::wasip2;
//! use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
//!
//! struct Function;
//!
//! impl wasip2::exports::http::incoming_handler::Guest for Function {
//!     fn handle(_request: IncomingRequest, out: ResponseOutparam) {
//!         let response = OutgoingResponse::new(Fields::new());
//!         let body = response.body().expect("the first call");
//!         ResponseOutparam::set(out, Ok(response));
//!         let stream = body.write().expect("the first call");
//!         stream.blocking_write_and_flush(b"Hello").expect("the host takes the body");
//!         drop(stream);
//!         OutgoingBody::finish(body, None).expect("the host takes the end");
//!     }
//! }
//!
//! wasip2::http::proxy::export!(Function with_types_in wasip2);
//! # fn main() {}
//! ```
//!
//! [`wasip2`]: https://docs.rs/wasip2

mod body;
mod convert;
mod error;
pub mod event;
pub mod fetch;
pub mod guest;
#[cfg(feature = "kv")]
pub mod kv;
mod log;
#[cfg(feature = "messaging")]
pub mod messaging;
mod request;
mod response;
pub mod task;
mod uri;

pub use body::{Reader, Writer};
pub use dunlin_sdk_macros::{event, http};
pub use error::Error;
pub use event::{Event, EventError};
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
#[cfg(all(feature = "messaging", feature = "json"))]
pub use messaging::publish;
#[cfg(feature = "messaging")]
pub use messaging::publish_bytes;
pub use request::Request;
pub use response::{IntoResponse, Response};
