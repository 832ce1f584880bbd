//! Header fields that concern one connection only (RFC 9110 §7.6.1): removed in both directions. Everything else passes
//! as it came, in its order.
//!
//! Called once for each request and response. The common message has none of these fields: one pass over its names finds
//! that out, and what else the gateway wants to know about them.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields that are removed whether or not `Connection` names them.
const HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub(super) const TIMING: HeaderName = HeaderName::from_static("dunlin-timing");

/// Which of the fields that matter here a message has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    pub hop: bool,
    pub te: bool,
    pub host: bool,
    pub length: bool,
    pub request_id: bool,
    pub traceparent: bool,
    pub timing: bool,
    pub prefer: bool,
    /// Fields that only events have.
    pub event: bool,
}

impl Survey {
    /// Looks at each name once.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection"
                | "transfer-encoding"
                | "upgrade"
                | "keep-alive"
                | "proxy-connection"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "http2-settings" => seen.hop = true,
                "te" => seen.te = true,
                "host" => seen.host = true,
                "content-length" => seen.length = true,
                "x-request-id" => seen.request_id = true,
                "traceparent" => seen.traceparent = true,
                "dunlin-timing" => seen.timing = true,
                "prefer" => seen.prefer = true,
                "dunlin-subject" | "dunlin-reply-to" | "ce-dunlintrigger" | "ce-dunlinattempt" => seen.event = true,
                _ => {}
            }
        }
        seen
    }
}

/// What tells a function that a request is an event, and where it came from: nobody else may say so.
const EVENT: [HeaderName; 4] = [
    HeaderName::from_static("dunlin-subject"),
    HeaderName::from_static("dunlin-reply-to"),
    HeaderName::from_static("ce-dunlintrigger"),
    HeaderName::from_static("ce-dunlinattempt"),
];

/// Removes the fields of one hop, and those that only events have. `te: trailers` stays, because it asks the origin for
/// them.
pub(super) fn strip(headers: &mut HeaderMap, seen: Survey) {
    if seen.event {
        for name in EVENT {
            headers.remove(name);
        }
    }
    if seen.te {
        let keeps = |value: &HeaderValue| tokens(value).any(|token| token.eq_ignore_ascii_case("trailers"));
        if headers.get_all(header::TE).iter().any(keeps) {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(header::TE);
        }
    }
    if !seen.hop {
        return;
    }
    let connection = headers.get_all(header::CONNECTION).iter().flat_map(tokens);
    let named: Vec<HeaderName> = connection.filter_map(|token| token.parse().ok()).collect();
    for name in named.iter().filter(|name| !essential(name)) {
        headers.remove(name);
    }
    for name in HOP {
        headers.remove(name);
    }
}

/// What a message cannot lose because a sender names it in `Connection`: its framing, its address, and the `te` that
/// was dealt with above.
fn essential(name: &HeaderName) -> bool {
    [header::HOST, header::CONTENT_LENGTH, header::TE].contains(name)
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let seen = Survey::of(&headers);
        strip(&mut headers, seen);
        headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn removes_the_fields_of_one_hop_and_those_that_connection_names() {
        let left = stripped(&[
            ("host", "a"),
            ("connection", "close, X-Mine"),
            ("connection", "keep-alive, content-length, host"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "secret"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-mine", "1"),
            ("content-length", "3"),
            ("x-b", "2"),
            ("x-a", "1"),
            ("x-b", "3"),
        ]);
        let expected =
            [pair("host", "a"), pair("content-length", "3"), pair("x-b", "2"), pair("x-b", "3"), pair("x-a", "1")];
        let (mut left, mut expected) = (left, expected.to_vec());
        left.sort();
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn repeated_fields_keep_their_order() {
        let left = stripped(&[("x-b", "2"), ("x-a", "1"), ("x-b", "1")]);
        assert_eq!(left, [pair("x-b", "2"), pair("x-b", "1"), pair("x-a", "1")]);
    }

    #[test]
    fn nobody_can_pretend_to_be_an_event() {
        let ours =
            ["dunlin-subject", "Dunlin-Reply-To", "ce-dunlintrigger", "ce-dunlinattempt"].map(|name| (name, "x"));
        let mut left = stripped(&[&ours[..], &[("x-a", "1"), ("ce-id", "2")]].concat());
        left.sort();
        assert_eq!(left, [pair("ce-id", "2"), pair("x-a", "1")]);
    }

    #[test]
    fn te_keeps_trailers_only() {
        assert_eq!(stripped(&[("te", "gzip, Trailers;q=1")]), []);
        assert_eq!(stripped(&[("te", "gzip, Trailers"), ("connection", "te")]), [pair("te", "trailers")]);
        assert_eq!(stripped(&[("te", "gzip")]), []);
    }
}
