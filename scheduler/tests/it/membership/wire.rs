//! What arrives on the cluster's subjects, and what does not.

use super::*;
use dunlin_fixtures::nats::Options;
use futures::StreamExt;

/// The heartbeats of `node`, as they are on the wire.
async fn heartbeats(nats: &Nats, node: &str) -> async_nats::Subscriber {
    nats.control.subscribe(nats.subjects.heartbeat(&name(node))).await.unwrap()
}

#[tokio::test]
async fn three_hundred_nodes_with_changing_load_make_no_new_views() {
    let server = NatsServer::start();
    let loads = Arc::new(AtomicU32::new(0));
    let counted = loads.clone();
    let on_load = move |_: &NodeName, load: Load| {
        counted.fetch_add(load.in_flight, Ordering::Relaxed);
    };
    let config = MembershipConfig { on_load: Some(Arc::new(on_load)), ..config() };
    let a = Node::with(&server.url(), "a", config).await.unwrap();
    let real = Node::join(&server, "n000").await;
    let mut beats = heartbeats(&a.nats, "n000").await;
    // The same heartbeat under 299 more names of the same length.
    let mut repeat = async || {
        let beat = timeout(PATIENCE, beats.next()).await.unwrap().unwrap().payload;
        let at = beat.windows(4).position(|window| window == b"n000").unwrap();
        for n in 1..300 {
            let (node, mut copy) = (format!("n{n:03}"), beat.to_vec());
            copy[at..at + 4].copy_from_slice(node.as_bytes());
            real.nats.control.publish(real.nats.subjects.heartbeat(&name(&node)), copy.into()).await.unwrap();
        }
    };
    let before = a.membership.view().version();
    repeat().await;
    let view = a.sees("all of them", |members| members.workers().count() == 301).await;
    println!("300 nodes became known in {} views", view.version() - before);
    assert!(view.version() - before <= 50, "{}", view.version() - before);
    let reported = loads.load(Ordering::Relaxed);
    for _ in 0..10 {
        repeat().await;
    }
    let begun = Instant::now();
    while loads.load(Ordering::Relaxed) < reported + 10 * 299 * 3 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(5 * MS).await;
    }
    assert_eq!(a.membership.view().version(), view.version());
    assert!(real.membership.view().len() >= 301);
}

#[tokio::test]
async fn what_is_no_heartbeat_of_this_version_is_ignored() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let b = Node::join(&server, "b").await;
    let beat = timeout(PATIENCE, heartbeats(&a.nats, "b").await.next()).await.unwrap().unwrap().payload;
    let mut later = beat.to_vec();
    later[0] += 1;
    let subject = |node: &str| b.nats.subjects.heartbeat(&name(node));
    for bytes in [later, b"garbage".to_vec(), Vec::new(), vec![beat[0]; 10_000], beat.to_vec()] {
        b.nats.control.publish(subject("x"), bytes.clone().into()).await.unwrap();
        b.nats.control.publish(b.nats.subjects.roll_call(), bytes.into()).await.unwrap();
    }
    // On one connection, so after all of that.
    b.membership.announce();
    a.hears("b", Instant::now()).await;
    let view = a.membership.latest();
    assert_eq!(view.iter().map(|m| m.info.node.to_string()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(view.iter().all(|member| member.state == NodeState::Up));
}

#[tokio::test]
async fn a_node_that_nats_does_not_let_hear_says_on_which_subject() {
    for denied in ["dl.v1.test.hb.*", "dl.v1.test.who", "dl.v1.test.who.a"] {
        let users = format!(
            "no_auth_user: u\nauthorization {{ users: [{{ user: u, password: p, permissions: {{ publish: \">\", \
             subscribe: {{ allow: \">\", deny: \"{denied}\" }} }} }}] }}"
        );
        let server = NatsServer::with(&Options { config: users, ..Options::default() });
        let error = Node::with(&server.url(), "a", config()).await.err().unwrap().to_string();
        assert!(error.contains(&denied.replace('*', "a")) && error.contains("permission"), "{error}");
    }
}

#[tokio::test]
async fn a_nats_without_jetstream_is_refused_with_what_is_needed() {
    let server = NatsServer::with(&Options { core_only: true, ..Options::default() });
    let error = Node::with(&server.url(), "a", config()).await.err().unwrap().to_string();
    assert!(error.contains("`dl-test-nodes`") && error.contains("with JetStream"), "{error}");
}

#[tokio::test]
async fn a_flood_of_roll_calls_is_answered_up_to_a_bound() {
    let server = NatsServer::start();
    // No heartbeat falls into the test, so one bound holds for all of it.
    let rare = MembershipConfig { interval: Duration::from_secs(60), ..config() };
    let a = Node::with(&server.url(), "a", rare.clone()).await.unwrap();
    let mut calls = a.nats.control.subscribe(a.nats.subjects.roll_call()).await.unwrap();
    a.nats.control.flush().await.unwrap();
    let b = Node::with(&server.url(), "b", rare).await.unwrap();
    let call = timeout(PATIENCE, calls.next()).await.unwrap().unwrap().payload;
    let mut answers = b.nats.control.subscribe(b.nats.subjects.membership(&name("b"))).await.unwrap();
    for _ in 0..200 {
        b.nats.control.publish(b.nats.subjects.roll_call(), call.clone()).await.unwrap();
    }
    // One of 32 was spent when b joined.
    for _ in 0..31 {
        timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
    }
    assert!(timeout(300 * MS, answers.next()).await.is_err());
    // Asked alone, a node always answers.
    b.nats.control.publish(b.nats.subjects.membership(&name("a")), call).await.unwrap();
    timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
}

#[tokio::test]
async fn labels_that_make_heartbeats_too_long_are_refused() {
    let server = NatsServer::start();
    let nats = connect(&server.url(), "a").await;
    let join = async |bytes: usize| {
        let labels = BTreeMap::from([("x".to_owned(), "y".repeat(bytes))]);
        Membership::join(&nats, NodeInfo { labels, ..info("a") }, Arc::new(Status::default), config()).await
    };
    let error = join(4_000).await.unwrap_err();
    assert!(matches!(error, JoinError::TooLong { limit: 3_840, .. }), "{error}");
    join(3_000).await.unwrap();
}
