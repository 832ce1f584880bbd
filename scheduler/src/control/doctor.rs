//! Looks at a cluster end to end and says what is wrong and what to do about it.
//!
//! Asked by `dunlin doctor` through the admin API. Each finding is one sentence with its remedy. It changes nothing, except
//! that a node that is asked whether it has a revision ready begins to make it so. Bounds: [`REVISIONS`] revisions
//! are asked about, 32 at a time, and each question has two seconds.

use async_nats::jetstream::stream;
use dunlin_api::{NodeName, Revision};
use futures::{StreamExt, stream as streams};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{
    balancer::{Balancer, MIN_PREFERRED, RevisionKey},
    catalog::Catalog,
    membership::{Members, Membership, NodeState},
    nats::{Nats, Role},
    remote::{PrepareError, Remotes},
    store,
};

/// Revisions whose nodes are asked.
pub const REVISIONS: usize = 1_000;
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(2);
/// A store that is fuller than this will be full soon.
const FULL_PERCENT: u64 = 80;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Good,
    /// It works, but not as well as it could, or not for long.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub about: String,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    pub(super) fn good(about: &str, message: impl Into<String>) -> Self {
        Self { level: Level::Good, about: about.into(), message: message.into(), remedy: None }
    }

    pub(super) fn warning(about: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, about: about.into(), message: message.into(), remedy: Some(remedy.into()) }
    }

    fn problem(about: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Problem, ..Self::warning(about, message, remedy) }
    }
}

/// What a diagnosis looks at.
pub struct Doctor {
    /// The connections.
    pub nats: Nats,
    /// What this node does in the cluster.
    pub role: Role,
    /// Who is there.
    pub membership: Arc<Membership>,
    /// Which nodes should run what.
    pub balancer: Arc<Balancer>,
    /// Reaches them; none on a node that may not.
    pub remotes: Option<Arc<Remotes>>,
    /// What is deployed.
    pub catalog: Arc<Catalog>,
    /// The version of this program.
    pub version: String,
}

impl Doctor {
    /// Looks at everything, in the order in which one thing stands on another.
    pub async fn diagnose(&self) -> Vec<Finding> {
        if !self.nats.is_connected() {
            let remedy = "start it, or check the network between; calls that can run here go on meanwhile";
            return vec![Finding::problem("nats", "NATS cannot be reached", remedy)];
        }
        let mut findings = vec![self.server().await];
        for stream in store::nats::streams(&self.nats.cluster) {
            findings.push(self.stream(&stream).await);
        }
        let members = self.membership.latest();
        findings.extend(nodes(&members, &self.version));
        findings.push(clocks(&members));
        findings.push(self.revisions(&members).await);
        findings
    }

    /// Version, JetStream, payload and permissions: what every start checks too.
    async fn server(&self) -> Finding {
        let info = self.nats.control.server_info();
        match self.nats.check(self.role).await {
            Ok(()) => {
                let payload = dunlin_api::ByteSize(info.max_payload as u64);
                Finding::good(
                    "nats",
                    format!("nats-server {} with JetStream, messages up to {payload}, all permissions", info.version),
                )
            }
            Err(error) => {
                Finding::problem("nats", error.to_string(), "see the page about permissions: docs/cluster.md")
            }
        }
    }

    async fn stream(&self, name: &str) -> Finding {
        let found = tokio::time::timeout(PATIENCE, self.nats.jetstream.get_stream(name)).await;
        match found {
            Err(_) => Finding::problem("stores", format!("`{name}` does not answer"), NO_LEADER),
            Ok(Err(error)) => Finding::problem("stores", format!("`{name}` cannot be read: {error}"), NO_LEADER),
            Ok(Ok(found)) => judge(name, found.cached_info(), self.servers()),
        }
    }

    /// Servers that JetStream may replicate to, as far as the connected one tells.
    fn servers(&self) -> usize {
        let info = self.nats.control.server_info();
        info.connect_urls.iter().collect::<BTreeSet<_>>().len().max(1)
    }

    async fn revisions(&self, members: &Members) -> Finding {
        if self.remotes.is_none() {
            return Finding::good("revisions", "not looked at: this node asks no others; ask a gateway");
        }
        let snapshot = self.catalog.snapshot();
        let mut serving = Vec::new();
        for deployed in snapshot.functions.values() {
            serving.extend(deployed.serving.iter().map(|(revision, _)| revision.clone()));
        }
        let total = serving.len();
        serving.truncate(REVISIONS);
        let mut asked =
            streams::iter(serving).map(|revision| self.unready(revision, members)).buffer_unordered(AT_ONCE);
        let mut unready = Vec::new();
        while let Some(sentences) = asked.next().await {
            unready.extend(sentences);
        }
        let looked = total.min(REVISIONS);
        if unready.is_empty() {
            return Finding::good(
                "revisions",
                format!("{looked} of {total} looked at: ready on every node that should run them"),
            );
        }
        let shown: Vec<_> = unready.iter().take(5).map(String::as_str).collect();
        let more = if unready.len() > shown.len() {
            format!(" and {} more", unready.len() - shown.len())
        } else {
            String::new()
        };
        Finding::warning(
            "revisions",
            format!("not ready: {}{more}", shown.join("; ")),
            "wait if they compile; `dunlin logs` and the log of that node say what fails; deploy again",
        )
    }

