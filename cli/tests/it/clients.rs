//! Deploy, look, call, remove: the way of a function through one node.

use crate::support::{Node, fails, fixture, get, json, ok, text};
use serde_json::Value;
use std::process::Stdio;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_function_is_deployed_called_shown_and_removed() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    let hello = fixture("hello");

    let first = ok(&node.admin, &["deploy", &hello, "--name", "hi"]);
    assert!(first.contains(&format!("{}/hi/", node.http)) && first.contains("ready on 1 of 1"), "{first}");
    assert_eq!(get(&format!("{}/hi/?name=Ada", node.http)), (200, "Hello, Ada!\n".into()));
    let again = ok(&node.admin, &["deploy", &hello, "--name", "hi"]);
    assert!(again.contains("no change"), "{again}");

    assert_eq!(ok(&node.admin, &["invoke", "hi", "/?name=Bob"]), "Hello, Bob!\n");
    assert!(ok(&node.admin, &["invoke", "hi", "-i"]).contains("200 OK"));
    assert!(ok(&node.admin, &["list"]).contains("/hi/{*path}"));
    let shown = ok(&node.admin, &["show", "hi"]);
    assert!(shown.contains("wasi:http@0.2") && shown.contains("sha256:"), "{shown}");

    ok(&node.admin, &["remove", "hi", "--yes"]);
    assert_eq!(get(&format!("{}/hi/", node.http)).0, 404);
    let (code, message) = fails(&node.admin, &["show", "hi"]);
    assert!(code == 4 && message.contains("no function `hi`"), "{code} {message}");
}

#[test]
fn json_has_the_documented_shape() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    let deployed = json(&node.admin, &["deploy", &fixture("hello")]);
    let function = &deployed["functions"][0];
    let wanted = [
        "artifact",
        "changed",
        "name",
        "nodes",
        "ready",
        "revision",
        "routes",
        "size_bytes",
        "unready",
        "urls",
        "version",
    ];
    assert_eq!(keys(function), wanted);
    assert_eq!((&function["name"], &function["changed"]), (&"hello".into(), &true.into()));

    let list = json(&node.admin, &["list"]);
    assert_eq!(keys(&list["functions"][0]), ["name", "routes", "serving", "version"]);
    let shown = json(&node.admin, &["show", "hello"]);
    assert_eq!(keys(&shown), ["name", "revisions", "routes", "serving", "triggers", "urls", "version"]);
    let called = json(&node.admin, &["invoke", "hello"]);
    assert_eq!(keys(&called), ["body", "headers", "node", "revision", "start", "status", "timing"]);
    assert_eq!((&called["status"], &called["body"]), (&200.into(), &"Hello, world!\n".into()));
    assert_eq!(called["revision"], function["revision"]);
    let version = json(&node.admin, &["version"]);
    assert_eq!((keys(&version), &version["server"]["version"]), (vec!["client", "server"], &version["client"]));
    let removed = json(&node.admin, &["remove", "hello", "--yes"]);
    assert_eq!(removed, serde_json::json!({ "name": "hello", "removed": true }));
}

#[test]
fn a_body_is_sent_from_text_file_and_stdin() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    ok(&node.admin, &["deploy", &fixture("echo")]);
    assert_eq!(ok(&node.admin, &["invoke", "echo", "-d", "some text"]), "some text");
    let file = data.path().join("body");
    std::fs::write(&file, [0, 159, 146, 150]).unwrap();
    let mut command = crate::support::dunlin(&["invoke", "echo", "-d", &format!("@{}", file.display())]);
    assert_eq!(command.env("DUNLIN_SERVER", &node.admin).output().unwrap().stdout, [0, 159, 146, 150]);
    let mut command = crate::support::dunlin(&["invoke", "echo", "-d", "@-"]);
    command.env("DUNLIN_SERVER", &node.admin).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"from stdin").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "from stdin");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    ok(&node.admin, &["deploy", &fixture("hello")]);
    let mut command = crate::support::dunlin(&["list"]);
    command.env("DUNLIN_SERVER", &node.admin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}
