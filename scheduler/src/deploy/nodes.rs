//! Which nodes a deploy makes ready before traffic moves.

use dunlin_api::{BoxFuture, Prepare, Refusal, Revision};
use std::sync::Arc;

use super::{DeployError, NodeReady};

/// What became of each node that should run a revision, by its name.
pub type Readied = Vec<(String, Result<(), Refusal>)>;

/// Makes revisions ready on the nodes that should run them.
pub trait MakeReady: Send + Sync + 'static {
    /// Makes those nodes fetch, verify and compile `revision`, and waits for all of them.
    fn make_ready(&self, revision: Arc<Revision>) -> BoxFuture<'_, Readied>;
}

/// A node without others.
pub struct Alone {
    /// Its name.
    pub node: String,
    /// What makes components ready on it.
    pub prepare: Arc<dyn Prepare>,
}

impl MakeReady for Alone {
    fn make_ready(&self, revision: Arc<Revision>) -> BoxFuture<'_, Readied> {
        Box::pin(async move { vec![(self.node.clone(), self.prepare.prepare(revision).await)] })
    }
}

/// Makes `revision` ready; at least one node has it then.
pub(super) async fn ready_somewhere(
    nodes: &dyn MakeReady,
    revision: &Arc<Revision>,
) -> Result<Vec<NodeReady>, DeployError> {
    let mut readied = nodes.make_ready(revision.clone()).await;
    if !readied.iter().any(|(_, result)| result.is_ok()) {
        // What is wrong with the component says more than what is wrong with a node.
        readied.sort_by_key(|(_, result)| matches!(result, Err(Refusal::Node(_))));
        let refusal = readied.into_iter().find_map(|(_, result)| result.err());
        let nobody = || Refusal::Node(nobody_fits(revision));
        return Err(DeployError::Refused(refusal.unwrap_or_else(nobody)));
    }
    let told = readied.into_iter().map(|(node, result)| {
        let reason = result.err().map(|refusal| refusal.to_string());
        NodeReady { node, ready: reason.is_none(), reason }
    });
    Ok(told.collect())
}

fn nobody_fits(revision: &Revision) -> String {
    let place = &revision.settings.place;
    if place.is_anywhere() {
        "the cluster has no worker that takes calls".into()
    } else {
        format!("no worker of the cluster fits its place ({place}): `dunlin nodes` shows their labels and zones")
    }
}
