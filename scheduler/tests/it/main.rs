//! Integration tests of the scheduler: one binary, because each links everything.

mod admin_api;
mod contract;
mod crash;
mod deploying;
mod doubles;
mod embedded;
mod gateway;
mod logs;
