//! What operators do while functions are called: drains, restarts, weights.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    load::{Plan, Shots, booked},
    support::{Cluster, until},
};

fn three() -> Cluster {
    let cluster = Cluster::start(&[("n1", &[]), ("n2", &[]), ("n3", &[])]);
    let said = cluster.first().deploy_ledger(&[]);
    assert!(said.contains("ready on 3 of 3"), "{said}");
    for gateway in cluster.gateways() {
        let url = format!("http://{gateway}/ledger/sleep/x");
        crate::support::get_until(&url, |status, _| status == 200);
    }
    cluster
}

#[test]
fn a_drained_node_runs_nothing_until_it_is_undrained_and_no_request_notices() {
    let mut cluster = three();
    let load = Plan::mixed(cluster.gateways(), 3, 3).start();
    sleep(Duration::from_secs(1));
    let n1 = &cluster.members[0];
    let note = n1.fails(&["drain", "n2"]);
    assert!(note.0 == 0 && note.1.contains("n2 is drained"), "{note:?}");
    let drained = Instant::now();
    sleep(Duration::from_secs(1));
    let before_restart = Instant::now();
    // Its own clients go elsewhere while it is away, so they are not part of this.
    let first = load.finish();
    cluster.members[1].stop();
    cluster.members[1].restart();
    let load = Plan::mixed(cluster.gateways(), 3, 3).unbooked().start();
    sleep(Duration::from_secs(1));
    let n1 = &cluster.members[0];
    assert_eq!(n1.sees("n2")["drained"], true);
    assert!(n1.ok(&["nodes"]).contains("drained"));
    n1.ok(&["undrain", "n2"]);
    let undrained = Instant::now();
    sleep(Duration::from_secs(2));
    let second = load.finish();
    println!("drained: {}; after its restart: {}", first.summary(), second.summary());
    first.assert_all_answered();
    first.of("POST").assert_ran_once(&booked(&cluster.first().http));
    second.assert_all_answered();
    assert!(first.by_node().contains_key("n2"), "{:?}", first.by_node());
    assert_eq!(first.between(drained, before_restart).by_node().get("n2"), None);
    assert_eq!(second.between(before_restart, undrained).by_node().get("n2"), None);
    assert!(second.by_node().contains_key("n2"), "it runs calls again: {:?}", second.by_node());
}

#[test]
fn a_rolling_restart_costs_no_request() {
    let mut cluster = three();
    let plan = Plan { elsewhere: true, ..Plan::mixed(cluster.gateways(), 3, 3) };
    let load = plan.start();
    for number in 0..3 {
        sleep(Duration::from_millis(500));
        cluster.members[number].stop();
        sleep(Duration::from_millis(200));
        cluster.members[number].restart();
        let name = cluster.members[number].name.clone();
        for member in &cluster.members {
            member.until_sees(&name, "up");
        }
    }
    sleep(Duration::from_millis(500));
    let shots = load.finish();
    println!("rolling restart: {}", shots.summary());
    shots.assert_all_answered();
    shots.of("POST").assert_ran_once(&booked(&cluster.first().http));
}

#[test]
fn shares_of_the_calls_follow_the_weights() {
    let worker = |slots| ["--no-gateway", "--slots", slots];
    let (w4, w8, w16) = (worker("4"), worker("8"), worker("16"));
    let cluster = Cluster::start(&[("g", &["--no-worker"]), ("w4", &w4), ("w8", &w8), ("w16", &w16)]);
    let said = cluster.first().deploy_ledger(&[]);
    assert!(said.contains("ready on 3 of 3"), "{said}");
    // Nodes that joined a moment ago get little at first.
    sleep(Duration::from_secs(10));

    let saturated = measure(&cluster, 36);
    println!("36 clients on 4 + 8 + 16 slots: {:?}", saturated.by_node());
    assert_shares(&saturated, &[("w4", 4.0), ("w8", 8.0), ("w16", 16.0)]);

    cluster.first().ok(&["nodes", "weight", "w16", "4"]);
    until("the weight is known", || cluster.first().sees("w16")["slots"] == 4);
    let weighed = measure(&cluster, 16);
    println!("16 clients on weights of 4 + 8 + 4: {:?}", weighed.by_node());
    assert_shares(&weighed, &[("w4", 4.0), ("w8", 8.0), ("w16", 4.0)]);
    cluster.first().ok(&["nodes", "weight", "w16", "own"]);
    until("the weight is its own", || cluster.first().sees("w16")["slots"] == 16);
}

fn measure(cluster: &Cluster, clients: usize) -> Shots {
    let plan = Plan { sleep_ms: 150, pause: Duration::ZERO, ..Plan::mixed(cluster.gateways(), clients, 0).unbooked() };
    let load = plan.start();
    sleep(Duration::from_secs(1));
    let (from, to) = (Instant::now(), Instant::now() + Duration::from_secs(5));
    sleep(to - from);
    load.finish().between(from, to)
}

/// A tenth of its share is what a node may be off.
#[track_caller]
fn assert_shares(shots: &Shots, weights: &[(&str, f64)]) {
    let nodes = shots.by_node();
    let (calls, sum) = (nodes.values().sum::<usize>() as f64, weights.iter().map(|(_, weight)| weight).sum::<f64>());
    for (node, weight) in weights {
        let (share, wanted) = (nodes.get(*node).copied().unwrap_or(0) as f64 / calls, weight / sum);
        assert!(
            (share - wanted).abs() <= 0.1 * wanted.max(0.2),
            "{node} has {share:.3} instead of {wanted:.3}: {nodes:?}"
        );
    }
}
