//! Each limit from the outside: what obeys it is served, what breaks it is answered as the README's table says, and the
//! function next door does not notice.

use crate::support::{Node, exchange, fixture, get, ok, post};
use std::io::{Read as _, Write as _};

struct Rig {
    node: Node,
    _data: tempfile::TempDir,
}

impl Rig {
    /// A node with `hello` and, under `/h/`, the hostile guest `kind` with the limits in `flags`.
    fn new(kind: &str, flags: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let node = Node::start(&data);
        ok(&node.admin, &["deploy", &fixture("hello")]);
        let hostile = fixture(kind);
        let deploy: Vec<_> = ["deploy", &hostile, "--name", "h"].iter().chain(flags).copied().collect();
        ok(&node.admin, &deploy);
        Self { node, _data: data }
    }

    fn get(&self, path: &str) -> (u16, String) {
        let answer = get(&format!("{}/h/{path}", self.node.http));
        assert_eq!(get(&format!("{}/hello", self.node.http)).0, 200, "the neighbour after {path}");
        answer
    }

    #[track_caller]
    fn fails(&self, path: &str, status: u16, code: &str) {
        let (got, body) = self.get(path);
        assert!(got == status && body.contains(&format!("\"code\":\"{code}\"")), "{path}: {got} {body}");
    }
}

#[test]
fn loops_end_at_their_limit_in_both_kinds_of_guest() {
    for kind in ["hostile", "hostile3"] {
        let rig = Rig::new(kind, &["--cpu", "200ms", "--timeout", "20s"]);
        rig.fails("spin", 504, "cpu-limit");
        assert_eq!(rig.get("sleep?ms=400").0, 200, "{kind}: waiting is free");
        let rig = Rig::new(kind, &["--timeout", "300ms"]);
        rig.fails("sleep?ms=60000", 504, "deadline");
        assert_eq!(rig.get("sleep?ms=10").0, 200);
    }
}

#[test]
fn faults_of_the_guest_are_500_with_an_id_and_without_its_insides() {
    let rig = Rig::new("hostile", &["--memory", "32MiB"]);
    for (path, code) in [("trap", "trap"), ("panic", "trap"), ("recurse", "trap"), ("no-response", "no-response")] {
        rig.fails(path, 500, code);
    }
    let (_, body) = rig.get("trap");
    assert!(
        body.contains("\"started\":true") && body.contains("\"invocation\":\"") && !body.contains("backtrace"),
        "{body}"
    );
    let (status, body) = rig.get("grow?mb=500");
    assert!(status == 500 || body.contains("grew"), "{status} {body}");
    assert!(ok(&rig.node.admin, &["logs", "h"]).contains("wasm trap"));
}

#[test]
fn a_failure_after_the_head_never_looks_like_a_whole_answer() {
    for kind in ["hostile", "hostile3"] {
        let rig = Rig::new(kind, &["--cpu", "300ms"]);
        let mut stream = std::net::TcpStream::connect(rig.node.http.strip_prefix("http://").unwrap()).unwrap();
        stream.write_all(b"GET /h/trap-mid-stream HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        // Either there was time for a status, or the chunked body lacks its last chunk.
        let honest = answer.starts_with("HTTP/1.1 500") || !answer.ends_with("0\r\n\r\n");
        assert!(honest, "{kind}: {ended:?} {answer:?}");
    }
}

#[test]
fn a_request_body_is_refused_over_its_limit_and_taken_at_it() {
    let rig = Rig::new("hostile", &["--request-body", "1MiB"]);
    let url = format!("{}/h/sum", rig.node.http);
    assert_eq!(post(&url, &vec![1; 1 << 20]).0, 200);
    let answer = exchange("POST", &url, &vec![1; (1 << 20) + 1]);
    assert!(answer.status == 413 && answer.head.contains("application/problem+json"), "{}", answer.head);
}

#[test]
fn a_functions_concurrency_is_429_and_a_full_node_503() {
    let hold = |rig: &Rig| {
        let mut stream = std::net::TcpStream::connect(rig.node.http.strip_prefix("http://").unwrap()).unwrap();
        stream.write_all(b"GET /h/drip?ms=20 HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream
    };
    let rig = Rig::new("hostile", &["--concurrency", "1"]);
    let held = hold(&rig);
    rig.fails("ok", 429, "concurrency-limit");
    drop(held);

    let data = tempfile::tempdir().unwrap();
    let node = Node::start_with(&data, &["--slots", "1"]);
    ok(&node.admin, &["deploy", &fixture("hostile"), "--name", "h"]);
    let rig = Rig { node, _data: data };
    let _held = hold(&rig);
    let answer = exchange("GET", &format!("{}/h/ok", rig.node.http), b"");
    assert!(answer.status == 503 && answer.head.contains("retry-after: "), "{}", answer.head);
    assert!(answer.body.contains("1 of 1 slots"), "{}", answer.body);
}

#[test]
fn output_is_kept_up_to_its_limit_and_the_rest_is_counted() {
    let rig = Rig::new("hostile", &[]);
    rig.get("log?bytes=100&lines=20000");
    let logs = ok(&rig.node.admin, &["logs", "h", "--tail", "1000"]);
    assert!(logs.contains("dropped") && logs.len() < 1 << 20, "{} bytes", logs.len());
}

#[test]
fn the_outside_is_closed_unless_the_manifest_opens_it() {
    let rig = Rig::new("hostile", &[]);
    let admin = rig.node.admin.replace(':', "%3A").replace('/', "%2F");
    assert!(rig.get(&format!("fetch?url={admin}")).1.contains("HttpRequestDenied"));
    // Not even by name: the node's own admin API deploys code.
    ok(&rig.node.admin, &["deploy", &fixture("hostile"), "--name", "h", "--egress", &rig.node.admin]);
    let answer = rig.get(&format!("fetch?url={admin}")).1;
    assert!(answer.contains("DestinationIpProhibited"), "{answer}");
}

#[test]
fn a_node_without_address_space_warns_and_serves_all_the_same() {
    let data = tempfile::tempdir().unwrap();
    let (node, warning) = Node::start_within(&data, 48 << 20);
    assert!(warning.contains("WARN"), "{warning}");
    ok(&node.admin, &["deploy", &fixture("hello")]);
    assert_eq!(get(&format!("{}/hello", node.http)).0, 200);
}
