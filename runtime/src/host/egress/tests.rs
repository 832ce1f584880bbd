//! Requests as a guest sends them, against servers of the test's own and a name server that lies.

mod double;
mod forbidden;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, RequestOptions, WasiHttpHooks};

use super::{EgressConfig, EgressPolicy, OPEN, PARALLEL, outgoing, policy::Origin};
use double::{Behaviour, Bench, Server, empty, get};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: x\r\nx-a: 1\r\n\r\nhi";
const TRAILERS: &str =
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n";
const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhi";

fn options(wait: Duration) -> Option<RequestOptions> {
    let wait = Some(wait);
    Some(RequestOptions { connect_timeout: wait, first_byte_timeout: wait, between_bytes_timeout: wait })
}

#[tokio::test]
async fn an_allowed_local_origin_answers_without_its_connection_fields() {
    let server = Server::start(Behaviour::Reply(HELLO)).await;
    let mut out = Bench::new(&[&server.origin("localhost"), &server.origin("127.0.0.1")]).outbound();
    for host in ["localhost", "LOCALHOST", "127.0.0.1"] {
        let (response, _) = get(&mut out, &server.url(host), None).await.unwrap();
        assert!(!response.headers().contains_key("keep-alive") && response.headers()["x-a"] == "1");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hi");
    }
}

