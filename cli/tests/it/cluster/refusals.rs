//! What people get wrong when they make a cluster.

use dunlin_fixtures::nats::{NatsServer, Options};
use std::time::{Duration, Instant};

use super::support::{Cluster, Member};
use crate::support::{Node, dunlin, fails, text};

/// How a node ends that cannot join.
fn refused(more: &[&str]) -> (i32, String) {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().to_str().unwrap();
    let base = ["node", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", data];
    let output = dunlin(&base.iter().chain(more).copied().collect::<Vec<_>>()).output().unwrap();
    (output.status.code().unwrap(), text(&output.stderr))
}

#[test]
fn a_nats_that_is_not_there_is_named_soon() {
    // A port that was free a moment ago, and one that takes connections and says nothing.
    let mut gone = NatsServer::start();
    let (closed, silent) = (gone.url(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    gone.kill();
    let silent = format!("nats://{}", silent.local_addr().unwrap());
    for (url, advice) in [(closed, "start nats-server"), (silent, "check the address")] {
        let begun = Instant::now();
        let (code, message) = refused(&["--nats", &url]);
        println!("{advice}: told after {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let address = url.trim_start_matches("nats://");
        assert!(code == 1 && message.contains(address) && message.contains(advice), "{code} {message}");
    }
}

#[test]
fn a_wrong_password_is_said_to_be_wrong() {
    let config = "authorization { user: ann, password: right }".to_owned();
    let nats = NatsServer::with(&Options { config, ..Options::default() });
    for password in [&[][..], &["--nats-user", "ann", "--nats-password", "wrong"]] {
        let (code, message) = refused(&[&["--nats", &nats.url()], password].concat());
        assert!(code == 1 && message.contains("refuses these credentials"), "{code} {message}");
        assert!(!message.contains("wrong"), "the password is shown: {message}");
    }
    Member::start(&nats.url(), "n1", &["--nats-user", "ann", "--nats-password", "right"]);
}

#[test]
fn a_name_that_is_taken_is_refused_and_its_holder_goes_on() {
    let cluster = Cluster::start(&[("n1", &[])]);
    let (code, message) = refused(&["--nats", &cluster.nats.url(), "--name", "n1"]);
    assert!(code == 1 && message.contains("`n1`") && message.contains("--name"), "{code} {message}");
    assert_eq!(cluster.first().sees("n1")["state"], "up");
}

#[test]
fn a_server_without_jetstream_is_refused() {
    let nats = NatsServer::with(&Options { core_only: true, ..Options::default() });
    let (code, message) = refused(&["--nats", &nats.url()]);
    assert!(code == 1 && message.contains("JetStream"), "{code} {message}");
}

#[test]
fn a_malformed_command_line_is_2() {
    for (args, part) in [
        (&["--nats", "x", "--label", "disk"][..], "disk"),
        (&["--nats", "x", "--label", "a=b", "--label", "a=c"], "two values"),
        (&["--label", "a=b"], "--nats"),
        (&["--nats", "x", "--no-worker", "--no-gateway"], "--no-gateway"),
        (&["--nats", "x", "--name", "No Name"], "--name"),
    ] {
        let (code, message) = refused(args);
        assert!(code == 2 && message.contains(part), "{args:?}: {code} {message}");
    }
}

#[test]
fn only_nodes_of_a_cluster_are_drained() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    let (code, message) = fails(&node.admin, &["drain", "local"]);
    assert!(code == 4 && message.contains("stands alone"), "{code} {message}");
    let mut cluster = Cluster::start(&[("n1", &[]), ("n2", &[])]);
    for command in
        [&["drain", "n9"][..], &["undrain", "n9"], &["nodes", "weight", "n9", "1"], &["nodes", "forget", "n9"]]
    {
        let (code, message) = cluster.first().fails(command);
        assert!(code == 4 && message.contains("`n9`"), "{command:?}: {code} {message}");
    }
    let (code, message) = cluster.first().fails(&["nodes", "forget", "n2"]);
    assert!(code == 4 && message.contains("alive"), "{code} {message}");
    cluster.members[1].kill();
    cluster.first().until_sees("n2", "lost");
    let findings = cluster.first().json(&["doctor"]).to_string();
    assert!(findings.contains("dunlin nodes forget n2"), "{findings}");
    cluster.first().ok(&["nodes", "forget", "n2"]);
    super::support::until("n2 is forgotten", || cluster.first().sees("n2").is_null());
}
