//! Who may use the admin API: checked before anything else of a request is looked at.
//!
//! A page on another site can make a browser send requests to a loopback address. It cannot hide that it is a browser:
//! requests with `Origin` or `Sec-Fetch-Site` are refused, and so is a `Host` that is not this node's (DNS rebinding). A
//! token is compared in constant time and never logged. Wrong tokens are counted per source; a right one is let through
//! all the same, so that a loop of guesses cannot lock the owner out, and its least length makes guessing hopeless.
//! Bounds: [`SOURCES`] sources are remembered.

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use dunlin_api::Digest;
use http::{HeaderMap, StatusCode, Uri, header, uri::Authority};
use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    Shared,
    problem::{Answer, Failure},
};

/// Sources whose failures are remembered.
const SOURCES: usize = 1_024;
/// Wrong tokens from one source in [`WINDOW`] before it is told to wait: a person who mistypes stays far below.
const TRIES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Shortest token: with 64 letters to choose from, 96 bits.
const MIN_TOKEN_BYTES: usize = 16;

/// The secret that lets somebody use the API, kept as its SHA-256.
#[derive(Clone)]
pub struct Token(Digest);

/// A token that is too short or cannot be sent in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token needs at least {MIN_TOKEN_BYTES} visible ASCII characters and no spaces")]
pub struct WeakToken;

impl Token {
    /// The token `text`.
    ///
    /// # Errors
    /// If it is too short, or has characters that `Authorization: Bearer` cannot carry.
    pub fn new(text: &str) -> Result<Self, WeakToken> {
        let sendable = text.bytes().all(|b| b.is_ascii_graphic());
        if text.len() < MIN_TOKEN_BYTES || !sendable { Err(WeakToken) } else { Ok(Self(Digest::of(text.as_bytes()))) }
    }

    /// Compares digests, so that neither length nor content of the token shows in the time it takes.
    fn is(&self, candidate: &[u8]) -> bool {
        let candidate = Digest::of(candidate);
        let pairs = self.0.as_bytes().iter().zip(candidate.as_bytes());
        std::hint::black_box(pairs.fold(0, |differences, (a, b)| differences | (a ^ b))) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Wrong tokens by source.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl Failures {
    /// Counts one failure of `source`; true if it failed too often.
    fn count(&self, source: IpAddr, now: Instant) -> bool {
        let mut sources = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if sources.len() >= SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
            if sources.len() >= SOURCES {
                // So many at once is one attacker with many addresses: treat the rest as one.
                return true;
            }
        }
        let (since, count) = sources.entry(source).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count > TRIES
    }
}

pub(super) async fn guard(State(admin): State<Shared>, request: Request, next: Next) -> Response {
    match check(&admin, &request) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

fn check(admin: &Shared, request: &Request) -> Answer<()> {
    check_host(&admin.hosts, request.uri(), request.headers())?;
    check_browser(request.headers())?;
    let open = matches!(request.uri().path(), "/healthz" | "/readyz");
    match &admin.token {
        Some(token) if !open => check_token(admin, token, request)?,
        _ => {}
    }
    check_change(admin, request)
}

/// A node that only runs functions may be let into NATS with few permissions: deploys and the like go through a gateway.
fn check_change(admin: &Shared, request: &Request) -> Answer<()> {
    let path = request.uri().path();
    let invokes = path.strip_prefix("/v1/functions/").and_then(|rest| rest.split('/').nth(1)) == Some("invoke");
    if admin.looks_only && !request.method().is_safe() && !invokes {
        let detail = format!("`{}` only runs functions: ask a node with a gateway", admin.node);
        return Err(Failure::new(StatusCode::FORBIDDEN, "worker-only", detail));
    }
    Ok(())
}

fn check_host(hosts: &[String], uri: &Uri, headers: &HeaderMap) -> Answer<()> {
    let mut named = headers.get_all(header::HOST).iter();
    let first = named.next().and_then(|host| host.to_str().ok()).and_then(|host| host.parse::<Authority>().ok());
    // RFC 9112 §3.2: exactly one Host; §3.2.2: the target's authority goes before it.
    let (Some(host), None) = (first, named.next()) else {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "bad-host", "the request must have exactly one valid Host"));
    };
    for authority in uri.authority().into_iter().chain([&host]) {
        let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        if !literal && name != "localhost" && !hosts.contains(&name) {
            let detail = "this API answers only to IP addresses, localhost and the host names it was configured with";
            return Err(Failure::new(StatusCode::FORBIDDEN, "foreign-host", detail));
        }
    }
    Ok(())
}

fn check_browser(headers: &HeaderMap) -> Answer<()> {
    // `none` is a person who typed the address.
    let site = headers.get("sec-fetch-site").is_some_and(|site| site != "none");
    if site || headers.contains_key(header::ORIGIN) {
        let detail = "this API takes no requests from web pages";
        return Err(Failure::new(StatusCode::FORBIDDEN, "from-browser", detail));
    }
    Ok(())
}

fn check_token(admin: &Shared, token: &Token, request: &Request) -> Answer<()> {
    let given = request.headers().get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
    let bearer = given.and_then(|value| {
        let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| rest.trim_ascii())
    });
    if bearer.is_some_and(|candidate| token.is(candidate)) {
        return Ok(());
    }
    let missing = "this API needs its token: send Authorization: Bearer <token>, or set DUNLIN_TOKEN";
    if given.is_some() && admin.failures.count(source(request), Instant::now()) {
        let detail = "too many wrong tokens: wait a minute";
        return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, "too-many-failures", detail)
            .with_header(header::RETRY_AFTER, "60"));
    }
    let detail = if given.is_some() { "this is not the token of this API" } else { missing };
    Err(Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with_header(header::WWW_AUTHENTICATE, "Bearer"))
}

/// Where a request comes from; one network of 64 bits counts as one source, for it is usually one machine.
fn source(request: &Request) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    match peer.map(|ip| ip.to_canonical()) {
        Some(IpAddr::V6(ip)) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !(u128::MAX >> 64))),
        Some(ip) => ip,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_guesses_too_often_waits_for_the_window_to_end_and_others_do_not() {
        let (failures, now) = (Failures::default(), Instant::now());
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        assert!((0..TRIES).all(|_| !failures.count(one, now)));
        assert!(failures.count(one, now));
        assert!(!failures.count(other, now));
        assert!(!failures.count(one, now + WINDOW));
    }

    #[test]
    fn remembers_a_bounded_number_of_sources() {
        let (failures, now) = (Failures::default(), Instant::now());
        for n in 0..SOURCES as u32 {
            assert!(!failures.count(Ipv4Addr::from_bits(n).into(), now));
        }
        assert!(failures.count([10, 0, 0, 1].into(), now));
        assert_eq!(failures.0.lock().unwrap().len(), SOURCES);
        assert!(!failures.count([10, 0, 0, 1].into(), now + WINDOW));
    }

    #[test]
    fn a_token_is_long_sendable_and_never_shown() {
        assert_eq!(Token::new("short").unwrap_err(), WeakToken);
        assert_eq!(Token::new("with spaces in its middle").unwrap_err(), WeakToken);
        let token = Token::new("0123456789abcdef").unwrap();
        assert!(token.is(b"0123456789abcdef") && !token.is(b"0123456789abcdeF") && !token.is(b""));
        assert!(!format!("{token:?}").contains("0123"));
    }
}
