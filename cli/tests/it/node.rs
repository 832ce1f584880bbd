//! The node as a process: addresses, signals, tokens, and what survives it.

use crate::support::{Node, Running, dunlin, fails, fixture, get, json, ok, run, text};
use rustix::process::Signal;

#[test]
fn a_killed_node_serves_again_after_its_restart() {
    let data = tempfile::tempdir().unwrap();
    let mut node = Node::start(&data);
    ok(&node.admin, &["deploy", &fixture("hello")]);
    node.process.signal(Signal::KILL);
    node.process.wait();
    let node = Node::start(&data);
    assert_eq!(get(&format!("{}/hello/", node.http)), (200, "Hello, world!\n".into()));
    assert_eq!(json(&node.admin, &["list"])["functions"][0]["name"], "hello");
}

#[test]
fn sigterm_and_sigint_end_it_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let data = tempfile::tempdir().unwrap();
        let mut node = Node::start(&data);
        node.process.signal(signal);
        node.process.stderr_until("draining");
        assert_eq!(node.process.wait().code(), Some(0));
    }
}

#[test]
fn two_nodes_do_not_share_a_data_directory() {
    let data = tempfile::tempdir().unwrap();
    let _node = Node::start(&data);
    let mut second = dunlin(&["node", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]);
    let output = second.arg(data.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another node uses the data directory"), "{}", text(&output.stderr));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    let taken = node.http.strip_prefix("http://").unwrap();
    let output = run(&["node", "--http", taken, "--admin", "127.0.0.1:0", "--data", "/nonexistent"]);
    let message = text(&output.stderr);
    assert!(output.status.code() == Some(1) && message.contains(taken) && message.contains("--http"), "{message}");
}

#[test]
fn the_admin_api_asks_for_the_token_of_the_file() {
    let data = tempfile::tempdir().unwrap();
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&token, "a-token-of-some-length\n").unwrap();
    let node = Node::start_with(&data, &["--token-file", token.path().to_str().unwrap()]);
    let (code, message) = fails(&node.admin, &["list"]);
    assert!(code == 4 && message.contains("DUNLIN_TOKEN"), "{code} {message}");
    ok(&node.admin, &["list", "--token", "a-token-of-some-length"]);
}

#[test]
fn the_admin_api_is_not_opened_to_others_without_a_token() {
    let output = run(&["node", "--http", "127.0.0.1:0", "--admin", "0.0.0.0:0", "--data", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--token-file"));
}

#[test]
fn what_a_function_prints_is_read_and_followed() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    ok(&node.admin, &["deploy", &fixture("transform")]);
    let follow = Running::start({
        let mut command = dunlin(&["logs", "-f"]);
        command.env("DUNLIN_SERVER", &node.admin);
        command
    });
    // A failing call is told by the runtime, whatever the function prints.
    ok(&node.admin, &["deploy", &fixture("hostile"), "--name", "hostile"]);
    let (code, _) = fails(&node.admin, &["invoke", "hostile", "/trap"]);
    assert_eq!(code, 5);
    follow.stdout_until("hostile runtime: ");
    assert!(ok(&node.admin, &["logs", "hostile"]).contains("runtime: "));
    assert_eq!(ok(&node.admin, &["logs", "transform"]), "");
}
