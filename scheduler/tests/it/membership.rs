//! Who is a member, on a real NATS: each node of a test has connections of its own.

use dunlin_api::{Load, NodeName};
use dunlin_fixtures::nats::NatsServer;
use dunlin_scheduler::{
    membership::{Ended, JoinError, Member, Members, Membership, MembershipConfig, NodeInfo, NodeState, Status},
    nats::{Nats, NatsConfig},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

mod changes;
mod faults;
mod names;
mod wire;

/// A step that is right takes milliseconds; a loaded machine gets much more.
const PATIENCE: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn config() -> MembershipConfig {
    MembershipConfig { interval: 200 * MS, ..MembershipConfig::default() }
}

fn info(node: &str) -> NodeInfo {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    NodeInfo {
        node: name(node),
        boot: rand::random(),
        slots: 8,
        labels: BTreeMap::from([("region".into(), "eu".into())]),
        zone: None,
        version: "0.1.0".into(),
        gateway: true,
        worker: true,
        http: Some(format!("{node}.example:8080")),
        admin: None,
        started_ms: now.as_millis() as u64,
    }
}

async fn connect(url: &str, node: &str) -> Nats {
    let config = NatsConfig::new(url, "test".parse().unwrap(), node.parse().unwrap());
    let config = NatsConfig { connect_timeout: PATIENCE, ..config };
    Nats::connect(&config).await.unwrap()
}

/// A member that runs. Dropped, it vanishes without a word.
struct Node {
    membership: Arc<Membership>,
    nats: Nats,
    draining: Arc<AtomicU32>,
    stop: CancellationToken,
    task: JoinHandle<Ended>,
}

impl Node {
    async fn join(server: &NatsServer, node: &str) -> Self {
        Self::with(&server.url(), node, config()).await.unwrap()
    }

    async fn with(url: &str, node: &str, config: MembershipConfig) -> Result<Self, JoinError> {
        let nats = connect(url, node).await;
        let draining = Arc::new(AtomicU32::new(0));
        let reported = draining.clone();
        let status = move || Status {
            load: Load { in_flight: 3, slots: 8 },
            ready: 5,
            draining: reported.load(Ordering::Relaxed) > 0,
        };
        let membership = Membership::join(&nats, info(node), Arc::new(status), config).await?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(membership.clone().run(stop.clone()));
        Ok(Self { membership, nats, draining, stop, task })
    }

    async fn leave(mut self) {
        self.stop.cancel();
        assert_eq!((&mut self.task).await.unwrap(), Ended::Stopped);
    }

    fn state(&self, node: &str) -> Option<NodeState> {
        self.membership.view().get(&name(node)).map(|member| member.state)
    }

    /// Waits for a view that is as `wanted`.
    async fn sees(&self, what: &str, wanted: impl Fn(&Members) -> bool) -> Arc<Members> {
        let mut changes = self.membership.changes();
        let seen = timeout(PATIENCE, changes.wait_for(|members| wanted(members))).await;
        let now = || format!("{what} is never seen: {:#?}", self.membership.view());
        seen.unwrap_or_else(|_| panic!("{}", now())).unwrap().clone()
    }

    async fn sees_state(&self, node: &str, state: NodeState) -> Arc<Members> {
        let what = format!("{node} {state:?}");
        self.sees(&what, |members| is(members, node, |member| member.state == state)).await
    }

    /// Waits until `node` was heard after `since`.
    async fn hears(&self, node: &str, since: Instant) {
        let begun = Instant::now();
        while !is(&self.membership.latest(), node, |member| member.seen.is_some_and(|seen| seen > since)) {
            assert!(begun.elapsed() < PATIENCE, "{node} is not heard: {:#?}", self.membership.view());
            tokio::time::sleep(5 * MS).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is(members: &Members, node: &str, wanted: impl Fn(&Member) -> bool) -> bool {
    members.get(&name(node)).is_some_and(|member| wanted(member))
}

#[tokio::test]
async fn who_joins_is_seen_and_who_leaves_says_so() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let b = Node::join(&server, "b").await;
    let view = a.sees_state("b", NodeState::Up).await;
    assert!(is(&view, "b", |b| b.takes_calls() && b.slots == 8 && b.ready == 5 && b.load.in_flight == 3));
    assert!(is(&view, "b", |b| b.info.labels["region"] == "eu" && b.seen.is_some()));
    assert_eq!(view.iter().map(|m| m.info.node.to_string()).collect::<Vec<_>>(), ["a", "b"]);

    b.draining.store(1, Ordering::Relaxed);
    b.membership.announce();
    let view = a.sees_state("b", NodeState::Draining).await;
    assert_eq!(view.workers().count(), 1);
    assert_eq!(b.state("b"), Some(NodeState::Draining));

    b.leave().await;
    a.sees_state("b", NodeState::Left).await;
    let late = Node::join(&server, "c").await;
    assert_eq!(late.state("b"), Some(NodeState::Left), "its record says so to those who come later");
}

#[tokio::test]
async fn a_roll_call_shows_the_cluster_at_once() {
    let server = NatsServer::start();
    // So rare that heartbeats cannot be what shows it.
    let rare = MembershipConfig { interval: Duration::from_secs(60), ..config() };
    let mut nodes = Vec::new();
    for n in 0..8 {
        let begun = Instant::now();
        let node = Node::with(&server.url(), &format!("n{n}"), rare.clone()).await.unwrap();
        println!("join of node {n}, connections included: {:?}", begun.elapsed());
        assert_eq!(node.membership.view().workers().count(), n + 1, "{:#?}", node.membership.view());
        nodes.push(node);
    }
    nodes[0].sees("everyone", |members| members.workers().count() == 8).await;
}

#[tokio::test]
async fn who_crashes_is_lost_and_comes_back() {
    let server = NatsServer::start();
    let a = Node::with(&server.url(), "a", MembershipConfig::default()).await.unwrap();
    let b = Node::with(&server.url(), "b", MembershipConfig::default()).await.unwrap();
    a.sees_state("b", NodeState::Up).await;
    let died = Instant::now();
    drop(b);
    let view = a.sees_state("b", NodeState::Lost).await;
    println!("a dead node was out after {:?}", died.elapsed());
    assert_eq!(view.workers().count(), 1);
    let b = Node::join(&server, "b").await;
    a.sees_state("b", NodeState::Up).await;
    assert_eq!(b.state("a"), Some(NodeState::Up));
}
