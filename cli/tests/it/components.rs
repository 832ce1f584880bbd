//! Real components of real toolchains, deployed with the command people use and called over HTTP.

use crate::support::{Node, exchange, fixture, get, ok, post};

/// Deploys the samples `names`, all in Rust, with their own manifests; the fixtures built them where these say.
fn deploy_samples(node: &Node, names: &[&str]) {
    for name in names {
        fixture(name);
        let project = dunlin_fixtures::sample(name);
        ok(&node.admin, &["deploy", project.to_str().unwrap(), "--no-build"]);
    }
}

#[test]
fn components_of_other_toolkits_are_deployed_and_called() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    // 0.2: wstd, JavaScript; 0.3: Spin's SDK, wasip3, Python.
    for name in ["thirdparty-wstd", "thirdparty-js", "thirdparty-spin", "thirdparty-wasip3", "thirdparty-python"] {
        ok(&node.admin, &["deploy", &fixture(name), "--name", name]);
        let (status, body) = post(&format!("{}/{name}/some/path", node.http), b"12345");
        assert!(status == 200 && body.contains("/some/path"), "{name}: {status} {body}");
    }
}

#[test]
fn the_samples_do_what_their_pages_say() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    deploy_samples(&node, &["hello", "echo", "shorten", "stream", "transform"]);
    // Their manifests build into their own folders, which the fixtures leave alone.
    for name in ["markdown", "wordcount"] {
        ok(&node.admin, &["deploy", &fixture(name), "--name", name, "--route", &format!("/{name}")]);
    }
    let at = |path: &str| format!("{}{path}", node.http);

    assert_eq!(get(&at("/hello?name=Ada")), (200, "Hello, Ada!\n".into()));
    let large = "x".repeat(3 << 20);
    assert!(post(&at("/echo"), large.as_bytes()) == (200, large));
    assert!(post(&at("/markdown"), b"# Hello").1.contains("<h1"));
    let (status, counted) = post(&at("/wordcount"), b"to be or not to be");
    assert!(status == 200 && counted.contains("\"words\": 6"), "{status} {counted}");
    assert!(post(&at("/transform/sha256"), b"abc").1.starts_with("ba7816bf"));

    let (status, link) = post(&at("/shorten"), br#"{"url":"https://example.com/"}"#);
    assert_eq!(status, 201, "{link}");
    let code = serde_json::from_str::<serde_json::Value>(&link).unwrap()["code"].as_str().unwrap().to_owned();
    let answer = exchange("GET", &at(&format!("/shorten/{code}")), b"");
    assert!(answer.status == 302 && answer.head.contains("location: https://example.com/"), "{}", answer.head);
    assert!(get(&at(&format!("/shorten/{code}/stats"))).1.contains("\"hits\":1"));
    assert_eq!(get(&at("/shorten/nothing")).0, 404);
    assert_eq!(post(&at("/shorten"), b"no JSON").0, 400);

    let events = exchange("GET", &at("/stream?events=3&every=1&delay=1"), b"");
    assert!(events.head.contains("text/event-stream") && events.body.matches("data: ").count() == 3, "{}", events.body);
}

#[test]
fn what_a_function_stored_survives_a_killed_node() {
    let data = tempfile::tempdir().unwrap();
    let mut node = Node::start(&data);
    deploy_samples(&node, &["shorten"]);
    let (_, link) = post(&format!("{}/shorten", node.http), br#"{"url":"https://example.com/kept"}"#);
    let code = serde_json::from_str::<serde_json::Value>(&link).unwrap()["code"].as_str().unwrap().to_owned();
    node.process.signal(rustix::process::Signal::KILL);
    node.process.wait();
    let node = Node::start(&data);
    let answer = exchange("GET", &format!("{}/shorten/{code}", node.http), b"");
    assert!(answer.head.contains("https://example.com/kept"), "{}", answer.head);
}
