//! Integration tests of the scheduler: one binary, because each links everything.

mod gateway;
