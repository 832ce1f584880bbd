//! Outbound HTTP: build a [`Request`], [`send`](Request::send) it, read the [`Response`].
//!
//! For functions; only what the function's `egress` setting allows gets through. Without a timeout of its own a fetch is
//! bounded by the host's, and always by the invocation's deadline. Response bodies stream, so their size has no bound but
//! the one given to `bytes`.
//!
//! ```no_run
//! # use std::time::Duration;
//! # fn example() -> Result<(), dunlin_sdk::Error> {
//! let answer = dunlin_sdk::fetch::get("https://api.example.com/rates")?.timeout(Duration::from_secs(2)).send()?;
//! let rates = answer.bytes(64 * 1024)?;
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, FutureIncomingResponse, OutgoingRequest, RequestOptions, Scheme};

use crate::body::Body;
use crate::{Error, Reader, Writer, convert, task};

/// An outbound request that was not sent yet.
pub struct Request {
    method: Method,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
    timeout: Option<Duration>,
}

/// A GET of `url`.
///
/// # Errors
/// When `url` is not an absolute `http` or `https` URL.
pub fn get(url: &str) -> Result<Request, Error> {
    Request::new(Method::GET, url)
}

/// A POST of `body` to `url`.
///
/// # Errors
/// When `url` is not an absolute `http` or `https` URL.
pub fn post(url: &str, body: impl Into<Cow<'static, [u8]>>) -> Result<Request, Error> {
    Ok(Request::new(Method::POST, url)?.body(body))
}

impl Request {
    /// A request without a body.
    ///
    /// # Errors
    /// When `url` is not an absolute `http` or `https` URL.
    pub fn new(method: Method, url: &str) -> Result<Self, Error> {
        let uri: Uri = url.parse()?;
        match uri.scheme_str() {
            Some("http" | "https") if uri.authority().is_some() => {}
            _ => return Err(std::io::Error::other(format!("{url:?} is not an http or https URL")).into()),
        }
        Ok(Self { method, uri, headers: Vec::new(), body: Body::Empty, timeout: None })
    }

    /// Sets a header, replacing its values.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
        self
    }

    /// Sends these bytes.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        self.body = Body::Bytes(bytes.into());
        self
    }

    /// Sends what `write` makes, while it makes it.
    #[must_use]
    pub fn stream(mut self, write: impl FnOnce(&mut Writer) -> Result<(), Error> + 'static) -> Self {
        self.body = Body::Stream(Box::new(write));
        self
    }

    /// The longest wait for each of: the connection, the response's head, and any pause within its body.
    #[must_use]
    pub fn timeout(mut self, each: Duration) -> Self {
        self.timeout = Some(each);
        self
    }

    /// Sends it and waits for the response's head. `.await` does the same and leaves others their turn meanwhile.
    ///
    /// # Errors
    /// 504 after a timeout, 502 for every other failure, with [`Failed`] as the cause. A response of any status is no error.
    pub fn send(self) -> Result<Response, Error> {
        let sent = self.start()?;
        sent.answer.subscribe().block();
        sent.finish()
    }

    fn start(mut self) -> Result<Sent, Error> {
        self.body.announce(&mut self.headers);
        let headers = convert::headers_out(self.headers.iter().map(|(name, value)| (name, value)))?;
        let host = self.uri.authority().map_or("", |authority| authority.as_str()).to_owned();
        let request = OutgoingRequest::new(headers);
        let refused = |()| Failed { host: host.clone(), code: ErrorCode::HttpRequestUriInvalid };
        let scheme = if self.uri.scheme_str() == Some("http") { Scheme::Http } else { Scheme::Https };
        request.set_method(&convert::method_out(&self.method)).map_err(refused)?;
        request.set_scheme(Some(&scheme)).map_err(refused)?;
        request.set_authority(Some(&host)).map_err(refused)?;
        request.set_path_with_query(self.uri.path_and_query().map(|path| path.as_str())).map_err(refused)?;
        let body = request.body().map_err(refused)?;
        let answer = outgoing_handler::handle(request, self.timeout.map(options))
            .map_err(|code| Failed { host: host.clone(), code }.into_error())?;
        // A server may answer without reading all; then its answer counts, and if there is none, why there is none.
        let body = self.body.send(body);
        Ok(Sent { host, answer, body })
    }
}

