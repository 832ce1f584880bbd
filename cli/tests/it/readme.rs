//! The README is the first test: the commands it marks are run, in its order, by a shell in an empty folder.

use crate::support::{Node, dunlin};
use std::{path::Path, process::Command};

/// The shell blocks that follow `<!-- run -->`.
fn marked(readme: &str) -> Vec<&str> {
    let blocks = readme.split("<!-- run -->").skip(1);
    blocks.filter_map(|rest| rest.split_once("```sh\n")?.1.split_once("```").map(|(block, _)| block)).collect()
}

#[test]
fn its_marked_commands_work_in_the_order_it_gives_them() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let blocks = marked(&readme);
    assert!(!blocks.is_empty(), "the README marks no commands");
    let (data, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = Node::start(&data);
    // The addresses of the README belong to whoever runs a node here already.
    let script = blocks.concat().replace("http://127.0.0.1:8080", &node.http);
    let program = Path::new(env!("CARGO_BIN_EXE_dunlin"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let isolated = dunlin(&[]);
    let output = Command::new("sh")
        .args(["-euxc", &script])
        .current_dir(&work)
        .envs(isolated.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", path)
        .env("DUNLIN_SERVER", &node.admin)
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("no change") && stdout.contains("Ada"), "{stdout}");
}
