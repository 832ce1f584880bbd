//! NATS that goes away, for all, for one, or one server of three.

use dunlin_fixtures::nats::{NatsCluster, NatsServer};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    load::{Plan, Seen, ask},
    proxy::Proxy,
    soak,
    support::{Cluster, start, until},
};
use crate::support::{fixture, get_until};

fn answers(gateway: &str, id: &str) -> bool {
    matches!(ask(gateway, "GET", &format!("/ledger/sleep/{id}")), Seen::Answer { status: 200, body, .. } if body == id)
}

#[test]
fn without_nats_each_node_runs_what_arrives_at_it() {
    let gateway: &[&str] = &["--no-worker"];
    let mut cluster = Cluster::start(&[("n1", &[]), ("n2", &[]), ("n3", &[]), ("g", gateway)]);
    let said = cluster.first().deploy_ledger(&[]);
    assert!(said.contains("ready on 3 of 3"), "{said}");
    let gateways = cluster.gateways();
    for gateway in &gateways {
        until("it serves", || answers(gateway, "x"));
    }
    let load = Plan::mixed(gateways[..3].to_vec(), 6, 0).unbooked().start();
    sleep(Duration::from_millis(500));
    cluster.nats.kill();
    let down = Instant::now();
    let seen = ask(&gateways[3], "GET", "/ledger/sleep/remote");
    // Asked in the moment of the fall it may still be silence that is answered.
    assert!(
        matches!(&seen, Seen::Answer { status: 502..=504, body, .. } if body.contains("urn:dunlin:error:")),
        "{seen:?}"
    );
    let (code, message) = cluster.first().fails(&["deploy", &fixture("hello")]);
    println!("a deploy without NATS: {code} after {:?}: {message}", down.elapsed());
    assert!(code == 6 && message.contains("NATS"), "{code} {message}");
    let outage = Duration::from_secs(if soak() { 10 } else { 3 });
    sleep(outage.saturating_sub(down.elapsed()));
    let was_down = down.elapsed();
    cluster.nats.restart();
    let back = until("remote calls work", || answers(&gateways[3], "remote"));
    println!("NATS was away for {was_down:?}; remote calls work {back:?} after its return");
    // Nobody was called lost meanwhile, so that they see each other is no sign that all are connected again.
    for member in &cluster.members {
        until("all is well", || member.is_well());
    }
    let said = cluster.first().ok(&["deploy", &fixture("hello")]);
    assert!(said.contains("ready on 3 of 3"), "{said}");
    get_until(&format!("http://{}/hello/", gateways[3]), |status, _| status == 200);
    let shots = load.finish();
    println!("at the nodes that run it: {}", shots.summary());
    shots.assert_all_answered();
}

#[test]
fn a_node_that_is_cut_from_nats_serves_alone_and_returns() {
    let nats = NatsServer::start();
    let proxy = Proxy::to(nats.address());
    let mut members = start(&nats.url(), &[("n1", &[]), ("n2", &[])]);
    members.extend(start(&proxy.url(), &[("n3", &[])]));
    for member in &members {
        member.until_sees("n3", "up");
    }
    let said = members[0].deploy_ledger(&[]);
    assert!(said.contains("ready on 3 of 3"), "{said}");
    until("n3 serves", || answers(&members[2].http, "x"));
    let load = |gateways: &[&str]| {
        Plan::mixed(gateways.iter().map(|gateway| (*gateway).to_owned()).collect(), 3, 0).unbooked().start()
    };
    let (alone, others) = (load(&[&members[2].http]), load(&[&members[0].http, &members[1].http]));
    sleep(Duration::from_millis(500));
    proxy.cut();
    let lost = members[0].until_sees("n3", "lost");
    members[1].until_sees("n3", "lost");
    sleep(Duration::from_secs(if soak() { 30 } else { 4 }));
    proxy.heal();
    let back = members[0].until_sees("n3", "up");
    members[2].until_sees("n1", "up");
    sleep(Duration::from_millis(500));
    let (alone, others) = (alone.finish(), others.finish());
    println!(
        "cut: dropped after {lost:?}, back after {back:?}; there {}, elsewhere {}",
        alone.summary(),
        others.summary()
    );
    alone.assert_all_answered();
    others.assert_all_answered();
    let said = members[2].ok(&["deploy", &fixture("hello")]);
    assert!(said.contains("ready on 3 of 3"), "{said}");
}

#[test]
fn one_of_three_nats_servers_may_die() {
    let mut nats = NatsCluster::start();
    let members = start(&nats.url(), &[("n1", &[]), ("n2", &[]), ("g", &["--no-worker"])]);
    members[0].deploy_ledger(&[]);
    let findings = members[0].ok(&["doctor"]);
    let stores = findings.matches("stores: `").count();
    assert!(stores >= 4 && findings.matches("kept 3 times").count() == stores, "{findings}");
    let gateways: Vec<_> = members.iter().map(|member| member.http.clone()).collect();
    for gateway in &gateways {
        until("it serves", || answers(gateway, "x"));
    }
    let load = Plan::mixed(gateways, 6, 0).unbooked().start();
    sleep(Duration::from_millis(500));
    nats.servers[0].kill();
    let killed = Instant::now();
    let deploy = || members[1].fails(&["deploy", &fixture("hello")]);
    let mut tries = 1;
    while let (code @ 1.., message) = deploy() {
        println!("a deploy {:?} after the kill: {code} {message}", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(60), "{code} {message}");
        tries += 1;
    }
    println!("one NATS server of three killed: deployed after {:?}, {tries} tries", killed.elapsed());
    for member in &members {
        get_until(&format!("http://{}/hello/", member.http), |status, _| status == 200);
    }
    println!("all gateways serve it {:?} after the kill", killed.elapsed());
    let shots = load.finish();
    println!("meanwhile: {}", shots.summary());
    shots.assert_all_answered();
}
