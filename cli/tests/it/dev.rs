//! `dunlin dev`: what is saved is served, and what fails leaves the last good revision serving.
//!
//! The project's "build" copies one of two components, so that a round takes no compiler of a language.

use crate::support::{Running, dunlin, fixture, get, get_until};
use rustix::process::Signal;
use std::{fs, path::Path};
use tempfile::TempDir;

/// The build takes the component whose path stands in `src/which`.
fn project() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    let manifest = "[function.f]\nsource = \"out.wasm\"\nbuild = \"cp \\\"$(cat src/which)\\\" out.wasm\"\n";
    fs::write(dir.path().join("dunlin.toml"), manifest).unwrap();
    choose(dir.path(), &fixture("hello"));
    dir
}

fn choose(dir: &Path, component: &str) {
    // As editors save: a new file takes the old one's place.
    fs::write(dir.join("src/new"), component).unwrap();
    fs::rename(dir.join("src/new"), dir.join("src/which")).unwrap();
}

fn start(dir: &Path) -> (Running, String) {
    let dev = Running::start(dunlin(&["dev", dir.to_str().unwrap(), "--http", "127.0.0.1:0"]));
    let line = dev.stderr_until("http ");
    let base = line.trim_start_matches("http").trim().trim_end_matches('/').to_owned();
    dev.stderr_until("watching for changes");
    (dev, format!("{base}/f/"))
}

#[test]
fn a_saved_change_is_served_and_a_failed_build_keeps_what_was() {
    let dir = project();
    let (mut dev, url) = start(dir.path());
    assert_eq!(get(&url), (200, "Hello, world!\n".into()));

    choose(dir.path(), "/no/such/component.wasm");
    dev.stderr_until("the build of function `f` failed");
    assert_eq!(get(&url), (200, "Hello, world!\n".into()));

    // Refused by the node: still what was.
    choose(dir.path(), &fixture("no-handler"));
    dev.stderr_until("wasi:http/incoming-handler");
    assert_eq!(get(&url), (200, "Hello, world!\n".into()));

    choose(dir.path(), &fixture("echo"));
    get_until(&url, |_, body| body != "Hello, world!\n");

    dev.signal(Signal::INT);
    assert_eq!(dev.wait().code(), Some(0));
}

#[test]
fn the_manifest_is_watched_too() {
    let dir = project();
    let (_dev, url) = start(dir.path());
    let manifest = dir.path().join("dunlin.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, format!("{text}\n[[function.f.http]]\nroute = \"/moved\"\n")).unwrap();
    let moved = url.replace("/f/", "/moved");
    get_until(&moved, |status, _| status == 200);
    assert_eq!(get(&url).0, 404);
}

#[test]
fn ctrl_c_stops_a_build_that_runs() {
    let dir = project();
    let manifest = "[function.f]\nsource = \"out.wasm\"\nbuild = \"echo $$ > pid; sleep 600\"\n";
    fs::write(dir.path().join("dunlin.toml"), manifest).unwrap();
    let mut dev = Running::start(dunlin(&["dev", dir.path().to_str().unwrap(), "--http", "127.0.0.1:0"]));
    dev.stderr_until("building");
    let pid = || fs::read_to_string(dir.path().join("pid")).unwrap_or_default().trim().parse::<i32>().ok();
    while pid().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    dev.signal(Signal::INT);
    assert_eq!(dev.wait().code(), Some(0));
    let shell = rustix::process::Pid::from_raw(pid().unwrap()).unwrap();
    assert!(rustix::process::test_kill_process(shell).is_err());
}
