//! The NATS subjects of a cluster: one place that knows how they are spelled.
//!
//! All begin with `dl.v1.<cluster>`: `v1` is the version of the wire, and clusters of different names share a NATS
//! without seeing each other. Node names are single tokens by their grammar, so a subject never needs escaping.

use dunlin_api::{ClusterName, NodeName};

/// Spells the subjects of one cluster.
#[derive(Clone, Debug)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// Those of `cluster`.
    pub fn of(cluster: &ClusterName) -> Self {
        Self { prefix: format!("dl.v1.{cluster}") }
    }

    /// Invocations for `node`.
    pub fn invoke(&self, node: &NodeName) -> String {
        format!("{}.n.{node}.i", self.prefix)
    }

    /// Requests about `node` itself and cancellations: prepare, ping, cancel.
    pub fn control(&self, node: &NodeName) -> String {
        format!("{}.n.{node}.c", self.prefix)
    }

    /// Chunks of request bodies for `node`.
    pub fn upload(&self, node: &NodeName) -> String {
        format!("{}.s.{node}", self.prefix)
    }

    /// The beginning of the subjects of replies to `gateway`; one token follows.
    pub fn replies(&self, gateway: &NodeName) -> String {
        format!("{}.r.{gateway}", self.prefix)
    }

    /// Chunks of response bodies for `gateway`.
    pub fn download(&self, gateway: &NodeName) -> String {
        format!("{}.rs.{gateway}", self.prefix)
    }

    /// Heartbeats of `node`.
    pub fn heartbeat(&self, node: &NodeName) -> String {
        format!("{}.hb.{node}", self.prefix)
    }

    /// Heartbeats of every node.
    pub fn heartbeats(&self) -> String {
        format!("{}.hb.*", self.prefix)
    }

    /// Asks every node for a heartbeat now.
    pub fn roll_call(&self) -> String {
        format!("{}.who", self.prefix)
    }

    /// The beginning of the subjects at which the connections of `node` receive answers; two tokens follow at most.
    pub fn inbox(&self, node: &NodeName) -> String {
        format!("{}.inbox.{node}", self.prefix)
    }

    /// Asks `node` alone for a heartbeat, and brings it the answers to what it asked itself.
    pub fn membership(&self, node: &NodeName) -> String {
        format!("{}.who.{node}", self.prefix)
    }

    /// Asks every node for log lines.
    pub fn logs(&self) -> String {
        format!("{}.logs", self.prefix)
    }

    /// The beginning of the subjects of log lines for `reader`; the id of its ask follows.
    pub fn log_lines(&self, reader: &NodeName) -> String {
        format!("{}.l.{reader}", self.prefix)
    }

    /// The signal about `topic`, or the signals about all topics that match it.
    pub fn signal(&self, topic: &str) -> String {
        format!("{}.sig.{topic}", self.prefix)
    }

    /// Work of `queue` in the stream of work, or of all queues that match it.
    pub fn work(&self, queue: &str) -> String {
        format!("{}.work.{queue}", self.prefix)
    }

    /// Dead letters of `trigger` in their stream, or of all triggers that match it.
    pub fn dead(&self, trigger: &str) -> String {
        format!("{}.dead.{trigger}", self.prefix)
    }

    /// What all subjects of the cluster match.
    pub fn everything(&self) -> String {
        format!("{}.>", self.prefix)
    }
}