    /// The nodes that should have `revision` ready and have not, as sentences.
    async fn unready(&self, revision: Arc<Revision>, members: &Members) -> Vec<String> {
        let nodes = self.balancer.preferred(RevisionKey::of(&revision), &revision.settings.place, MIN_PREFERRED);
        if nodes.is_empty() {
            return vec![format!("`{}` has no node that may run it", revision.function)];
        }
        let mut unready = Vec::new();
        for node in nodes.iter().filter(|node| members.get(node).is_some_and(|member| member.takes_calls())) {
            if let Err(error) = self.ask(node, &revision).await {
                unready.push(format!("`{}` on `{node}`: {error}", revision.function));
            }
        }
        unready
    }

    async fn ask(&self, node: &NodeName, revision: &Arc<Revision>) -> Result<(), PrepareError> {
        match &self.remotes {
            Some(remotes) => remotes.prepare(node, revision, PATIENCE).await,
            None => Ok(()),
        }
    }
}

const NO_LEADER: &str = "look at the NATS servers: JetStream needs most of them, and its disks";

fn judge(name: &str, info: &stream::Info, servers: usize) -> Finding {
    let (config, state) = (&info.config, &info.state);
    let wanted = servers.min(3);
    if config.num_replicas < wanted {
        let remedy = format!("nats stream edit {name} --replicas {wanted}");
        return Finding::warning(
            "stores",
            format!("`{name}` is kept {} times on {servers} servers", config.num_replicas),
            remedy,
        );
    }
    if let Some(away) = lagging(info) {
        return Finding::warning("stores", format!("`{name}`: not all copies are current: {away}"), NO_LEADER);
    }
    let limit = u64::try_from(config.max_bytes).unwrap_or(0);
    if limit > 0 && state.bytes * 100 / limit >= FULL_PERCENT {
        let used = state.bytes * 100 / limit;
        let remedy = format!("remove functions, or nats stream edit {name} --max-bytes …");
        return Finding::warning("stores", format!("`{name}` is {used} % full"), remedy);
    }
    let size = dunlin_api::ByteSize(state.bytes);
    Finding::good("stores", format!("`{name}`: {size}, kept {} times", config.num_replicas))
}

/// The servers whose copies are behind or away.
fn lagging(info: &stream::Info) -> Option<String> {
    let replicas = &info.cluster.as_ref()?.replicas;
    let away: Vec<_> = replicas.iter().filter(|r| r.offline || !r.current).map(|r| r.name.as_str()).collect();
    (!away.is_empty()).then(|| away.join(", "))
}

fn nodes(members: &Members, version: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in members.iter() {
        let name = &member.info.node;
        match member.state {
            NodeState::Lost => findings.push(Finding::warning(
                "nodes",
                format!("`{name}` is lost"),
                format!("start it again, or forget it: dunlin nodes forget {name}"),
            )),
            NodeState::Draining | NodeState::Up if member.drained => {
                findings.push(Finding::warning(
                    "nodes",
                    format!("`{name}` is drained"),
                    format!("dunlin undrain {name}"),
                ));
            }
            _ => {}
        }
        if member.is_live() && member.info.version != version {
            let message = format!("`{name}` runs version {}, this node {version}", member.info.version);
            findings.push(Finding::warning("nodes", message, "bring all nodes to one version"));
        }
    }
    let workers = members.workers().count();
    findings.push(match workers {
        0 => Finding::problem("nodes", "no worker takes calls", "start a node, or undrain one"),
        1 => Finding::warning("nodes", "one worker takes calls: if it is lost, nothing runs", "start another node"),
        many => Finding::good("nodes", format!("{many} workers take calls")),
    });
    findings
}

fn clocks(members: &Members) -> Finding {
    let off: Vec<_> = members
        .iter()
        .filter_map(|member| member.unfit.as_ref().map(|why| format!("`{}`: {why}", member.info.node)))
        .collect();
    if off.is_empty() {
        return Finding::good("clocks", "all clocks agree");
    }
    Finding::problem(
        "clocks",
        off.join("; "),
        "run a time service such as chrony there: the node gets no calls until then",
    )
}
