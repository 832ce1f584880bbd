//! Requests that are wrong whatever function they were for, found before any routing: HTTP itself (RFC 9112 §3.2,
//! RFC 9113 §8.3), and the gateway's own bounds on a head.
//!
//! [`check`] runs once per request and allocates nothing when the request is right. Framing errors (a bad length, both
//! length and chunks, malformed chunks) never get here: hyper answers or closes on them.

use dunlin_api::{Body, ByteSize, Problem};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request::Parts};

use super::{config::Config, fields::Survey};
use crate::routes::parse_host;

/// Why a request goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
    /// Whether the connection can be trusted with another request.
    close: bool,
}

impl Refusal {
    fn bad(detail: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "bad-request", detail: detail.into(), close: true }
    }

    fn over(status: StatusCode, code: &'static str, detail: String) -> Self {
        Self { status, code, detail, close: true }
    }

    /// The answer.
    pub(super) fn response(&self, version: Version) -> Response<Body> {
        let detail = format!("the request is malformed: {}", self.detail);
        let detail = if self.status == StatusCode::BAD_REQUEST { &detail } else { &self.detail };
        let mut response = Response::new(Body::full(Problem::new(self.status, self.code, detail).to_json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.close && version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Checks the head of a request, and makes target and `Host` say the same.
///
/// # Errors
/// Why it is refused.
pub(super) fn check<B>(request: &mut Request<B>, seen: Survey, config: &Config) -> Result<(), Refusal> {
    let uri = request.uri();
    if request.method() == Method::CONNECT {
        let detail = "this server is no proxy and opens no tunnels".into();
        return Err(Refusal::over(StatusCode::NOT_IMPLEMENTED, "not-implemented", detail));
    }
    let uri_bytes = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
    if uri_bytes > config.uri_bytes {
        let detail = format!("path and query have more than {}", ByteSize(config.uri_bytes as u64));
        return Err(Refusal::over(StatusCode::URI_TOO_LONG, "uri-too-long", detail));
    }
    // HTTP/1 was counted by the parser; nobody counts the fields of HTTP/2.
    if request.headers().len() > config.head_fields {
        let detail = format!("the request has more than {} header fields", config.head_fields);
        return Err(Refusal::over(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", detail));
    }
    let asterisk = uri.path() == "*";
    if asterisk && request.method() != Method::OPTIONS || !asterisk && !uri.path().starts_with('/') {
        return Err(Refusal::bad("the target is neither a path nor a URL"));
    }
    if uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Refusal::bad("the target's scheme is neither http nor https"));
    }
    check_host(request, seen)
}

fn check_host<B>(request: &mut Request<B>, seen: Survey) -> Result<(), Refusal> {
    let version = request.version();
    let host = if seen.host { one_host(request.headers())? } else { None };
    let host_name = match host {
        Some(value) => Some(parse_host(value.as_bytes()).ok_or_else(|| Refusal::bad("the Host field is not a host"))?),
        None if version == Version::HTTP_11 => return Err(Refusal::bad("it has no Host field")),
        None => None,
    };
    let Some(authority) = request.uri().authority() else {
        let stands = host_name.is_some() || version == Version::HTTP_10;
        return if stands { Ok(()) } else { Err(Refusal::bad("it has neither :authority nor Host")) };
    };
    if parse_host(authority.as_str().as_bytes()).is_none() {
        return Err(Refusal::bad("the target's authority is not a host"));
    }
    let same = host.is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()));
    if version >= Version::HTTP_2 && host.is_some() && !same {
        return Err(Refusal::bad(":authority and Host name different hosts"));
    }
    if version < Version::HTTP_2 && !same {
        // RFC 9112 §3.2.2: the target decides, and nobody behind shall see another Host.
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::bad("the target's authority"))?;
        request.headers_mut().insert(header::HOST, value);
    }
    Ok(())
}

fn one_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() { Err(Refusal::bad("it has more than one Host field")) } else { Ok(first) }
}

/// The host that a checked request names, without port.
pub(super) fn host(parts: &Parts) -> Option<&str> {
    host_of(&parts.uri, &parts.headers)
}

/// The host that the parts of a checked request name, without port.
pub(super) fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    authority.or_else(|| headers.get(header::HOST).map(HeaderValue::as_bytes)).and_then(parse_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(version: Version, target: &str, hosts: &[&str]) -> Result<Option<String>, Refusal> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        let mut request = request.body(()).unwrap();
        let seen = Survey::of(request.headers());
        check(&mut request, seen, &Config::default())?;
        let sent = request.headers().get("host").map(|value| value.to_str().unwrap().to_owned());
        let (parts, ()) = request.into_parts();
        let named = host(&parts).map(ToOwned::to_owned);
        assert!(version != Version::HTTP_11 || sent.is_some_and(|sent| sent.starts_with(named.as_deref().unwrap())));
        Ok(named)
    }

    #[test]
    fn http_1_1_needs_exactly_one_host() {
        assert_eq!(checked(Version::HTTP_11, "/", &["a:80"]).unwrap().as_deref(), Some("a"));
        for hosts in [&[][..], &[""], &["a", "a"], &["a b"], &["a/b"], &["u@a"]] {
            assert!(checked(Version::HTTP_11, "/", hosts).is_err(), "{hosts:?}");
        }
        assert_eq!(checked(Version::HTTP_10, "/", &[]), Ok(None));
    }

    #[test]
    fn the_authority_of_the_target_wins_over_host() {
        assert_eq!(checked(Version::HTTP_11, "http://b:81/x", &["a"]).unwrap().as_deref(), Some("b"));
        assert!(checked(Version::HTTP_11, "http://b/x", &[]).is_err());
        assert!(checked(Version::HTTP_11, "http://u@b/x", &["b"]).is_err());
        assert!(checked(Version::HTTP_11, "ftp://b/x", &["b"]).is_err());
    }

    #[test]
    fn http_2_takes_either_and_refuses_two_that_differ() {
        assert_eq!(checked(Version::HTTP_2, "http://a/", &[]).unwrap().as_deref(), Some("a"));
        assert_eq!(checked(Version::HTTP_2, "http://a/", &["A"]).unwrap().as_deref(), Some("a"));
        assert!(checked(Version::HTTP_2, "http://a/", &["b"]).is_err());
        assert!(checked(Version::HTTP_2, "/", &[]).is_err());
    }

    #[test]
    fn a_target_is_bounded_in_length() {
        let config = Config::default();
        let target = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        assert!(checked(Version::HTTP_11, &target(config.uri_bytes), &["a"]).is_ok());
        let refusal = checked(Version::HTTP_11, &target(config.uri_bytes + 1), &["a"]).unwrap_err();
        assert_eq!(refusal.status, StatusCode::URI_TOO_LONG);
    }

    #[test]
    fn an_asterisk_is_for_options_only() {
        assert!(checked(Version::HTTP_11, "*", &["a"]).is_err());
    }
}
