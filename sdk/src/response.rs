//! The response a function gives.
//!
//! Made by functions, sent by the macro's glue. The head leaves first, then the body, so a caller sees the first bytes of
//! a stream while the function still writes the rest.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode, header};
use wasip2::http::types::{ErrorCode, OutgoingResponse, ResponseOutparam};

use crate::body::Body;
use crate::{Error, Reader, Writer, convert, error};

/// Status, headers and a body.
pub struct Response {
    status: StatusCode,
    // A list: the few that a function sets need no hash map, which would be a quarter of a small component.
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
}

impl Response {
    /// A response without a body.
    pub fn new(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Body::Empty }
    }

    /// 200 with these bytes and no content type.
    pub fn bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { status: StatusCode::OK, headers: Vec::new(), body: Body::Bytes(bytes.into()) }
    }

    /// 200 with plain text.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        let bytes: Cow<'static, [u8]> = match text.into() {
            Cow::Borrowed(text) => text.as_bytes().into(),
            Cow::Owned(text) => text.into_bytes().into(),
        };
        Self::bytes(bytes).with_content_type("text/plain; charset=utf-8")
    }

    /// 200 with `value` as JSON.
    ///
    /// # Errors
    /// When it cannot be written as JSON, for example a map whose keys are not texts.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        Ok(Self::bytes(serde_json::to_vec(value)?).with_content_type("application/json"))
    }

    /// 200 with a body that `write` makes after the head has left. When it fails, the connection is cut: the caller can
    /// tell a broken body from a finished one.
    pub fn stream(write: impl FnOnce(&mut Writer) -> Result<(), Error> + 'static) -> Self {
        Self { status: StatusCode::OK, headers: Vec::new(), body: Body::Stream(Box::new(write)) }
    }

    /// 200 with the rest of an incoming body and its trailers, passed on as it arrives.
    pub fn forward(mut reader: Reader) -> Self {
        Self::stream(move |writer| {
            writer.copy_from(&mut reader)?;
            writer.set_trailers(reader.trailers()?);
            Ok(())
        })
    }

    /// Replaces the status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Sets a header, replacing its values.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
        self
    }

    /// Adds a header, keeping the values it has; for `set-cookie` and its like.
    #[must_use]
    pub fn with_added_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sets `content-type` to a media type written in the source.
    ///
    /// # Panics
    /// When it is not visible ASCII.
    #[must_use]
    pub fn with_content_type(self, media_type: &'static str) -> Self {
        self.with_header(header::CONTENT_TYPE, HeaderValue::from_static(media_type))
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers, in the order in which they were set.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The bytes of a body that is no stream.
    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self.body {
            Body::Empty => Vec::new(),
            Body::Bytes(bytes) => bytes.into_owned(),
            Body::Stream(_) => panic!("the body is a stream"),
        }
    }

    /// Sends it; an error means that the body was not finished. Headers that the host refuses make a 500.
    pub(crate) fn send(mut self, out: ResponseOutparam) -> Result<(), Error> {
        self.body.announce(&mut self.headers);
        let response = match convert::headers_out(self.headers.iter().map(|(name, value)| (name, value))) {
            Ok(fields) => OutgoingResponse::new(fields),
            Err(refused) => {
                error::log("the host refused the response's headers", &refused);
                ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("response headers refused".into()))));
                return Ok(());
            }
        };
        let fresh = "a response just made takes a valid status and has its body";
        response.set_status_code(self.status.as_u16()).expect(fresh);
        let body = response.body().expect(fresh);
        ResponseOutparam::set(out, Ok(response));
        self.body.send(body)
    }
}

/// What a function may return.
pub trait IntoResponse {
    /// The response to send.
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl<T: IntoResponse, E: Into<Error>> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(answer) => answer.into_response(),
            Err(error) => error.into().into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_its_status() {
        let answer: Result<Response, std::fmt::Error> = Err(std::fmt::Error);
        assert_eq!(answer.into_response().status(), StatusCode::INTERNAL_SERVER_ERROR);
        let answer: Result<Response, Error> = Err(Error::not_found("no such code"));
        assert_eq!(answer.into_response().status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn text_says_what_it_is() {
        let response = Response::text("hi").with_status(StatusCode::CREATED);
        assert_eq!(response.headers(), [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))]);
        assert_eq!(response.status(), StatusCode::CREATED);
    }

    #[test]
    fn sets_a_header_once_and_adds_it_twice() {
        let [a, b] = ["a=1", "b=2"].map(HeaderValue::from_static);
        let set = Response::text("").with_header(header::LOCATION, a.clone()).with_header(header::LOCATION, b.clone());
        assert_eq!(set.headers()[1..], [(header::LOCATION, b.clone())]);
        let added = Response::new(StatusCode::OK).with_added_header(header::SET_COOKIE, a);
        assert_eq!(added.with_added_header(header::SET_COOKIE, b).headers().len(), 2);
    }

    #[test]
    fn a_length_is_announced_unless_the_author_did() {
        let (mut none, mut given) = (Vec::new(), vec![(header::CONTENT_LENGTH, HeaderValue::from_static("7"))]);
        Body::Bytes(b"four".into()).announce(&mut none);
        Body::Bytes(b"four".into()).announce(&mut given);
        assert_eq!((&none[0].1, &given[0].1, given.len()), (&HeaderValue::from(4), &HeaderValue::from(7), 1));
    }
}
