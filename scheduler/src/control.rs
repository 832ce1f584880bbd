//! What people see and change of a cluster: its nodes, where a function would run and why, whether all is well.
//!
//! The admin API asks a [`Control`]: [`Alone`] for a node without others, [`Clustered`] for a member. The answers are sent
//! as they stand here. Bounds: those of membership and balancer; a diagnosis asks at most [`doctor::REVISIONS`] revisions.

use dunlin_api::{BoxFuture, FunctionName, Load, LocalNode, NodeName, Revision, RevisionId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Instant};

use crate::{
    balancer::{Explanation, Verdict},
    catalog::Catalog,
    dispatch::{Dispatch, Failure},
    membership::{Member, MembershipError},
};

pub mod doctor;

pub use doctor::{Finding, Level};

/// Failures that one answer shows.
const FAILURES_SHOWN: usize = 10;

/// One node of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeStatus {
    /// Its name.
    #[schema(value_type = String)]
    pub node: NodeName,
    /// `up`, `draining`, `lost` or `left`.
    pub state: String,
    /// Whether an operator wants it drained.
    pub drained: bool,
    /// Why it gets no calls although it is up.
    pub unfit: Option<String>,
    /// Calls that run on it or wait for a slot.
    pub in_flight: u32,
    /// Its weight: calls that it may run at once.
    pub slots: u32,
    /// Revisions that it has ready.
    pub ready: u32,
    /// The version of its program.
    pub version: String,
    /// Where it stands.
    pub zone: Option<String>,
    /// What placement may ask for.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes requests from clients.
    pub gateway: bool,
    /// Whether it runs functions.
    pub worker: bool,
    /// The address of its gateway.
    pub http: Option<String>,
    /// The address of its admin API.
    pub admin: Option<String>,
    /// When it started, in milliseconds since the Unix epoch by its own clock.
    pub started_ms: u64,
    /// How long ago it was heard; never if only its record is known.
    pub seen_ms_ago: Option<u64>,
    /// How far its clock is ahead of that of the node that answers.
    pub clock_offset_ms: Option<i64>,
    /// Whether it is the node that answers.
    pub here: bool,
}

impl NodeStatus {
    /// A node without others, of which nothing else is known.
    pub fn alone(node: NodeName) -> Self {
        Self {
            node,
            state: "up".into(),
            drained: false,
            unfit: None,
            in_flight: 0,
            slots: 0,
            ready: 0,
            version: String::new(),
            zone: None,
            labels: BTreeMap::new(),
            gateway: true,
            worker: true,
            http: None,
            admin: None,
            started_ms: 0,
            seen_ms_ago: Some(0),
            clock_offset_ms: Some(0),
            here: true,
        }
    }
}

/// Where a call of a function would run, as one gateway sees it at this moment.
#[derive(Clone, Debug, Serialize)]
pub struct Why {
    /// The function.
    pub function: FunctionName,
    /// The revision, the one with the greatest weight.
    pub revision: RevisionId,
    /// Where it may run; empty = anywhere.
    pub place: String,
    /// The gateway whose view this is.
    pub gateway: String,
    /// The node a call would go to; none if there is none.
    pub node: Option<String>,
    /// Why there, or why nowhere.
    pub reason: String,
    /// Every node with its numbers, the preferred ones first.
    pub nodes: Vec<Explanation>,
    /// The last calls of it that the platform failed, newest first.
    pub failures: Vec<Failure>,
}

/// Why a node was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no cluster.
    #[error(
        "this node stands alone: it has no cluster to be drained in. Stop it with SIGTERM, which drains it, or join one with `dunlin node --nats URL`"
    )]
    Alone,
    /// The membership refused.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// Looks at the cluster and changes it. Without one there is nothing to change.
pub trait Control: Send + Sync + 'static {
    /// Every node, in order of their names.
    fn nodes(&self) -> Vec<NodeStatus>;

    /// Asks for the drain of `node`, or ends it.
    fn drain<'a>(&'a self, _node: &'a NodeName, _on: bool) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(async { Err(ControlError::Alone) })
    }

    /// Gives `node` another weight, or with none its own again.
    fn set_slots<'a>(&'a self, _node: &'a NodeName, _slots: Option<u32>) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(async { Err(ControlError::Alone) })
    }

    /// Forgets a node that is lost or has left.
    fn forget<'a>(&'a self, _node: &'a NodeName) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(async { Err(ControlError::Alone) })
    }

    /// Where `function` would run; none if it is not deployed.
    fn why(&self, function: &FunctionName) -> Option<Why>;

    /// Looks for what is wrong.
    fn diagnose(&self) -> BoxFuture<'_, Vec<Finding>>;
}

/// A node without others.
pub struct Alone<N> {
    /// What `nodes` shows of it.
    pub status: NodeStatus,
    /// Its runtime.
    pub node: Arc<N>,
    /// What is deployed.
    pub catalog: Arc<Catalog>,
    /// Its dispatch.
    pub dispatch: Arc<Dispatch<N>>,
}

/// A member of a cluster.
pub struct Clustered<N> {
    /// Its dispatch.
    pub dispatch: Arc<Dispatch<N>>,
    /// What is deployed.
    pub catalog: Arc<Catalog>,
    /// Diagnoses.
    pub doctor: doctor::Doctor,
}

