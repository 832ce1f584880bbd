//! Host names as requests send them and as routes name them.
//!
//! The gateway calls [`parse`] on every request, the table looks hosts up with [`Hosts`]. Names compare without regard
//! to case, port or a dot at their end; neither costs an allocation. At most 253 bytes (RFC 1035 §3.1).

use std::collections::HashMap;

/// Longest host name.
const MAX_BYTES: usize = 253;

/// The host in the value of a `Host` field or in an authority, without port and final dot; none if it is malformed or
/// empty. User information (`user@host`) is malformed (RFC 9110 §4.2.4).
pub(crate) fn parse(authority: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(authority).ok()?;
    let end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(end);
    let valid_port = port.is_empty() || port.strip_prefix(':')?.bytes().all(|b| b.is_ascii_digit());
    let valid = match host.strip_prefix('[') {
        Some(ip) => ip.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (valid && valid_port && !host.is_empty() && host.len() <= MAX_BYTES).then_some(host)
}

/// Something for each host, for each `*.suffix`, and for any host.
#[derive(Debug)]
pub(super) struct Hosts<T> {
    exact: HashMap<Box<str>, T>,
    wild: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wild: HashMap::new(), any: None }
    }
}

impl<T> Hosts<T> {
    /// The entry of a route's host, made if it is new. `host` is as [`canonical`] gave it.
    pub(super) fn entry(&mut self, host: Option<&str>) -> &mut T
    where
        T: Default,
    {
        match host {
            None => self.any.get_or_insert_default(),
            Some(host) => match host.strip_prefix("*.") {
                Some(suffix) => self.wild.entry(suffix.into()).or_default(),
                None => self.exact.entry(host.into()).or_default(),
            },
        }
    }

    /// Asks the entries that fit `host`, the most specific first, until one has an answer: the exact host, then
    /// wildcards from the longest to the shortest, then any host.
    pub(super) fn ask<'a, R>(&'a self, host: Option<&str>, mut answer: impl FnMut(&'a T) -> Option<R>) -> Option<R> {
        let named = !self.exact.is_empty() || !self.wild.is_empty();
        if let Some(host) = host.filter(|host| named && host.len() <= MAX_BYTES) {
            let mut buffer = [0; MAX_BYTES];
            let host = lower(host, &mut buffer);
            if let Some(found) = self.exact.get(host).and_then(&mut answer) {
                return Some(found);
            }
            let mut rest = host;
            while let Some((_, suffix)) = rest.split_once('.').filter(|_| !self.wild.is_empty()) {
                if let Some(found) = self.wild.get(suffix).and_then(&mut answer) {
                    return Some(found);
                }
                rest = suffix;
            }
        }
        self.any.as_ref().and_then(answer)
    }
}

fn lower<'a>(host: &'a str, buffer: &'a mut [u8; MAX_BYTES]) -> &'a str {
    if !host.bytes().any(|b| b.is_ascii_uppercase()) {
        return host;
    }
    let buffer = &mut buffer[..host.len()];
    buffer.copy_from_slice(host.as_bytes());
    buffer.make_ascii_lowercase();
    std::str::from_utf8(buffer).unwrap_or(host)
}

/// A route's host in lower case without a final dot.
///
/// # Errors
/// What is wrong, as the end of a sentence that began with the host.
pub(super) fn canonical(host: &str) -> Result<String, String> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    match parse(name.as_bytes()) {
        Some(parsed) if !name.contains(':') || name.starts_with('[') => {
            let star = if host.starts_with("*.") { "*." } else { "" };
            Ok(format!("{star}{}", parsed.to_ascii_lowercase()))
        }
        Some(_) => Err("names a port; routes do not look at it".into()),
        None if name.contains('*') => Err("has a `*` that is not the whole first label: write `*.example.com`".into()),
        None => Err("is not a host name".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_without_port_and_final_dot() {
        for (sent, host) in [
            ("a.example", "a.example"),
            ("a.example:8080", "a.example"),
            ("a.example.", "a.example"),
            ("a.example.:80", "a.example"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("a:", "a"),
        ] {
            assert_eq!(parse(sent.as_bytes()), Some(host), "{sent}");
        }
    }

    #[test]
    fn refuses_malformed_hosts() {
        let long = "x".repeat(254);
        for bad in [
            "", ".", ":80", "a b", "a,b", "a/b", "u@a", "a:b", "a:80:80", "[::1", "[x]", "[::1]x", "a\u{e9}", "a\0",
            &long,
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_most_specific_host_is_asked_first_and_may_decline() {
        let mut hosts = Hosts::<&str>::default();
        *hosts.entry(None) = "any";
        *hosts.entry(Some("*.example.com")) = "wide";
        *hosts.entry(Some("*.b.example.com")) = "narrow";
        *hosts.entry(Some("a.b.example.com")) = "exact";
        let first = |host| hosts.ask(Some(host), |entry| Some(*entry)).unwrap();
        assert_eq!(first("A.b.Example.com"), "exact");
        assert_eq!(first("x.b.example.com"), "narrow");
        assert_eq!(first("x.y.example.com"), "wide");
        assert_eq!(first("example.com"), "any");
        let mut asked = Vec::new();
        hosts.ask(Some("a.b.example.com"), |entry| -> Option<()> {
            asked.push(*entry);
            None
        });
        assert_eq!(asked, ["exact", "narrow", "wide", "any"]);
    }
}
