//! Between the types of the `http` crate and those of `wasi:http`.
//!
//! Used by requests, responses and fetch. Header order is kept among values of one name; names come out in lower case.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use wasip2::http::types as wasi;

use crate::Error;

pub(crate) fn method_in(method: wasi::Method) -> Method {
    match method {
        wasi::Method::Get => Method::GET,
        wasi::Method::Head => Method::HEAD,
        wasi::Method::Post => Method::POST,
        wasi::Method::Put => Method::PUT,
        wasi::Method::Delete => Method::DELETE,
        wasi::Method::Connect => Method::CONNECT,
        wasi::Method::Options => Method::OPTIONS,
        wasi::Method::Trace => Method::TRACE,
        wasi::Method::Patch => Method::PATCH,
        // A host hands over only tokens that it has parsed as a method.
        wasi::Method::Other(name) => name.parse().unwrap_or(Method::GET),
    }
}

pub(crate) fn method_out(method: &Method) -> wasi::Method {
    match *method {
        Method::GET => wasi::Method::Get,
        Method::HEAD => wasi::Method::Head,
        Method::POST => wasi::Method::Post,
        Method::PUT => wasi::Method::Put,
        Method::DELETE => wasi::Method::Delete,
        Method::CONNECT => wasi::Method::Connect,
        Method::OPTIONS => wasi::Method::Options,
        Method::TRACE => wasi::Method::Trace,
        Method::PATCH => wasi::Method::Patch,
        _ => wasi::Method::Other(method.as_str().into()),
    }
}

/// Headers or trailers from the host. What the `http` crate calls invalid is left out.
pub(crate) fn headers_in(fields: &wasi::Fields) -> HeaderMap {
    let entries = fields.entries();
    let mut headers = HeaderMap::with_capacity(entries.len());
    for (name, value) in entries {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// Headers or trailers for the host; fails for those that only the host may set, such as `connection`.
pub(crate) fn headers_out<'a>(
    headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
) -> Result<wasi::Fields, Error> {
    let entries: Vec<_> = headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    Ok(wasi::Fields::from_list(&entries)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_survive_both_ways() {
        for name in ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PURGE"] {
            let method: Method = name.parse().expect("a method");
            assert_eq!(method_in(method_out(&method)), method);
        }
    }
}
