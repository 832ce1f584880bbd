//! Nodes that agree: what one of them was told, all of them serve, show and count.

use std::thread;

use super::{
    load::{Plan, Seen, ask, booked},
    support::{Cluster, Member, until},
};
use crate::support::{fails, fixture, get_until};

#[test]
fn what_is_deployed_through_one_node_is_served_by_all_also_by_one_that_joins_later() {
    let cluster = Cluster::start(&[("n1", &[]), ("n2", &[]), ("n3", &[])]);
    let said = cluster.first().ok(&["deploy", &fixture("hello")]);
    assert!(said.contains("ready on 3 of 3"), "{said}");
    for gateway in cluster.gateways() {
        let body = get_until(&format!("http://{gateway}/hello/"), |status, _| status == 200);
        assert_eq!(body, "Hello, world!\n");
    }

    let fourth = Member::start(&cluster.nats.url(), "n4", &["--slots", "100000"]);
    assert_eq!(get_until(&format!("http://{}/hello/", fourth.http), |status, _| status == 200), "Hello, world!\n");
    for member in &cluster.members {
        member.until_sees("n4", "up");
    }
    // The heaviest node is a preferred one, so it makes ready what was deployed before it came.
    until("n4 prefetched", || fourth.sees("n4")["ready"] == 1);
}

#[test]
fn every_node_shows_the_cluster_and_says_where_a_function_would_run() {
    let labels = ["--zone", "a", "--label", "disk=ssd"];
    let cluster = Cluster::start(&[("n1", &labels), ("n2", &[]), ("n3", &["--no-gateway", "--slots", "300"])]);
    cluster.first().ok(&["deploy", &fixture("hello")]);
    for member in &cluster.members {
        let nodes = member.json(&["nodes"]);
        let names: Vec<_> =
            nodes["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap()).collect();
        assert_eq!(names, ["n1", "n2", "n3"]);
        let (n1, n3) = (member.sees("n1"), member.sees("n3"));
        assert_eq!((&n1["zone"], &n1["labels"]["disk"], &n1["gateway"]), (&"a".into(), &"ssd".into(), &true.into()));
        assert_eq!((&n3["slots"], &n3["gateway"], &n3["worker"]), (&300.into(), &false.into(), &true.into()));
        assert_eq!(n1["here"], member.name == "n1");
        until("it knows the function", || member.fails(&["show", "hello"]).0 == 0);
        assert!(member.ok(&["show", "hello"]).contains("hello"));

        let human = member.ok(&["nodes"]);
        assert!(human.contains("zone=a disk=ssd") && human.contains("0/300"), "{human}");
        let why = member.json(&["why", "hello"]);
        assert_eq!(why["gateway"], member.name);
        assert_eq!(why["nodes"].as_array().unwrap().len(), 3, "{why}");
        let human = member.ok(&["why", "hello"]);
        let chosen = why["node"].as_str().unwrap();
        assert!(human.contains(&format!("arrives at {} would run on ", member.name)), "{human}");
        assert_eq!(chosen, member.name, "an idle node keeps what arrives at it: {why:#}");

        let findings = member.json(&["doctor"]);
        let findings = findings["findings"].as_array().unwrap();
        assert!(findings.iter().all(|finding| finding["level"] == "good"), "{findings:#?}");
        for about in ["nats", "stores", "nodes", "clocks", "revisions"] {
            assert!(findings.iter().any(|finding| finding["about"] == about), "{about}: {findings:#?}");
        }
    }
}

#[test]
fn of_two_nodes_that_deploy_the_same_route_at_the_same_moment_one_wins() {
    const ROUNDS: usize = 12;
    let cluster = Cluster::start(&[("n1", &[]), ("n2", &[])]);
    let hello = fixture("hello");
    for round in 0..ROUNDS {
        let route = format!("/same/{round}");
        let deploy = |admin: &str, name: &str| {
            let name = format!("{name}{round}");
            fails(admin, &["deploy", &hello, "--name", &name, "--route", &route])
        };
        let [n1, n2] = [0, 1].map(|number: usize| cluster.members[number].admin.clone());
        let (one, other) = thread::scope(|scope| {
            let one = scope.spawn(|| deploy(&n1, "one"));
            let other = scope.spawn(|| deploy(&n2, "other"));
            (one.join().unwrap(), other.join().unwrap())
        });
        let codes = [one.0, other.0];
        assert!(codes == [0, 4] || codes == [4, 0], "{one:?} {other:?}");
        let lost = if one.0 == 0 { other.1 } else { one.1 };
        assert!(lost.contains(&route), "{lost}");
        for gateway in cluster.gateways() {
            get_until(&format!("http://{gateway}{route}"), |status, _| status == 200);
        }
    }
    assert_eq!(cluster.first().json(&["list"])["functions"].as_array().unwrap().len(), ROUNDS);
}

#[test]
fn additions_through_all_gateways_at_once_add_up() {
    const EACH: u64 = 20;
    let cluster = Cluster::start(&[("n1", &[]), ("n2", &[]), ("n3", &[])]);
    cluster.first().deploy_ledger(&[]);
    let gateways = cluster.gateways();
    for gateway in &gateways {
        get_until(&format!("http://{gateway}/ledger/sleep/x"), |status, _| status == 200);
    }
    thread::scope(|scope| {
        for gateway in gateways.iter().chain(&gateways) {
            scope.spawn(move || {
                for _ in 0..EACH {
                    let seen = ask(gateway, "POST", "/ledger/run/sum");
                    assert!(matches!(&seen, Seen::Answer { status: 200, .. }), "{seen:?}");
                }
            });
        }
    });
    for gateway in &gateways {
        assert_eq!(booked(gateway)["sum"], 2 * EACH * gateways.len() as u64);
    }
}

#[test]
fn each_of_many_requests_runs_once_and_gets_its_own_answer() {
    let cluster = Cluster::start(&[("n1", &["--slots", "2"]), ("n2", &[]), ("n3", &["--no-gateway"])]);
    cluster.first().deploy_ledger(&[]);
    let load = Plan { pause: std::time::Duration::ZERO, ..Plan::mixed(cluster.gateways(), 4, 8) }.start();
    thread::sleep(std::time::Duration::from_secs(2));
    let shots = load.finish();
    println!("no faults: {}", shots.summary());
    shots.assert_all_answered();
    shots.assert_ran_once(&booked(&cluster.first().http));
}
