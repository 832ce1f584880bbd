//! Why a node cannot join, and why a change of the membership was not made.

use dunlin_api::{NodeName, StoreError};

/// Why a node is no member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Another process that lives has this name.
    #[error(
        "a node named `{node}` is in the cluster already{at}, started {age_seconds} s ago: stop it, or give this one \
         another name with --name"
    )]
    NameTaken {
        /// The name.
        node: NodeName,
        /// Where the other one serves, as ` at <address>`; empty if it serves nowhere.
        at: String,
        /// How long ago it started, by its own clock and ours.
        age_seconds: u64,
    },
    /// What this node sent did not come back to it.
    #[error(
        "NATS does not bring back what this node sends on `{0}`: its user needs the permission to publish and to \
         subscribe there"
    )]
    Deaf(String),
    /// What this node says of itself is too long.
    #[error("the labels of this node make its heartbeat {bytes} bytes long, over the limit of {limit}: shorten them")]
    TooLong {
        /// The length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The subjects could not be subscribed to.
    #[error("cannot subscribe to the cluster's subjects: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The bucket of the nodes cannot be used.
    #[error(
        "cannot use the JetStream bucket `{bucket}`, which needs nats-server 2.14.3 or later with JetStream: {error}"
    )]
    Store {
        /// The bucket.
        bucket: String,
        /// What it said.
        error: StoreError,
    },
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// No node has this name.
    #[error("there is no node `{0}` in the cluster")]
    Unknown(NodeName),
    /// The node is in the cluster.
    #[error("node `{0}` is alive: only nodes that are lost or have left can be forgotten")]
    Alive(NodeName),
    /// A weight of nothing.
    #[error("a node's slots must be at least 1: drain the node to keep calls from it")]
    NoSlots,
    /// The bucket of the nodes failed.
    #[error(transparent)]
    Store(StoreError),
}
