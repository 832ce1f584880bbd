//! The two kinds of places where events are handled: what is promised holds on both stores.

use serde_json::Value;
use std::fs;
use tempfile::TempDir;

use crate::{
    cluster::support::Cluster,
    support::{Node, fixture, json, ok},
};

/// A node on the embedded store, or a cluster on a real nats-server.
pub(super) enum Place {
    Alone { node: Node, _data: TempDir },
    Cluster(Cluster),
}

impl Place {
    pub(super) fn alone() -> Self {
        let data = tempfile::tempdir().unwrap();
        Self::Alone { node: Node::start(&data), _data: data }
    }

    /// Two members, so that what one is told another may do.
    pub(super) fn cluster() -> Self {
        Self::Cluster(Cluster::start(&[("n1", &[]), ("n2", &[])]))
    }

    /// URL of an admin API.
    pub(super) fn admin(&self) -> &str {
        match self {
            Self::Alone { node, .. } => &node.admin,
            Self::Cluster(cluster) => &cluster.first().admin,
        }
    }

    /// URL of a gateway, in a cluster of another member than that of [`Place::admin`].
    pub(super) fn http(&self) -> String {
        match self {
            Self::Alone { node, .. } => node.http.clone(),
            Self::Cluster(cluster) => format!("http://{}", cluster.members[1].http),
        }
    }

    pub(super) fn ok(&self, args: &[&str]) -> String {
        ok(self.admin(), args)
    }

    pub(super) fn json(&self, args: &[&str]) -> Value {
        json(self.admin(), args)
    }

    /// Deploys what the manifest says; `SOURCE` in it stands for the fixture `component`.
    pub(super) fn deploy(&self, component: &str, manifest: &str) {
        let project = tempfile::tempdir().unwrap();
        let manifest = manifest.replace("SOURCE", &format!("source = {:?}", fixture(component)));
        fs::write(project.path().join("dunlin.toml"), manifest).unwrap();
        self.ok(&["deploy", project.path().to_str().unwrap(), "--no-build"]);
    }

    /// The dead letters of `function`.
    pub(super) fn letters(&self, function: &str) -> Vec<Value> {
        self.json(&["dlq", "list", "--function", function])["letters"].as_array().unwrap().clone()
    }
}
