//! `new`, `build` and `deploy` of a project.

use crate::support::{Node, fails, fixture, get, json, ok, run, text};
use std::fs;

#[test]
fn a_new_project_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    for template in ["rust", "rust-axum", "js", "python"] {
        let path = dir.path().join(template);
        let args = ["new", "my-fn", "--template", template, "--path", path.to_str().unwrap()];
        assert_eq!(run(&args).status.code(), Some(0));
        assert!(path.join("dunlin.toml").is_file() && path.join(".gitignore").is_file());
        assert_eq!(run(&args).status.code(), Some(4));
    }
}

#[test]
fn a_project_is_built_and_all_its_functions_deployed() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    let project = tempfile::tempdir().unwrap();
    let function = |name: &str, fixture: &str| {
        format!("[function.{name}]\nsource = \"{name}.wasm\"\nbuild = \"cp '{fixture}' {name}.wasm && echo built\"\n")
    };
    let manifest = function("a", &fixture("hello")) + &function("b", &fixture("echo"));
    fs::write(project.path().join("dunlin.toml"), manifest).unwrap();
    let path = project.path().to_str().unwrap();
    let deployed = json(&node.admin, &["deploy", path]);
    assert_eq!(deployed["functions"].as_array().unwrap().len(), 2);
    assert_eq!(get(&format!("{}/a/", node.http)), (200, "Hello, world!\n".into()));

    let one = ok(&node.admin, &["deploy", path, "--name", "a", "--no-build", "--route", "/other"]);
    assert!(one.contains("/other") && one.lines().count() == 1, "{one}");
    let (code, message) = fails(&node.admin, &["deploy", path, "--name", "c"]);
    assert!(code == 4 && message.contains("it has a, b"), "{code} {message}");
    let (code, message) = fails(&node.admin, &["deploy", path, "--route", "/x"]);
    assert!(code == 2 && message.contains("--name"), "{code} {message}");
}

#[test]
fn builds_write_to_stderr_and_failures_are_4() {
    let project = tempfile::tempdir().unwrap();
    let path = project.path().to_str().unwrap();
    let manifest = |build: &str| {
        let text = format!("[function.a]\nsource = \"a.wasm\"\nbuild = \"{build}\"\n");
        fs::write(project.path().join("dunlin.toml"), text).unwrap();
        let output = run(&["build", path, "--output", "json"]);
        (output.status.code(), text_of(&output.stdout), text_of(&output.stderr))
    };
    let (code, stdout, stderr) = manifest(&format!("echo noise; cp '{}' a.wasm", fixture("hello")));
    assert!(code == Some(0) && !stdout.contains("noise") && stderr.contains("noise"), "{stdout} {stderr}");
    let built: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(built["functions"][0]["name"], "a");
    let (code, _, stderr) = manifest("exit 7");
    assert!(code == Some(4) && stderr.contains("exit code 7"), "{stderr}");
    let (code, _, stderr) = manifest("rm -f a.wasm");
    assert!(code == Some(4) && stderr.contains("does not exist"), "{stderr}");
}

fn text_of(bytes: &[u8]) -> String {
    text(bytes)
}
