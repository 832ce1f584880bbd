//! What goes wrong between nodes: silence, pauses, a NATS that is away.

use super::{names::Apart, *};
use dunlin_fixtures::nats::NatsCluster;

/// Follows the views of a node and says whether `node` was ever not up.
fn doubts(membership: &Membership, node: &str) -> JoinHandle<Arc<Members>> {
    let (mut changes, node) = (membership.changes(), node.to_owned());
    tokio::spawn(async move {
        let doubted = changes.wait_for(|members| !is(members, &node, Member::is_live)).await;
        doubted.unwrap().clone()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_that_was_stopped_blames_nobody() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let mut observer = Apart::join(&server, "o");
    a.sees_state("o", NodeState::Up).await;
    let doubted = doubts(&observer.membership, "a");
    observer.freeze();
    a.sees_state("o", NodeState::Lost).await;
    // Longer than any patience: as long again as it took to be called lost, and more.
    tokio::time::sleep(2 * Duration::from_secs(1)).await;
    let thawed = Instant::now();
    observer.thaw();
    a.sees_state("o", NodeState::Up).await;
    let view = || observer.membership.latest();
    while !is(&view(), "a", |a| a.seen.is_some_and(|seen| seen > thawed + 4 * config().interval)) {
        assert!(thawed.elapsed() < PATIENCE);
        tokio::time::sleep(5 * MS).await;
    }
    assert!(!doubted.is_finished(), "{:#?}", doubted.await.unwrap());
}

#[tokio::test]
async fn who_is_suspected_and_silent_is_out_before_its_heartbeats_are_missed() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    // The heartbeats of b and c would be missed after 90 s.
    let rare = MembershipConfig { interval: Duration::from_secs(30), ..config() };
    let b = Node::with(&server.url(), "b", rare.clone()).await.unwrap();
    let c = Node::with(&server.url(), "c", rare).await.unwrap();
    a.sees("both", |members| members.workers().count() == 3).await;
    drop(b);
    let suspected = Instant::now();
    a.membership.suspect(&name("b"));
    a.membership.suspect(&name("c"));
    a.sees_state("b", NodeState::Lost).await;
    println!("a suspect was out after {:?}", suspected.elapsed());
    a.hears("c", suspected).await;
    assert_eq!(a.state("c"), Some(NodeState::Up));
    drop(c);
}

#[tokio::test]
async fn a_nats_that_restarts_costs_nobody_its_place() {
    let mut server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let b = Node::join(&server, "b").await;
    a.sees_state("b", NodeState::Up).await;
    let doubted = doubts(&a.membership, "b");
    let mut connection = a.nats.connection();
    server.kill();
    timeout(PATIENCE, connection.wait_for(|connected| !connected)).await.unwrap().unwrap();
    // The outage: several times the patience with a silent node.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((a.state("b"), b.state("a")), (Some(NodeState::Up), Some(NodeState::Up)));
    let restarted = Instant::now();
    server.restart();
    a.hears("b", restarted).await;
    b.hears("a", restarted).await;
    println!("heard each other again {:?} after NATS was back", restarted.elapsed());
    a.membership.drain(&name("b"), true).await.unwrap();
    a.sees("the drain", |members| is(members, "b", |b| b.drained)).await;
    println!("the records were followed again {:?} after NATS was back", restarted.elapsed());
    a.hears("b", Instant::now() + 4 * config().interval).await;
    assert!(!doubted.is_finished(), "{:#?}", doubted.await.unwrap());
    drop(b);
    a.sees_state("b", NodeState::Lost).await;
}

#[tokio::test]
async fn a_nats_that_freezes_costs_nobody_its_place() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let b = Node::join(&server, "b").await;
    a.sees_state("b", NodeState::Up).await;
    let doubted = doubts(&a.membership, "b");
    server.freeze();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let thawed = Instant::now();
    server.thaw();
    a.hears("b", thawed + 6 * config().interval).await;
    assert!(!doubted.is_finished(), "{:#?}", doubted.await.unwrap());
    drop(b);
    a.sees_state("b", NodeState::Lost).await;
}

#[tokio::test]
async fn a_node_stops_in_time_although_nats_is_away() {
    let mut server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let mut connection = a.nats.connection();
    server.kill();
    timeout(PATIENCE, connection.wait_for(|connected| !connected)).await.unwrap().unwrap();
    assert!(!a.task.is_finished());
    timeout(PATIENCE, a.leave()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_dies_costs_nobody_its_place_and_its_records_are_on_three() {
    let mut cluster = NatsCluster::start();
    let url = cluster.url();
    let a = Node::with(&url, "a", config()).await.unwrap();
    let b = Node::with(&url, "b", config()).await.unwrap();
    a.sees_state("b", NodeState::Up).await;
    let mut stream = a.nats.jetstream.get_stream("KV_dl-test-nodes").await.unwrap();
    let info = stream.info().await.unwrap();
    assert_eq!(info.config.num_replicas, 3);
    let leader = info.cluster.as_ref().unwrap().leader.clone().unwrap();
    let doubted = doubts(&a.membership, "b");
    let leader: usize = leader.trim_start_matches('n').parse().unwrap();
    let killed = Instant::now();
    cluster.servers[leader - 1].kill();
    while let Err(error) = a.membership.drain(&name("b"), true).await {
        assert!(killed.elapsed() < 2 * PATIENCE, "{error}");
        tokio::time::sleep(20 * MS).await;
    }
    println!("records could be written {:?} after their leader died", killed.elapsed());
    timeout(PATIENCE, b.membership.drain_wanted().wait_for(|wanted| *wanted)).await.unwrap().unwrap();
    println!("and were read after {:?}", killed.elapsed());
    a.hears("b", Instant::now() + 4 * config().interval).await;
    assert!(!doubted.is_finished(), "{:#?}", doubted.await.unwrap());
}
