//! The request a function answers.
//!
//! Made by the macro's glue. Each part is fetched from the host when the function first looks at it, because each costs a
//! call: a function that reads only its path pays only for that.

use std::cell::OnceCell;
use std::io;

use http::{HeaderMap, HeaderName, Method, Uri};
use wasip2::http::types::{IncomingRequest, Scheme};

use crate::{Error, Reader, convert, uri};

/// One HTTP request. Its body can be read once, which consumes it.
pub struct Request {
    inner: IncomingRequest,
    target: OnceCell<String>,
    headers: OnceCell<HeaderMap>,
}

impl Request {
    /// Wraps what `wasi:http` hands to a handler.
    pub fn new(inner: IncomingRequest) -> Self {
        Self { inner, target: OnceCell::new(), headers: OnceCell::new() }
    }

    /// The method.
    pub fn method(&self) -> Method {
        convert::method_in(self.inner.method())
    }

    /// Scheme, authority, path and query together, as far as the host knows them.
    ///
    /// # Errors
    /// 400 when they do not form a URI.
    pub fn uri(&self) -> Result<Uri, Error> {
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(self.target().parse().map_err(|_| Error::bad_request("the path is not valid"))?);
        if let Some(authority) = self.inner.authority() {
            parts.authority = Some(authority.parse().map_err(|_| Error::bad_request("the host is not valid"))?);
            parts.scheme = Some(match self.inner.scheme() {
                Some(Scheme::Https) => http::uri::Scheme::HTTPS,
                _ => http::uri::Scheme::HTTP,
            });
        }
        Ok(Uri::from_parts(parts)?)
    }

    /// The path as it was sent, percent-encoding included; starts with `/`.
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// The query as it was sent, without the `?`.
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// The decoded part of the path at `{name}` in `template`, which is written like a route: `/links/{code}`,
    /// `/files/{*path}`. `None` when the path has another shape.
    pub fn path_param(&self, template: &str, name: &str) -> Option<String> {
        uri::path_param(template, self.path(), name)
    }

    /// The first decoded value of `name` in the query.
    pub fn query_param(&self, name: &str) -> Option<String> {
        uri::query_param(self.query()?, name)
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        self.headers.get_or_init(|| convert::headers_in(&self.inner.headers()))
    }

    /// The first value of one header, if it is text; cheaper than [`headers`](Self::headers) when one is enough.
    pub fn header(&self, name: &HeaderName) -> Option<String> {
        let values = self.inner.headers().get(name.as_str());
        String::from_utf8(values.into_iter().next()?).ok()
    }

    /// Whether this is an event: a POST of the CloudEvents HTTP binding (`ce-specversion`) that a trigger made
    /// (`ce-dunlintrigger`). [`Event::from_request`](crate::Event::from_request) reads it.
    pub fn is_event(&self) -> bool {
        if self.method() != Method::POST {
            return false;
        }
        let headers = self.inner.headers();
        headers.has("ce-specversion") && headers.has("ce-dunlintrigger")
    }

    /// All headers as the host has them, names in lower case.
    pub(crate) fn raw_headers(&self) -> Vec<(String, Vec<u8>)> {
        self.inner.headers().entries()
    }

    /// The body as a stream.
    ///
    /// # Errors
    /// When the host has given the body away, which does not happen to a request that the SDK made.
    pub fn into_reader(self) -> Result<Reader, Error> {
        Reader::new(self.inner.consume().map_err(|()| io::Error::other("the body was taken already"))?)
    }

    /// The whole body.
    ///
    /// # Errors
    /// 413 when it is longer than `limit` bytes, 500 when the caller broke off.
    pub fn bytes(self, limit: usize) -> Result<Vec<u8>, Error> {
        self.into_reader()?.bytes(limit)
    }

    /// The whole body, from JSON.
    ///
    /// # Errors
    /// 413 when it is longer than `limit` bytes, 400 (which says where) when it is not the JSON wanted.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(self, limit: usize) -> Result<T, Error> {
        serde_json::from_slice(&self.bytes(limit)?).map_err(Error::bad_request)
    }

    fn target(&self) -> &str {
        self.target.get_or_init(|| self.inner.path_with_query().unwrap_or_else(|| "/".into()))
    }
}
