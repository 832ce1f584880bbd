//! What is deployed, as one immutable value that request paths read without a lock.

use dunlin_api::{Deployment, FunctionName, Revision};
use std::{collections::HashMap, sync::Arc};

/// Everything that serves at one moment. Published whole after each change; readers keep the one they hold.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The deployed functions by name.
    pub functions: HashMap<FunctionName, Arc<Deployed>>,
}

/// One function as it is deployed.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Which revisions serve.
    pub deployment: Deployment,
    /// The store's version of `deployment`, for compare-and-set.
    pub version: u64,
    /// The serving revisions with their weights, resolved.
    pub serving: Vec<(Arc<Revision>, u32)>,
}

impl Deployed {
    /// The revision whose triggers beside HTTP count: the one that serves with the largest weight.
    pub fn triggering(&self) -> Option<&Arc<Revision>> {
        let serving = self.serving.iter().filter(|(_, weight)| *weight > 0);
        serving.max_by_key(|(revision, weight)| (*weight, revision.created_ms)).map(|(revision, _)| revision)
    }
}
