//! What is refused, with which exit code, and whether the message helps.

use crate::support::{Node, fails, fixture, run, text};
use std::fs;

/// Nobody listens there: port 1 needs rights that tests do not have.
const NOBODY: &str = "http://127.0.0.1:1";

#[test]
fn an_unreachable_server_is_3_and_says_how_to_start_one() {
    for args in [&["list"][..], &["show", "a"], &["invoke", "a"], &["logs"], &["deploy", "x.wasm"]] {
        let (code, message) = fails(NOBODY, args);
        assert_eq!(code, 3, "{args:?}: {message}");
        assert!(message.contains("no dunlin node answers") && message.contains("dunlin node"), "{message}");
    }
    let (code, message) = fails(NOBODY, &["list", "--output", "json"]);
    let error: serde_json::Value = serde_json::from_str(&message).unwrap();
    assert_eq!((code, &error["error"]["exit"]), (3, &3.into()));
}

#[test]
fn a_wrong_command_line_is_2() {
    for args in
        [&["nonsense"][..], &["deploy", "--memory", "lots"], &["help", "nonsense"], &["list", "--server", "ftp://x"]]
    {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    assert!(text(&run(&["help", "exit-codes"]).stdout).contains("no node answers"));
}

#[test]
fn files_that_are_no_component_are_4_and_told_apart() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    let file = |name: &str, bytes: &[u8]| {
        let path = data.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let component = dunlin_fixtures::bytes("hello");
    let truncated = file("truncated.wasm", &component[..component.len() / 2]);
    let random = file("random.wasm", b"this is no WebAssembly at all");
    for (path, part) in [
        (&fixture("core-module"), "wasm-tools component new"),
        (&truncated, "not a WebAssembly component"),
        (&random, "does not begin as WebAssembly does"),
        (&"no-such.wasm".to_owned(), "no-such.wasm"),
        (&fixture("no-handler"), "wasi:http/incoming-handler"),
    ] {
        for command in ["deploy", "serve"] {
            let (code, message) = fails(&node.admin, &[command, path]);
            assert!(code == 4 && message.contains(part), "{command} {path}: {code} {message}");
        }
    }
}

#[test]
fn a_broken_manifest_names_file_line_and_nearest_key() {
    let project = tempfile::tempdir().unwrap();
    let path = project.path().to_str().unwrap();
    fs::write(project.path().join("dunlin.toml"), "[function.a]\nsource = \"a.wasm\"\nbiuld = \"true\"\n").unwrap();
    for command in ["build", "dev"] {
        let output = run(&[command, path]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{message}");
        assert!(
            message.contains("dunlin.toml") && message.contains("line 3") && message.contains("`build`"),
            "{message}"
        );
    }
}

#[test]
fn removing_asks_first() {
    let (code, message) = fails(NOBODY, &["remove", "a"]);
    assert!(code == 2 && message.contains("--yes"), "{code} {message}");
}
