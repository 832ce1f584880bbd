//! Which origins a revision may call: the `egress` list of its manifest, parsed once.

use std::net::{IpAddr, Ipv6Addr};

use http::{Uri, uri::Scheme};
use wasmtime_wasi_http::Error;

use super::address::{is_grantable, is_public};

/// The parsed `egress` of one revision. Empty = nothing is allowed.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy(Vec<Rule>);

/// None in a field = any.
#[derive(Clone, Debug)]
struct Rule {
    tls: Option<bool>,
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Host {
    Any,
    Exact(String),
    /// `.example.com`, dot included: every name below it, not the name itself.
    Below(String),
}

/// How far a permitted request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// To public addresses.
    Public,
    /// To the address that the origin itself spells out, or to loopback for `localhost`.
    Named,
}

/// Scheme, host and port of a request (RFC 6454 §4), normalised so that equal origins are equal texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) tls: bool,
    /// Lower case, without brackets and final dot; an IP address is in its canonical form.
    pub(super) host: String,
    pub(super) port: u16,
}

impl EgressPolicy {
    /// Reads origins: `https://api.example.com`, `http://api.example.com:8080`, `https://*.example.com` for every name
    /// below, `http://localhost:3000` or `http://10.0.0.7:80` for exactly that address, `*` for every public host.
    ///
    /// # Errors
    /// The first entry that is none of these, with what to write instead.
    pub fn parse(origins: &[String]) -> Result<Self, String> {
        origins.iter().map(|text| Rule::parse(text)).collect::<Result<_, _>>().map(Self)
    }

    /// How far a request to `origin` may go; none = it is denied.
    pub(super) fn scope(&self, origin: &Origin) -> Option<Scope> {
        let matching = || self.0.iter().filter(|rule| rule.matches(origin));
        let named = matching().any(|rule| matches!(&rule.host, Host::Exact(host) if is_named(host)));
        if named { Some(Scope::Named) } else { matching().next().map(|_| Scope::Public) }
    }
}

/// Whether naming this host is the permission for its address.
fn is_named(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| !is_public(ip))
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self { tls: None, host: Host::Any, port: None });
        }
        let invalid = |why: &str| {
            format!(
                "egress {text:?} {why}: write for example \"https://api.example.com\", \"https://*.example.com\" or \"*\""
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("has no scheme"))?;
        let wildcard = rest.strip_prefix("*.");
        let exact = if rest == "*" { "any" } else { wildcard.unwrap_or(rest) };
        let uri = format!("{scheme}://{}", exact.strip_suffix('/').unwrap_or(exact)).parse::<Uri>();
        let uri = uri.map_err(|_| invalid("is not an origin"))?;
        if uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(invalid("has more than scheme, host and port"));
        }
        let Origin { tls, host, port } = Origin::of(&uri).map_err(|_| invalid("is not an http or https origin"))?;
        let ip = host.parse::<IpAddr>().ok();
        if ip.is_some_and(|ip| !is_public(ip) && !is_grantable(ip)) {
            return Err(format!("egress {text:?} is an address that no function may call"));
        }
        let host = match wildcard {
            None if rest == "*" => Host::Any,
            None => Host::Exact(host),
            Some(_) if ip.is_some() || !host.contains('.') => return Err(invalid("is too wide")),
            Some(_) => Host::Below(format!(".{host}")),
        };
        Ok(Self { tls: Some(tls), host, port: Some(port) })
    }

    fn matches(&self, origin: &Origin) -> bool {
        self.tls.is_none_or(|tls| tls == origin.tls)
            && self.port.is_none_or(|port| port == origin.port)
            && match &self.host {
                Host::Any => true,
                Host::Exact(host) => *host == origin.host,
                Host::Below(suffix) => origin.host.len() > suffix.len() && origin.host.ends_with(suffix.as_str()),
            }
    }
}

impl Origin {
    /// The origin of an absolute URI.
    pub(super) fn of(uri: &Uri) -> Result<Self, Error> {
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(Error::HttpProtocolError),
        };
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        // Everything before the `@` would be sent nowhere and read by people as the host (RFC 9110 §4.2.4).
        if authority.as_str().contains('@') {
            return Err(Error::HttpRequestUriInvalid);
        }
        let host = authority.host().to_ascii_lowercase();
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().map_err(|_| Error::HttpRequestUriInvalid)?.to_string(),
            None => host.strip_suffix('.').unwrap_or(&host).to_owned(),
        };
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if host.is_empty() || host.starts_with('.') || !(host.bytes().all(name) || host.contains(':')) {
            return Err(Error::HttpRequestUriInvalid);
        }
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, port)) if !port.contains(']') => match port.parse() {
                Ok(0) | Err(_) => return Err(Error::HttpRequestUriInvalid),
                Ok(port) => port,
            },
            _ => Self::default_port(tls),
        };
        Ok(Self { tls, host, port })
    }

    fn default_port(tls: bool) -> u16 {
        if tls { 443 } else { 80 }
    }

    /// Host and, unless it is the scheme's own, port: what belongs in the `host` header.
    pub(super) fn authority(&self) -> String {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        let port = if self.port == Self::default_port(self.tls) { String::new() } else { format!(":{}", self.port) };
        format!("{open}{}{close}{port}", self.host)
    }

    pub(super) fn scheme(&self) -> Scheme {
        if self.tls { Scheme::HTTPS } else { Scheme::HTTP }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}
