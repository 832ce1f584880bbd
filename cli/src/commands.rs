//! The commands, one file each: its arguments, and `run`, which turns them into settings and acts.

pub(crate) mod build;
pub(crate) mod completions;
pub(crate) mod deploy;
pub(crate) mod dev;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod invoke;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod new;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod publish;
pub(crate) mod remove;
pub(crate) mod result;
pub(crate) mod serve;
pub(crate) mod show;
pub(crate) mod version;
pub(crate) mod why;
