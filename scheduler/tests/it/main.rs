//! Integration tests of the scheduler: one binary, because each links everything.

mod contract;
mod embedded;
mod gateway;
mod deploying;
mod doubles;
