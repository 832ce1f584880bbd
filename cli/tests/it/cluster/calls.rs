//! Calls that nobody waits for, in a cluster: accepted here, run there, asked about elsewhere.

use serde_json::Value;
use std::fs;

use super::support::{Cluster, Member, until};
use crate::support::{dunlin, fixture};

/// Above what NATS takes in one message.
const LARGE: usize = 3_000_000;

fn deploy(member: &Member) {
    let events = fixture("events");
    let limits = ["--cpu", "5s", "--timeout", "60s", "--request-body", "10MiB"];
    member.ok(&[&["deploy", &events, "--kv", "booked", "--kv", "seen"], &limits[..]].concat());
}

/// Submits a call at `member`; says its id.
fn submit(member: &Member, path: &str, more: &[&str]) -> String {
    let args = [&["invoke", "events", path, "--async", "-X", "POST"], more].concat();
    member.ok(&args).trim().to_owned()
}

fn record(member: &Member, id: &str) -> Value {
    let output = dunlin(&["result", id, "--output", "json"]).env("DUNLIN_SERVER", &member.admin).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// The node on which the call runs, as soon as it does.
fn runs_on(member: &Member, id: &str) -> String {
    until("it runs", || record(member, id)["state"] == "running" && record(member, id)["node"].is_string());
    record(member, id)["node"].as_str().unwrap().to_owned()
}

#[test]
fn a_large_call_is_submitted_at_one_gateway_run_by_a_worker_and_read_at_another_gateway() {
    let cluster = Cluster::start(&[("g1", &["--no-worker"]), ("w", &["--no-gateway"]), ("g2", &["--no-worker"])]);
    let [g1, _, g2] = &cluster.members[..] else { unreachable!("three were started") };
    deploy(g1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    fs::write(&file, vec![b'x'; LARGE]).unwrap();
    let body = format!("@{}", file.display());
    let id = submit(g1, &format!("/call?bytes={LARGE}"), &["-d", &body]);
    assert_eq!(g2.ok(&["result", &id, "--wait=1m"]).len(), LARGE);
    let told = record(g2, &id);
    assert_eq!((&told["state"], &told["node"]), (&"done".into(), &"w".into()), "{told}");

    let id = submit(g1, "/call", &["-d", &body, "--idempotency-key", "once"]);
    let arrived: Value = serde_json::from_str(&g2.ok(&["result", &id, "--wait=1m"])).unwrap();
    assert_eq!(arrived["bytes"], LARGE, "{arrived}");
    assert_eq!(submit(g2, "/call", &["-d", &body, "--idempotency-key", "once"]), id);
    let other = ["invoke", "events", "/call", "--async", "-X", "POST", "-d", "y", "--idempotency-key", "once"];
    let (code, message) = g2.fails(&other);
    assert_ne!(code, 0, "{message}");
}

#[test]
fn a_call_whose_node_is_killed_runs_again_and_one_is_cancelled_from_anywhere() {
    let mut cluster = Cluster::start(&[("n1", &[]), ("n2", &[]), ("n3", &[])]);
    deploy(cluster.first());
    let id = submit(cluster.first(), "/call?id=again&do=sleep&ms=4000", &[]);
    let victim = runs_on(cluster.first(), &id);
    cluster.members.iter_mut().find(|member| member.name == victim).unwrap().kill();
    let alive: Vec<_> = cluster.members.iter().filter(|member| member.name != victim).collect();
    alive[1].ok(&["result", &id, "--wait=2m"]);
    let told = record(alive[0], &id);
    assert_eq!(told["state"], "done", "{told}");
    assert_ne!(told["node"], Value::from(victim), "{told}");

    let id = submit(alive[0], "/call?id=cancelled&do=sleep&ms=50000", &[]);
    let node = runs_on(alive[1], &id);
    let (here, there) = if alive[0].name == node { (alive[0], alive[1]) } else { (alive[1], alive[0]) };
    there.ok(&["result", &id, "--cancel"]);
    let (code, message) = here.fails(&["result", &id, "--wait=1m"]);
    assert!(code == 4 && message.contains("cancelled"), "{code} {message}");
}

#[test]
fn a_call_that_cannot_be_stored_is_refused_and_leaves_nothing() {
    let mut cluster = Cluster::start(&[("n1", &[])]);
    deploy(cluster.first());
    cluster.nats.kill();
    let (code, message) = cluster.first().fails(&["invoke", "events", "/call?id=lost", "--async", "-X", "POST"]);
    assert!(code == 6 && message.contains("was not accepted"), "{code} {message}");
    cluster.nats.restart();
    let member = cluster.first();
    let kept = ["invoke", "events", "/call?id=kept", "--async", "-X", "POST", "--idempotency-key", "kept"];
    until("calls are stored again", || member.fails(&kept).0 == 0);
    let id = member.ok(&kept).trim().to_owned();
    member.ok(&["result", &id, "--wait=1m"]);
    let entries = crate::support::get(&format!("http://{}/events/entries", member.http)).1;
    assert_eq!(entries, "kept 1\n");
}