#[tokio::test]
async fn a_policy_denies_by_default_and_says_what_would_allow_it() {
    let server = Server::start(Behaviour::Reply(HELLO)).await;
    let bench = Bench::new(&["https://api.example.com"]);
    let denied = get(&mut bench.outbound(), &server.url("localhost"), None).await;
    assert!(matches!(denied, Err(Error::HttpRequestDenied)));
    assert!(bench.logs.remarks()[0].contains(&server.origin("localhost")));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_connection_opened_by_permission_serves_nobody_else() {
    let server = Server::start(Behaviour::Reply(HELLO)).await;
    let permitted = Bench::new(&[&server.origin("localhost")]);
    let (response, _) = get(&mut permitted.outbound(), &server.url("localhost"), None).await.unwrap();
    response.into_body().collect().await.unwrap();
    let mut other = permitted.with_policy(&["*"]);
    assert!(matches!(get(&mut other, &server.url("localhost"), None).await, Err(Error::DestinationIpProhibited)));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn no_permission_opens_the_platforms_own_ports() {
    let server = Server::start(Behaviour::Reply(HELLO)).await;
    for own in [server.address, ([0, 0, 0, 0], server.address.port()).into()] {
        let config = EgressConfig { forbidden: vec![own], ..EgressConfig::default() };
        let bench = Bench::with(config, &[&server.origin("localhost"), &server.origin("127.0.0.2")]);
        for host in ["localhost", "127.0.0.2"] {
            let refused = get(&mut bench.outbound(), &server.url(host), None).await;
            assert!(matches!(refused, Err(Error::DestinationIpProhibited)));
        }
    }
    let config = EgressConfig { named: false, ..EgressConfig::default() };
    let mut out = Bench::with(config, &[&server.origin("localhost")]).outbound();
    let refused = get(&mut out, &server.url("localhost"), None).await;
    assert!(matches!(refused, Err(Error::DestinationIpProhibited)));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn trailers_arrive() {
    let server = Server::start(Behaviour::Reply(TRAILERS)).await;
    let mut out = Bench::new(&[&server.origin("localhost")]).outbound();
    let (response, _) = get(&mut out, &server.url("localhost"), None).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn failures_have_their_own_codes() {
    let server = Server::start(Behaviour::Last(CUT)).await;
    let mut out = Bench::new(&["http://localhost:1", &server.origin("localhost")]).outbound();
    let refused = get(&mut out, "http://localhost:1/", None).await;
    assert!(matches!(refused, Err(Error::ConnectionRefused)));
    let (response, _) = get(&mut out, &server.url("localhost"), None).await.unwrap();
    let cut = response.into_body().collect().await;
    assert!(matches!(cut, Err(Error::HttpResponseIncomplete)), "{cut:?}");
    let silent = Server::start(Behaviour::Last("")).await;
    let mut out =
        Bench::new(&[&silent.origin("localhost"), &silent.origin("localhost").replace("http", "https")]).outbound();
    let closed = get(&mut out, &silent.url("localhost"), None).await;
    assert!(matches!(closed, Err(Error::HttpResponseIncomplete | Error::ConnectionTerminated)));
    let no_tls = get(&mut out, &silent.url("localhost").replace("http", "https"), None).await;
    assert!(matches!(no_tls, Err(Error::TlsProtocolError | Error::ConnectionTerminated)));
}

#[tokio::test]
async fn no_timeout_is_too_short_or_too_long() {
    let server = Server::start(Behaviour::Hang).await;
    let mut out = Bench::new(&[&server.origin("localhost")]).outbound();
    for wait in [Duration::ZERO, Duration::from_nanos(1)] {
        let late = get(&mut out, &server.url("localhost"), options(wait)).await;
        assert!(matches!(late, Err(Error::ConnectionTimeout | Error::ConnectionReadTimeout)));
    }
    let bench = Bench::new(&[&server.origin("localhost")]);
    let mut out = bench.outbound_until(Duration::from_millis(50));
    let late = get(&mut out, &server.url("localhost"), options(Duration::MAX)).await;
    assert!(matches!(late, Err(Error::ConnectionReadTimeout)), "the deadline ends what has no end of its own");
}

#[tokio::test]
async fn the_seventh_request_waits_for_a_head() {
    let server = Server::start(Behaviour::Hang).await;
    let mut out = Bench::new(&[&server.origin("localhost")]).outbound();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..PARALLEL + 3 {
        let request = out.send_request(empty(&server.url("localhost")), None, Box::new(async { Ok(()) }));
        waiting.spawn(Box::into_pin(request));
    }
    server.saw(PARALLEL).await;
    let turns = out.turns.as_ref().unwrap();
    assert_eq!(turns.parallel.available_permits(), 0);
    assert_eq!(turns.open.available_permits(), OPEN - PARALLEL);
    // Cancelled requests hang up and let the others in.
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    assert_eq!(turns.parallel.available_permits(), PARALLEL);
    server.lost(PARALLEL).await;
}

#[tokio::test]
async fn unread_responses_and_the_total_are_bounded_by_name() {
    let server = Server::start(Behaviour::Reply(HELLO)).await;
    let bench = Bench::new(&[&server.origin("localhost")]);
    let mut out = bench.outbound();
    let mut unread = Vec::new();
    for _ in 0..OPEN {
        unread.push(get(&mut out, &server.url("localhost"), None).await.unwrap());
    }
    let one_more = get(&mut out, &server.url("localhost"), None).await;
    assert!(matches!(one_more, Err(Error::ConnectionLimitReached)));
    unread.clear();
    for _ in OPEN + 1..bench.limit as usize {
        drop(get(&mut out, &server.url("localhost"), None).await.unwrap());
    }
    let over = get(&mut out, &server.url("localhost"), None).await;
    assert!(matches!(over, Err(Error::ConnectionLimitReached)));
    assert!(bench.logs.remarks().last().unwrap().contains("limits.outbound = 50"));
    out.begin(out.deadline);
    drop(get(&mut out, &server.url("localhost"), None).await.unwrap());
}

#[test]
fn a_request_goes_only_to_the_origin_that_was_checked() {
    let request = |uri: &str| Request::builder().uri(uri).body(Bytes::new()).unwrap();
    let origin = |uri: &str| Origin::of(request(uri).uri()).map(|origin| origin.to_string());
    for (uri, expected) in [
        ("http://EXAMPLE.com:80/x", "http://example.com"),
        ("https://example.com.:8443/", "https://example.com:8443"),
        ("http://[0:0:0:0:0:0:0:1]:80/", "http://[::1]"),
    ] {
        assert_eq!(origin(uri).unwrap(), expected);
    }
    for bad in ["http://good.com@127.0.0.1/", "http://u:p@good.com/", "ftp://good.com/", "http://good.com:0/", "/x"] {
        assert!(origin(bad).is_err(), "{bad}");
    }
    let mut request = empty("http://good.com:8080/path?q");
    request.headers_mut().insert(header::HOST, "127.0.0.1".parse().unwrap());
    let origin = Origin::of(request.uri()).unwrap();
    let sent = outgoing(request, &origin).unwrap();
    assert_eq!(sent.uri(), "http://good.com:8080/path?q");
    assert!(!sent.headers().contains_key(header::HOST));
    let mut tunnel = empty("http://good.com:8080/");
    *tunnel.method_mut() = Method::CONNECT;
    assert!(matches!(outgoing(tunnel, &origin), Err(Error::HttpRequestMethodInvalid)));
}

#[test]
fn policies_match_whole_origins() {
    let policy = |entry: &str| EgressPolicy::parse(&[entry.to_owned()]);
    let allows =
        |entry: &str, uri: &str| policy(entry).unwrap().scope(&Origin::of(&uri.parse().unwrap()).unwrap()).is_some();
    for (entry, uri) in [
        ("https://api.example.com", "https://api.example.com/x?y"),
        ("https://API.example.com/", "https://api.example.com:443/"),
        ("https://*.example.com", "https://a.b.example.com/"),
        ("http://*.example.com:8080", "http://a.example.com:8080/"),
        ("https://*", "https://anything.example/"),
        ("*", "http://anything.example:8080/"),
        ("http://[::1]:3000", "http://[0::1]:3000/"),
    ] {
        assert!(allows(entry, uri), "{entry} {uri}");
    }
    for (entry, uri) in [
        ("https://api.example.com", "http://api.example.com/"),
        ("https://api.example.com", "https://api.example.com:8443/"),
        ("https://api.example.com", "https://api.example.com.evil.com/"),
        ("https://*.example.com", "https://example.com/"),
        ("https://*.example.com", "https://badexample.com/"),
        ("https://*", "http://anything.example/"),
        ("http://localhost:3000", "http://localhost:3001/"),
        ("http://127.0.0.1:3000", "http://2130706433:3000/"),
    ] {
        assert!(!allows(entry, uri), "{entry} {uri}");
    }
    let bad = "api.example.com ftp://x.com https:// https://*.com https://a.com/path https://u@a.com http://169.254.169.254 \
               http://0.0.0.0:80 http://[::ffff:127.0.0.1] http://224.0.0.1 https://a*.com http://a.com:0 http://a.com?q";
    for entry in bad.split_whitespace() {
        assert!(policy(entry).unwrap_err().contains(entry), "{entry}");
    }
}