impl<N: LocalNode> Control for Alone<N> {
    fn nodes(&self) -> Vec<NodeStatus> {
        let Load { in_flight, slots } = self.node.load();
        vec![NodeStatus { in_flight, slots, ready: count(self.node.ready_count()), ..self.status.clone() }]
    }

    fn why(&self, function: &FunctionName) -> Option<Why> {
        let revision = serving(&self.catalog, function)?;
        let ready = self.node.is_ready(&revision);
        let Load { in_flight, slots } = self.node.load();
        let reason = format!(
            "this node stands alone; {in_flight} of {slots} slots are taken and the revision is {}",
            if ready { "ready" } else { "loaded at its next call" }
        );
        let node = &self.status.node;
        Some(why(function, &revision, node.as_str(), Some(node), reason, Vec::new(), &self.dispatch))
    }

    fn diagnose(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async move {
            let message = "this node stands alone: there is no cluster to look at";
            let mut findings = vec![Finding::good("cluster", message)];
            let snapshot = self.catalog.snapshot();
            let serving = snapshot.functions.values().flat_map(|f| &f.serving);
            let waiting = serving.filter(|(revision, _)| !self.node.is_ready(revision)).count();
            findings.push(match waiting {
                0 => Finding::good("revisions", format!("{} functions are ready", snapshot.functions.len())),
                some => Finding::warning(
                    "revisions",
                    format!("{some} revisions are not loaded"),
                    "nothing: they are loaded at their next call; with a larger --code-memory more of them stay loaded",
                ),
            });
            findings
        })
    }
}

impl<N: LocalNode> Control for Clustered<N> {
    fn nodes(&self) -> Vec<NodeStatus> {
        let Some(peers) = self.dispatch.peers() else { return Vec::new() };
        let members = peers.membership.latest();
        members.iter().map(|member| status(member, &peers.me)).collect()
    }

    fn drain<'a>(&'a self, node: &'a NodeName, on: bool) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(async move { Ok(self.doctor.membership.drain(node, on).await?) })
    }

    fn set_slots<'a>(&'a self, node: &'a NodeName, slots: Option<u32>) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(async move { Ok(self.doctor.membership.set_slots(node, slots).await?) })
    }

    fn forget<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, Result<(), ControlError>> {
        Box::pin(async move { Ok(self.doctor.membership.forget(node).await?) })
    }

    fn why(&self, function: &FunctionName) -> Option<Why> {
        let peers = self.dispatch.peers()?;
        let revision = serving(&self.catalog, function)?;
        let (choice, nodes) = self.dispatch.explain(peers, &revision, Instant::now());
        let (node, reason) = match choice {
            Ok(node) => {
                let chosen = nodes.iter().find(|explanation| explanation.node == node);
                let reason = match chosen.map(|e| e.verdict) {
                    Some(Verdict::Here) => {
                        "it arrives here, and no other node is so much less busy that a hop is worth it"
                    }
                    Some(Verdict::Reserve) => "the preferred nodes do not take it now",
                    _ => "of the preferred nodes that were sampled it has the lowest score",
                };
                (Some(node), reason.to_owned())
            }
            Err(reason) => (None, reason),
        };
        Some(why(function, &revision, peers.me.as_str(), node.as_ref(), reason, nodes, &self.dispatch))
    }

    fn diagnose(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(self.doctor.diagnose())
    }
}

fn why<N: LocalNode>(
    function: &FunctionName,
    revision: &Revision,
    gateway: &str,
    node: Option<&NodeName>,
    reason: String,
    nodes: Vec<Explanation>,
    dispatch: &Dispatch<N>,
) -> Why {
    let mut failures = dispatch.failures().of(function);
    failures.truncate(FAILURES_SHOWN);
    Why {
        function: function.clone(),
        revision: revision.id.clone(),
        place: revision.settings.place.to_string(),
        gateway: gateway.to_owned(),
        node: node.map(ToString::to_string),
        reason,
        nodes,
        failures,
    }
}

/// The revision of `function` that gets most of the calls.
fn serving(catalog: &Catalog, function: &FunctionName) -> Option<Arc<Revision>> {
    let snapshot = catalog.snapshot();
    let serving = &snapshot.functions.get(function)?.serving;
    serving.iter().max_by_key(|(_, weight)| *weight).map(|(revision, _)| revision.clone())
}

fn status(member: &Member, me: &NodeName) -> NodeStatus {
    let info = &member.info;
    NodeStatus {
        node: info.node.clone(),
        state: member.state.as_str().to_owned(),
        drained: member.drained,
        unfit: member.unfit.clone(),
        in_flight: member.load.in_flight,
        slots: member.slots,
        ready: member.ready,
        version: info.version.clone(),
        zone: info.zone.clone(),
        labels: info.labels.clone(),
        gateway: info.gateway,
        worker: info.worker,
        http: info.http.clone(),
        admin: info.admin.clone(),
        started_ms: info.started_ms,
        seen_ms_ago: member.seen.map(|seen| u64::try_from(seen.elapsed().as_millis()).unwrap_or(u64::MAX)),
        clock_offset_ms: member.clock_offset_ms,
        here: info.node == *me,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
