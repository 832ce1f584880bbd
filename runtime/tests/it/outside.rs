//! Outbound calls: only where the settings allow, by name and by address.

use crate::support::*;
use dunlin_api::*;
use std::io::{Read, Write};

/// Answers `count` connections with a fixed response; gives its port.
fn server(count: usize) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(count) {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    return;
                }
                head.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
        }
    });
    port
}

#[test]
fn nothing_is_reached_without_a_grant_and_localhost_only_by_name() {
    run(async {
        let node = Node::start();
        for name in ["hostile", "hostile3"] {
            let port = server(1);
            let url = format!("/fetch?url=http%3A%2F%2Flocalhost%3A{port}%2F");
            let denied = node.deploy(name, Settings::default()).await;
            let answer = node.text(&denied, &url).await;
            assert!(answer.contains("HttpRequestDenied"), "{name}: {answer}");

            let any = Settings { egress: vec!["*".into()], ..Settings::default() };
            let answer = node.text(&node.deploy(name, any).await, &url).await;
            assert!(answer.contains("DestinationIpProhibited"), "{name}: {answer}");

            let named = Settings { egress: vec![format!("http://localhost:{port}")], ..Settings::default() };
            let answer = node.text(&node.deploy(name, named).await, &url).await;
            assert!(answer.contains("204"), "{name}: {answer}");
        }
    });
}

#[test]
fn sockets_of_the_node_itself_stay_forbidden_even_by_name() {
    run(async {
        let port = server(1);
        let node = Node::with(|config| config.forbidden_egress = vec![([127, 0, 0, 1], port).into()]);
        let named = Settings { egress: vec![format!("http://localhost:{port}")], ..Settings::default() };
        let revision = node.deploy("hostile", named).await;
        let answer = node.text(&revision, &format!("/fetch?url=http%3A%2F%2Flocalhost%3A{port}%2F")).await;
        assert!(answer.contains("DestinationIpProhibited"), "{answer}");
    });
}

#[test]
fn the_shorten_sample_keeps_its_links_in_its_store() {
    run(async {
        let node = Node::start();
        let settings = || Settings { kv: vec!["links".into()], ..Settings::default() };
        let revision = node.deploy("shorten", settings()).await;
        let body = Body::full(r#"{"url":"https://example.com/a/long/path"}"#);
        let made = node.executor.invoke(call(&revision, post("/shorten", body))).await.unwrap();
        assert!(made.status().is_success(), "{}", made.status());
        assert!(!node.store.keys.lock().unwrap().is_empty(), "nothing was stored");
        let refused = node.revision(dunlin_fixtures::bytes("shorten"), Settings::default()).await;
        assert!(matches!(refused, Err(Refusal::Imports(lines)) if lines[0].contains("kv = [")));
    });
}
