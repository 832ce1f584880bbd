//! placeholder
pub mod snapshot;
pub mod router;
pub mod routes;
pub mod gateway;
