//! Workers that die and workers that hang, under load.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    load::{Plan, booked},
    soak,
    support::Cluster,
};

/// Far more than a client should wait; what it really took is printed.
const BOUND: Duration = Duration::from_secs(10);
const POSTS: usize = 4;

fn gateway_and_workers() -> Cluster {
    let worker: &[&str] = &["--no-gateway"];
    let cluster = Cluster::start(&[("g", &["--no-worker"]), ("w1", worker), ("w2", worker), ("w3", worker)]);
    let said = cluster.first().deploy_ledger(&[]);
    assert!(said.contains("ready on 3 of 3"), "{said}");
    cluster
}

#[test]
fn killed_workers_cost_no_idempotent_call_and_nothing_runs_twice() {
    let mut cluster = gateway_and_workers();
    let (kills, every) = if soak() { (12, Duration::from_secs(5)) } else { (3, Duration::from_millis(1_500)) };
    let seed = rand::random();
    let mut chance = StdRng::seed_from_u64(seed);
    let load = Plan::mixed(cluster.gateways(), 4, POSTS).start();
    for _ in 0..kills {
        sleep(every / 2);
        let worker = &mut cluster.members[chance.random_range(1..=3)];
        worker.kill();
        sleep(every / 2);
        worker.restart();
    }
    sleep(every / 2);
    let shots = load.finish();
    let (gets, posts) = (shots.of("GET"), shots.of("POST"));
    println!("{kills} kills (seed {seed}): GET {}; POST {}", gets.summary(), posts.summary());
    shots.assert_none_mixed_up();
    gets.assert_all_answered();
    assert!(shots.slowest() < BOUND, "{:?}", shots.slowest());
    let failed = posts.failed();
    assert!(failed.iter().all(|shot| shot.is_outcome_unknown()), "{failed:#?}");
    assert!(failed.len() <= kills * POSTS, "{} of {kills} kills: {failed:#?}", failed.len());
    posts.assert_ran_once(&booked(&cluster.first().http));
}

#[test]
fn a_frozen_worker_leaves_the_rotation_and_comes_back_by_itself() {
    let cluster = gateway_and_workers();
    let (gateway, worker) = (cluster.first(), &cluster.members[2]);
    let load = Plan::mixed(cluster.gateways(), 4, POSTS).start();
    sleep(Duration::from_secs(1));
    worker.signal(Signal::STOP);
    let lost = gateway.until_sees("w2", "lost");
    let out = Instant::now();
    sleep(Duration::from_secs(if soak() { 30 } else { 2 }));
    worker.signal(Signal::CONT);
    let thawed = Instant::now();
    let back = gateway.until_sees("w2", "up");
    sleep(Duration::from_secs(2));
    let shots = load.finish();
    let (gets, posts) = (shots.of("GET"), shots.of("POST"));
    println!("frozen: lost after {lost:?}, back after {back:?}: GET {}; POST {}", gets.summary(), posts.summary());
    shots.assert_none_mixed_up();
    gets.assert_all_answered();
    assert!(shots.slowest() < BOUND, "{:?}", shots.slowest());
    assert!(posts.failed().iter().all(|shot| shot.is_outcome_unknown()), "{:#?}", posts.failed());
    shots.between(out, thawed).assert_all_answered();
    assert_eq!(shots.between(out, thawed).by_node().get("w2"), None);
    posts.assert_ran_once(&booked(&gateway.http));
    assert!(shots.between(thawed + back, Instant::now()).by_node().contains_key("w2"), "it runs calls again");
}
