//! A node's part in a cluster: connected, joined, and left again.
//!
//! [`Link`] holds the connections and the stores; [`Link::join`] puts the scheduler's parts around the executor and spawns
//! their tasks into the node's set. Used by [`crate::node`] alone.

use dunlin_api::{LocalNode as _, NodeName, Revision};
use dunlin_runtime::Executor;
use dunlin_scheduler::{
    balancer::{Balancer, BalancerConfig, RetryBudget},
    catalog::Catalog,
    control::{Clustered, doctor::Doctor},
    dispatch::{Dispatch, Peers, follow_members, suspect_gone},
    log_hub::LogHub,
    log_share::{ClusterLogs, LogShare},
    membership::{Ended, Membership, MembershipConfig, NodeInfo, NodeState, Status},
    nats::{Nats, Role},
    prefetch::{self, Cluster, Prefetch},
    remote::{RemoteConfig, Remotes, Server},
    store::nats::NatsStore,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};
use tokio::{
    net::lookup_host,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster_args::ClusterConfig,
    node::{named, until_stopped},
};

/// Connected to NATS, not yet a member.
pub(crate) struct Link {
    config: ClusterConfig,
    nats: Nats,
    pub(crate) store: NatsStore,
}

/// Where this node is reached.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) http: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
}

/// A member of the cluster.
pub(crate) struct Member {
    pub(crate) dispatch: Arc<Dispatch<Executor>>,
    pub(crate) control: Clustered<Executor>,
    /// Makes deploys ready on every node that should run them.
    pub(crate) nodes: Arc<Cluster<Executor>>,
    /// What functions print on all nodes.
    pub(crate) lines: ClusterLogs,
    pub(crate) part: Part,
}

/// What leaves the cluster again.
#[derive(Clone)]
pub(crate) struct Part {
    membership: Arc<Membership>,
    /// Takes calls of other nodes; none on a node that runs nothing.
    server: Option<Arc<Server<Executor>>>,
    /// This process ends: no operator's undrain opens it again.
    leaving: Arc<AtomicBool>,
    draining: Arc<AtomicBool>,
}

impl Link {
    /// Connects, checks that the servers do and that they allow what this node needs, and opens the stores.
    pub(crate) async fn connect(config: ClusterConfig) -> anyhow::Result<Self> {
        let nats = Nats::connect(&config.nats).await?;
        nats.check(role(&config)).await?;
        let store = NatsStore::open(&nats).await?;
        Ok(Self { config, nats, store })
    }

    pub(crate) fn name(&self) -> &NodeName {
        &self.config.nats.node
    }

    /// The addresses of the servers: functions must not reach them.
    pub(crate) async fn servers(&self) -> Vec<SocketAddr> {
        let known = self.nats.control.server_info().connect_urls;
        let given = self.config.nats.servers.split(',').map(|url| url.trim().to_owned());
        let mut found = Vec::new();
        for url in given.chain(known) {
            let address = url.rsplit_once("://").map_or(&*url, |(_, rest)| rest);
            let address = address.rsplit_once('@').map_or(address, |(_, rest)| rest);
            let address = if address.contains(':') { address.to_owned() } else { format!("{address}:4222") };
            // A name that is not found is one that no function finds either.
            found.extend(lookup_host(address).await.into_iter().flatten());
        }
        found
    }