impl IntoFuture for Request {
    type Output = Result<Response, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let sent = self.start()?;
            task::ready(sent.answer.subscribe()).await;
            sent.finish()
        })
    }
}

/// A request on its way.
struct Sent {
    host: String,
    answer: FutureIncomingResponse,
    body: Result<(), Error>,
}

impl Sent {
    /// What was answered; to be called when `answer` is ready.
    fn finish(self) -> Result<Response, Error> {
        let Self { host, answer, body } = self;
        let failed = |code| Failed { host, code }.into_error();
        match answer.get() {
            Some(Ok(Ok(response))) => Response::new(&response),
            Some(Ok(Err(code))) => Err(failed(code)),
            _ => Err(body.err().unwrap_or_else(|| failed(ErrorCode::InternalError(None)))),
        }
    }
}

fn options(each: Duration) -> RequestOptions {
    let options = RequestOptions::new();
    let nanoseconds = Some(u64::try_from(each.as_nanos()).unwrap_or(u64::MAX));
    // A host may not support one of them; the invocation's deadline still holds.
    let _ = options.set_connect_timeout(nanoseconds);
    let _ = options.set_first_byte_timeout(nanoseconds);
    let _ = options.set_between_bytes_timeout(nanoseconds);
    options
}

/// What another server answered.
pub struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Reader,
}

impl Response {
    fn new(response: &wasip2::http::types::IncomingResponse) -> Result<Self, Error> {
        let body = response.consume().map_err(|()| std::io::Error::other("the body was taken already"))?;
        Ok(Self {
            status: StatusCode::from_u16(response.status())?,
            headers: convert::headers_in(&response.headers()),
            body: Reader::new(body)?,
        })
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The body as a stream.
    pub fn into_reader(self) -> Reader {
        self.body
    }

    /// The whole body.
    ///
    /// # Errors
    /// 502 when it is longer than `limit` bytes or breaks off.
    pub fn bytes(self, limit: usize) -> Result<Vec<u8>, Error> {
        self.body.bytes(limit).map_err(|error| Error::new(StatusCode::BAD_GATEWAY, error.to_string()))
    }

    /// The whole body, from JSON.
    ///
    /// # Errors
    /// 502 when it is longer than `limit` bytes, breaks off, or is not the JSON wanted.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(self, limit: usize) -> Result<T, Error> {
        serde_json::from_slice(&self.bytes(limit)?).map_err(|error| Error::new(StatusCode::BAD_GATEWAY, error))
    }
}

/// Why no response came.
#[derive(Debug)]
pub struct Failed {
    /// Host and port of the request.
    pub host: String,
    /// The host's reason.
    pub code: ErrorCode,
}

impl Failed {
    fn into_error(self) -> Error {
        let timed_out = matches!(
            self.code,
            ErrorCode::DnsTimeout
                | ErrorCode::ConnectionTimeout
                | ErrorCode::ConnectionReadTimeout
                | ErrorCode::ConnectionWriteTimeout
                | ErrorCode::HttpResponseTimeout
        );
        Error::new(if timed_out { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY }, self)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "fetching from {}: {:?}", self.host, self.code)
    }
}

impl std::error::Error for Failed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_an_absolute_http_url() {
        for url in ["/path", "ftp://example.com/", "example.com", "http:///"] {
            assert!(get(url).is_err(), "{url}");
        }
        assert!(get("https://example.com:8443/a?b").is_ok());
    }

    #[test]
    fn a_timeout_is_the_gateways_and_the_rest_is_bad() {
        let status = |code| Failed { host: "example.com".into(), code }.into_error().status();
        assert_eq!(status(ErrorCode::ConnectionTimeout), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(status(ErrorCode::HttpRequestDenied), StatusCode::BAD_GATEWAY);
    }
}
