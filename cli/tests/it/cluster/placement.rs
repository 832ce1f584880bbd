//! Functions that may run only on some nodes.

use super::{
    load::{Plan, Seen, ask},
    support::{Cluster, until},
};
use crate::support::fixture;

#[test]
fn a_placed_function_runs_only_on_nodes_with_the_label() {
    let ssd: &[&str] = &["--label", "disk=ssd", "--zone", "a"];
    let cluster = Cluster::start(&[("n1", &[]), ("n2", ssd), ("n3", &["--label", "disk=hdd"])]);
    let said = cluster.first().deploy_ledger(&["--place", "disk=ssd"]);
    assert!(said.contains("ready on 1 of 1"), "{said}");
    for gateway in cluster.gateways() {
        until("it serves", || matches!(ask(&gateway, "GET", "/ledger/sleep/x"), Seen::Answer { status: 200, .. }));
    }
    let load = Plan::mixed(cluster.gateways(), 6, 0).unbooked().start();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let shots = load.finish();
    shots.assert_all_answered();
    assert_eq!(shots.by_node().into_keys().collect::<Vec<_>>(), ["n2"]);
    let (code, note) = cluster.first().fails(&["invoke", "ledger", "/ledger/sleep/x", "-v"]);
    assert!(code == 0 && note.contains("on n2"), "{code} {note}");
    let why = cluster.first().json(&["why", "ledger"]);
    assert!(why["node"] == "n2" && why["place"].as_str().unwrap().contains("disk=ssd"), "{why}");
}

#[test]
fn a_function_that_fits_no_node_is_refused() {
    let cluster = Cluster::start(&[("n1", &["--label", "disk=hdd"]), ("g", &["--no-worker", "--label", "disk=ssd"])]);
    let hello = fixture("hello");
    for place in [&["--place", "disk=ssd"][..], &["--place-zone", "b"]] {
        let deploy: Vec<_> = ["deploy", &hello].iter().chain(place).copied().collect();
        let (code, message) = cluster.first().fails(&deploy);
        assert!(code == 6 && message.contains("no worker of the cluster fits"), "{place:?}: {code} {message}");
    }
    assert_eq!(cluster.first().json(&["list"])["functions"].as_array().unwrap().len(), 0);
}
