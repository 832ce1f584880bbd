//! What a deploy is asked for and what it answers; the answer is sent to clients as it stands here.

use dunlin_api::{Digest, FunctionName, RevisionId, Settings, Version};
use serde::{Deserialize, Serialize};

/// What to deploy.
#[derive(Clone, Debug)]
pub struct DeployRequest {
    /// The function.
    pub function: FunctionName,
    /// An artifact that was uploaded before.
    pub artifact: Digest,
    /// What it runs with.
    pub settings: Settings,
    /// The version of the deployment that the caller saw, 0 for none; another one is a conflict. None = whatever it is.
    pub expected: Option<Version>,
}

/// What a deploy did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeployResult {
    /// The function.
    pub function: FunctionName,
    /// The revision that serves now.
    pub revision: RevisionId,
    /// Its artifact.
    pub artifact: Digest,
    /// False if exactly this was serving before.
    pub changed: bool,
    /// The version of the deployment.
    pub version: Version,
    /// The routes it serves.
    pub routes: Vec<String>,
    /// Every node that should run it, and whether it is ready.
    pub nodes: Vec<NodeReady>,
}

/// Whether one node has a revision ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReady {
    /// The node.
    pub node: String,
    /// Whether it can run the revision at once.
    pub ready: bool,
    /// Why it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
