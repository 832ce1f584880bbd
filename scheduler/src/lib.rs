//! placeholder
pub mod gateway;
pub mod router;
pub mod routes;
pub mod snapshot;
pub mod admin;
pub mod catalog;
pub mod deploy;
pub mod log_hub;
pub mod store;
