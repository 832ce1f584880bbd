//! What operators change, and clocks.

use super::*;
use dunlin_scheduler::membership::MembershipError;

#[tokio::test]
async fn a_drain_holds_over_a_restart_until_it_is_ended() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let b = Node::join(&server, "b").await;
    let drained = async |node: &Node, on: bool| {
        let mut wanted = node.membership.drain_wanted();
        timeout(PATIENCE, wanted.wait_for(|wanted| *wanted == on)).await.unwrap().unwrap();
    };
    assert!(!*b.membership.drain_wanted().borrow());
    a.membership.drain(&name("b"), true).await.unwrap();
    a.membership.drain(&name("b"), true).await.unwrap();
    drained(&b, true).await;
    let view = a.sees("the drain of b", |members| is(members, "b", |b| b.drained)).await;
    assert!(is(&view, "b", |b| b.state == NodeState::Up && !b.takes_calls()));

    drop(b);
    a.sees_state("b", NodeState::Lost).await;
    let b = Node::join(&server, "b").await;
    assert!(*b.membership.drain_wanted().borrow(), "before it runs anything");
    assert!(is(&b.membership.view(), "b", |b| b.drained));
    a.membership.drain(&name("b"), false).await.unwrap();
    drained(&b, false).await;
    a.sees("the end of the drain", |members| is(members, "b", Member::takes_calls)).await;

    let unknown = a.membership.drain(&name("nobody"), true).await.unwrap_err();
    assert!(matches!(unknown, MembershipError::Unknown(_)), "{unknown}");
}

#[tokio::test]
async fn a_weight_is_followed_by_all_and_held() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let b = Node::join(&server, "b").await;
    a.membership.set_slots(&name("b"), Some(2)).await.unwrap();
    for node in [&a, &b] {
        node.sees("the weight", |members| is(members, "b", |b| b.slots == 2 && b.info.slots == 8)).await;
    }
    let c = Node::join(&server, "c").await;
    assert!(is(&c.membership.view(), "b", |b| b.slots == 2));
    assert!(a.membership.set_slots(&name("b"), Some(0)).await.is_err());
    a.membership.set_slots(&name("b"), None).await.unwrap();
    c.sees("its own weight again", |members| is(members, "b", |b| b.slots == 8)).await;
}

#[tokio::test]
async fn only_who_is_gone_can_be_forgotten() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let b = Node::join(&server, "b").await;
    a.sees_state("b", NodeState::Up).await;
    assert!(matches!(a.membership.forget(&name("b")).await, Err(MembershipError::Alive(_))));
    drop(b);
    a.sees_state("b", NodeState::Lost).await;
    a.membership.forget(&name("b")).await.unwrap();
    a.sees("that b is forgotten", |members| members.get(&name("b")).is_none()).await;
    assert!(matches!(a.membership.forget(&name("b")).await, Err(MembershipError::Unknown(_))));
    let _back = Node::join(&server, "b").await;
    a.sees_state("b", NodeState::Up).await;
}

#[tokio::test]
async fn the_records_of_those_who_left_long_ago_make_room() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let b = Node::join(&server, "b").await;
    let c = Node::join(&server, "c").await;
    a.membership.drain(&name("c"), true).await.unwrap();
    b.leave().await;
    c.leave().await;
    a.sees_state("c", NodeState::Left).await;
    let soon = MembershipConfig { keep_left: Duration::ZERO, ..config() };
    let _d = Node::with(&server.url(), "d", soon).await.unwrap();
    let view = a.sees("that b is gone", |members| members.get(&name("b")).is_none()).await;
    assert!(is(&view, "c", |c| c.drained), "someone wants it drained when it comes back");
}

#[tokio::test]
async fn a_bucket_that_was_deleted_is_made_again() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let b = Node::join(&server, "b").await;
    a.nats.jetstream.delete_key_value("dl-test-nodes").await.unwrap();
    let begun = Instant::now();
    while b.membership.drain(&name("a"), true).await.is_err() {
        assert!(begun.elapsed() < 2 * PATIENCE);
        tokio::time::sleep(20 * MS).await;
    }
    println!("the bucket was there again after {:?}", begun.elapsed());
    timeout(PATIENCE, a.membership.drain_wanted().wait_for(|wanted| *wanted)).await.unwrap().unwrap();
    assert!(!a.task.is_finished() && !b.task.is_finished());
}

#[tokio::test]
async fn who_lives_writes_its_record_again() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let bucket = a.nats.jetstream.get_key_value("dl-test-nodes").await.unwrap();
    let before = bucket.entry("a").await.unwrap().unwrap();
    bucket.delete("a").await.unwrap();
    let begun = Instant::now();
    while bucket.entry("a").await.unwrap().is_none_or(|entry| entry.value != before.value) {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(5 * MS).await;
    }
    assert!(!a.task.is_finished());
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_gets_no_calls() {
    let server = NatsServer::start();
    let a = Node::join(&server, "a").await;
    let right = Arc::new(AtomicU32::new(0));
    let set = right.clone();
    let clock = move || {
        let ahead = if set.load(Ordering::Relaxed) == 0 { Duration::from_secs(10) } else { Duration::ZERO };
        SystemTime::now() + ahead
    };
    let b = Node::with(&server.url(), "b", MembershipConfig { clock: Arc::new(clock), ..config() }).await.unwrap();
    let view = a.sees("the wrong clock", |members| is(members, "b", |b| b.unfit.is_some())).await;
    assert!(is(&view, "b", |b| b.state == NodeState::Up && !b.takes_calls()));
    assert!(is(&view, "b", |b| b.clock_offset_ms.is_some_and(|ms| (9_500..10_500).contains(&ms))), "{view:#?}");
    let view = b.sees("its clock through theirs", |members| is(members, "a", |a| a.unfit.is_some())).await;
    assert!(is(&view, "a", |a| a.clock_offset_ms.is_some_and(|ms| (-10_500..-9_500).contains(&ms))), "{view:#?}");
    assert!(is(&view, "b", Member::takes_calls), "its own clock is right to itself");
    right.store(1, Ordering::Relaxed);
    a.sees("the right clock", |members| is(members, "b", Member::takes_calls)).await;
}