    /// Becomes a member, in this order: others can reach this node before it says that it is there.
    pub(crate) async fn join(
        self,
        executor: Arc<Executor>,
        catalog: Arc<Catalog>,
        logs: Arc<LogHub>,
        addresses: Addresses,
        (tasks, stop): (&mut JoinSet<&'static str>, &CancellationToken),
    ) -> anyhow::Result<Member> {
        let Self { config, nats, .. } = self;
        let me = config.nats.node.clone();
        let info = self::info(&config, executor.load().slots, &addresses);
        let balancer = Arc::new(Balancer::new(me.clone(), BalancerConfig::default()));
        // A node without a gateway sends nothing, so that its NATS user need not be allowed to.
        let remotes = match config.gateway {
            true => Some(Remotes::start(&nats, &me, RemoteConfig::default()).await?),
            false => None,
        };
        if let Some(remotes) = &remotes {
            tasks.spawn(named("the wire to other nodes", remotes.clone().run(stop.clone())));
        }
        let mut server = None;
        if config.worker {
            let (revisions, limits) = (catalog.clone(), RemoteConfig::default());
            let started = Server::start(&nats, &me, info.boot, executor.clone(), revisions, limits).await?;
            tasks.spawn(named("the wire from other nodes", started.clone().run(stop.clone())));
            server = Some(started);
        }

        let draining = Arc::new(AtomicBool::new(false));
        let (node, drains) = (executor.clone(), draining.clone());
        let status = move || Status {
            load: node.load(),
            ready: u32::try_from(node.ready_count()).unwrap_or(u32::MAX),
            draining: drains.load(Relaxed),
        };
        let reports = balancer.clone();
        let on_load = Arc::new(move |node: &NodeName, load| reports.report(node, load));
        let heartbeats = MembershipConfig { on_load: Some(on_load), ..MembershipConfig::default() };
        let membership = Membership::join(&nats, info, Arc::new(status), heartbeats).await?;
        let (called, wanted) = mpsc::channel::<Arc<Revision>>(prefetch::CALLED);
        let peers = Peers {
            me: me.clone(),
            labels: config.labels.clone(),
            zone: config.zone.clone(),
            nats: nats.clone(),
            balancer: balancer.clone(),
            budget: RetryBudget::default(),
            remotes: remotes.clone(),
            membership: membership.clone(),
            called,
        };
        let dispatch = Arc::new(Dispatch::among(executor.clone(), peers, config.worker));
        let part = Part { membership: membership.clone(), server, leaving: Arc::default(), draining };
        tasks.spawn(member(membership.clone(), stop.clone()));
        // Others are known to the balancer before the first request is.
        dunlin_scheduler::dispatch::update(&balancer, &membership.view());
        let wires = (remotes.clone(), part.server.clone());
        let lost = move |node: &NodeName| {
            wires.0.iter().for_each(|remotes| remotes.lost(node));
            wires.1.iter().for_each(|server| server.lost(node));
        };
        if let Some(remotes) = &remotes {
            let looking = suspect_gone(membership.clone(), remotes.clone());
            tasks.spawn(until_stopped(stop.clone(), "looking for lost nodes", looking));
        }
        tasks.spawn(until_stopped(
            stop.clone(),
            "the view of the cluster",
            follow_members(membership.clone(), balancer.clone(), lost),
        ));
        tasks.spawn(until_stopped(
            stop.clone(),
            "draining",
            part.clone().follow_drain(dispatch.clone(), config.worker),
        ));
        if config.worker {
            let prefetch = Prefetch {
                me: me.clone(),
                node: executor.clone(),
                balancer: balancer.clone(),
                deployed: catalog.subscribe(),
                members: membership.changes(),
                called: wanted,
            };
            tasks.spawn(until_stopped(stop.clone(), "prefetching", prefetch.run()));
        }
        let logs = Arc::new(LogShare::new(nats.clone(), me.clone(), logs, membership.clone()));
        tasks.spawn(named("sharing logs", logs.clone().run(stop.clone())));
        let doctor = Doctor {
            nats,
            role: role(&config),
            membership,
            balancer: balancer.clone(),
            remotes: remotes.clone(),
            catalog: catalog.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let control = Clustered { dispatch: dispatch.clone(), catalog, doctor };
        let nodes = Arc::new(Cluster { me, node: executor, balancer, remotes });
        Ok(Member { dispatch, control, nodes, lines: ClusterLogs(logs), part })
    }
}

impl Part {
    /// Refuses calls of other nodes from now on, and tells them so.
    pub(crate) fn drain(&self) {
        self.leaving.store(true, Relaxed);
        self.set_draining(true);
    }

    /// Tries of calls that other nodes sent.
    pub(crate) fn received(&self) -> u64 {
        self.server.as_ref().map_or(0, |server| server.received())
    }

    /// Waits until the calls of other nodes have ended.
    pub(crate) async fn idle(&self) {
        if let Some(server) = &self.server {
            server.idle().await;
        }
    }

    /// The workers that live and are not drained.
    pub(crate) fn workers(&self) -> Vec<NodeName> {
        let view = self.membership.view();
        let up = view.iter().filter(|node| node.info.worker && node.state == NodeState::Up);
        up.map(|node| node.info.node.clone()).collect()
    }

    /// Tells `what` whether an operator wants this node drained, now and whenever that changes, unless this process ends.
    pub(crate) async fn while_draining(self, what: impl Fn(bool) + Send) {
        let mut wanted: watch::Receiver<bool> = self.membership.drain_wanted();
        loop {
            let drain = *wanted.borrow_and_update();
            if !self.leaving.load(Relaxed) {
                what(drain);
            }
            if wanted.changed().await.is_err() {
                return;
            }
        }
    }

    fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Relaxed);
        self.server.iter().for_each(|server| server.set_draining(draining));
        self.membership.announce();
    }

    /// Does what operators want of this node until the membership is gone.
    async fn follow_drain(self, dispatch: Arc<Dispatch<Executor>>, worker: bool) {
        let part = self.clone();
        let follow = move |drain| {
            if drain != part.draining.load(Relaxed) {
                tracing::info!("{}", if drain { "drained: calls go to other nodes" } else { "undrained" });
                dispatch.set_open(worker && !drain);
                part.set_draining(drain);
            }
        };
        self.while_draining(follow).await;
    }
}

fn role(config: &ClusterConfig) -> Role {
    match (config.gateway, config.worker) {
        (true, false) => Role::Gateway,
        (false, true) => Role::Worker,
        _ => Role::Both,
    }
}

fn info(config: &ClusterConfig, slots: u32, addresses: &Addresses) -> NodeInfo {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    NodeInfo {
        node: config.nats.node.clone(),
        boot: rand::random(),
        slots,
        labels: config.labels.clone(),
        zone: config.zone.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        gateway: config.gateway,
        worker: config.worker,
        http: addresses.http.map(reachable),
        admin: Some(reachable(addresses.admin)),
        started_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    }
}

/// An address as others may use it: where this node listens on every address, by the machine's name.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        let uname = rustix::system::uname();
        format!("{}:{}", uname.nodename().to_string_lossy(), address.port())
    } else {
        address.to_string()
    }
}

async fn member(membership: Arc<Membership>, stop: CancellationToken) -> &'static str {
    match membership.run(stop).await {
        Ended::Superseded => "another process took this node's name: its membership",
        Ended::Stopped => "the membership",
    }
}
