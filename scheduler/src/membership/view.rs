//! The cluster as one node sees it, as one immutable value that request paths read without a lock.

use dunlin_api::{Load, NodeName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

/// What a node says of itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name, unique in the cluster.
    pub node: NodeName,
    /// Random per process: tells two processes apart that have the same name.
    pub boot: u64,
    /// Invocations it runs at once.
    pub slots: u32,
    /// What placement may ask for.
    pub labels: BTreeMap<String, String>,
    /// Where it stands.
    pub zone: Option<String>,
    /// The version of its program.
    pub version: String,
    /// Whether it takes requests from clients.
    pub gateway: bool,
    /// Whether it runs invocations of others.
    pub worker: bool,
    /// The address of its gateway.
    pub http: Option<String>,
    /// The address of its admin API.
    pub admin: Option<String>,
    /// When it started, in milliseconds since 1970 by its own clock.
    pub started_ms: u64,
}

/// Whether a node can be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It is heard.
    Up,
    /// It is heard and takes no new calls.
    Draining,
    /// It is silent and did not say goodbye.
    Lost,
    /// It said goodbye.
    Left,
}

impl NodeState {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Lost => "lost",
            Self::Left => "left",
        }
    }
}

/// One node.
#[derive(Clone, Debug)]
pub struct Member {
    /// What it says of itself.
    pub info: Arc<NodeInfo>,
    /// Whether it can be counted on.
    pub state: NodeState,
    /// Whether an operator wants it drained; survives its restart.
    pub drained: bool,
    /// Its weight: its own slots, or what an operator set instead.
    pub slots: u32,
    /// How busy it was when this view was made.
    pub load: Load,
    /// How many revisions it had ready when this view was made.
    pub ready: u32,
    /// When it was last heard; never, if only its record is known.
    pub seen: Option<Instant>,
    /// When this node first heard of it, in its present process.
    pub joined: Instant,
    /// How far its clock is ahead of this node's.
    pub clock_offset_ms: Option<i64>,
    /// Why it gets no calls although it is up.
    pub unfit: Option<String>,
}

impl Member {
    /// Whether it is heard.
    pub fn is_live(&self) -> bool {
        matches!(self.state, NodeState::Up | NodeState::Draining)
    }

    /// Whether it takes new invocations from other nodes.
    pub fn takes_calls(&self) -> bool {
        self.state == NodeState::Up && self.info.worker && !self.drained && self.unfit.is_none()
    }
}

/// Every known node, this one among them, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Members {
    pub(super) version: u64,
    pub(super) nodes: BTreeMap<NodeName, Arc<Member>>,
}

impl Members {
    /// Greater is later; counts the views of this process.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many nodes are known, whatever their state.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node is known.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node of that name.
    pub fn get(&self, node: &NodeName) -> Option<&Arc<Member>> {
        self.nodes.get(node)
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.nodes.values()
    }

    /// Those that take new invocations from others, in the order of their names.
    pub fn workers(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.iter().filter(|member| member.takes_calls())
    }
}
