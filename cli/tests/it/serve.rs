//! `dunlin serve`: one component, no project.

use crate::support::{Running, dunlin, fixture, get};
use rustix::process::Signal;

#[test]
fn the_first_line_is_the_url_every_path_answers_and_sigint_is_success() {
    let mut serve = Running::start(dunlin(&["serve", &fixture("hello")]));
    let url = serve.stderr_line();
    let port = url.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.strip_suffix('/'));
    assert!(port.is_some_and(|port| port.parse::<u16>().is_ok()), "{url:?}");
    assert_eq!(get(&url), (200, "Hello, world!\n".into()));
    assert_eq!(get(&format!("{url}any/path?name=Ada")), (200, "Hello, Ada!\n".into()));
    serve.signal(Signal::INT);
    assert_eq!(serve.wait().code(), Some(0));
}

#[test]
fn the_second_start_compiles_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = dunlin(&["serve", &fixture("hello")]);
        command.env("XDG_CACHE_HOME", cache.path());
        let serve = Running::start(command);
        assert_eq!(get(&serve.stderr_line()).0, 200);
    };
    let compiled = || -> Vec<_> {
        let files = walk(cache.path());
        files.into_iter().map(|path| (path.clone(), path.metadata().unwrap().modified().unwrap())).collect()
    };
    start();
    let first = compiled();
    assert!(!first.is_empty());
    start();
    let again = compiled();
    let names = |files: &[(std::path::PathBuf, _)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&again));
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn whoever_connects_before_it_is_ready_waits_and_meets_the_component() {
    let dir = tempfile::tempdir().unwrap();
    let component = dir.path().join("new.wasm");
    // A custom section makes it a component that nobody has compiled yet.
    let mut bytes = dunlin_fixtures::bytes("hello");
    let id = std::process::id().to_le_bytes();
    bytes.extend([0, 7, 2, b'i', b'd', id[0], id[1], id[2], id[3]]);
    std::fs::write(&component, bytes).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let _process = Running::start(dunlin(&["serve", component.to_str().unwrap(), "--addr", &address]));
    while std::net::TcpStream::connect(&address).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(get(&format!("http://{address}/")).0, 200);
}

#[test]
fn a_cache_that_cannot_be_made_is_done_without() {
    let mut command = dunlin(&["serve", &fixture("hello")]);
    command.env("XDG_CACHE_HOME", "/dev/null/cache");
    let serve = Running::start(command);
    assert_eq!(get(&serve.stderr_line()).0, 200);
}
