//! From a request with a resolved revision to the response a client may see: the invocation is built, run and judged in
//! one place, whoever asked for it.
//!
//! The HTTP front and the calls by name both run [`Exchange::run`]. It promises a response that HTTP allows, with the
//! caller's request id, and with timing where it was asked for. Its time is bounded by the invocation's deadline, which the
//! executor keeps.

use bytes::Bytes;
use dunlin_api::{Body, BodyError, Invocation, Invoke, InvokeError, RanOn, Revision, Started, Timing};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use std::{fmt::Write as _, sync::Arc, time::Duration};

use super::{
    arrival::Arrival,
    config::Config,
    fields::{REQUEST_ID, Survey, strip},
    intake::{Bounds, bounded},
};
use crate::metrics::{Metrics, Trigger};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const START: HeaderName = HeaderName::from_static("dunlin-start");
const REVISION: HeaderName = HeaderName::from_static("dunlin-revision");
const NODE: HeaderName = HeaderName::from_static("dunlin-node");

/// One request on its way through a function.
pub(super) struct Exchange<'a> {
    pub config: &'a Config,
    /// Where it is counted, and as what.
    pub metrics: &'a Metrics,
    pub trigger: Trigger,
    pub arrival: Arrival,
    /// Whether the response says where the time went.
    pub timing: bool,
}

/// A response, and whether the request was left half-read, so that nothing more can come on its connection.
pub(super) struct Outcome {
    pub response: Response<Body>,
    pub close: bool,
}

impl Outcome {
    /// The response as it goes onto a connection of `version`.
    pub(super) fn onto(mut self, version: Version) -> Response<Body> {
        if self.close && version < Version::HTTP_2 {
            self.response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.response
    }
}

impl Exchange<'_> {
    /// Runs `request` on `revision`, or answers the error there was instead of one.
    pub(super) async fn run<I, B>(
        &self,
        invoke: &I,
        revision: Result<Arc<Revision>, InvokeError>,
        request: Request<B>,
    ) -> Outcome
    where
        I: Invoke,
        B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
    {
        let line = tracing::enabled!(tracing::Level::DEBUG).then(|| request.uri().path().to_owned());
        let method = request.method().clone();
        let started = Started::default();
        let function = revision.as_ref().ok().map(|revision| &revision.function);
        let counting = self.metrics.begin(self.trigger, function, self.arrival.at);
        let result = match &revision {
            Ok(revision) => self.invoke(invoke, revision.clone(), request, started.clone()).await,
            Err(error) => Err(error.clone()),
        };
        let result = result.and_then(|response| presentable(response, &method));
        counting.end(&result);
        let revision = revision.ok();
        let close = matches!(result, Err(InvokeError::BodyTooLarge(_) | InvokeError::BodyTimeout(_)));
        let response = result.unwrap_or_else(|error| {
            log(&error, &self.arrival, revision.as_deref());
            error.to_response(self.arrival.id, started.get())
        });
        let response = self.sign(response, revision.as_deref());
        if let Some(path) = line {
            tracing::debug!(
                invocation = %self.arrival.id,
                function = revision.as_ref().map(|r| r.function.as_str()),
                revision = revision.as_ref().map(|r| r.id.as_str()),
                %method,
                path,
                status = response.status().as_u16(),
                micros = self.arrival.at.elapsed().as_micros() as u64,
                "answered"
            );
        }
        Outcome { response, close }
    }

    async fn invoke<I, B>(
        &self,
        invoke: &I,
        revision: Arc<Revision>,
        request: Request<B>,
        started: Started,
    ) -> Result<Response<Body>, InvokeError>
    where
        I: Invoke,
        B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
    {
        let limits = &revision.settings.limits;
        let deadline = self.arrival.at + limits.timeout;
        let (parts, body) = request.into_parts();
        let (body, fault) = bounded(body, Bounds { size: limits.request_body, idle: self.config.body_timeout })?;
        let request = Request::from_parts(parts, body);
        let Arrival { id, trace, .. } = self.arrival;
        let call = Invocation { revision, request, id, deadline, trace, started, last: false };
        let result = invoke.invoke(call).await;
        // A function that gave up because its request broke off is not to blame.
        let gave_up = result.as_ref().map_or(true, |response| response.status().is_server_error());
        match fault.error() {
            Some(error) if gave_up => Err(error),
            _ => result,
        }
    }

    /// Adds what the gateway says about the response.
    fn sign(&self, mut response: Response<Body>, revision: Option<&Revision>) -> Response<Body> {
        let timing = response.extensions().get::<Timing>().copied();
        let ran_on = response.extensions().get::<RanOn>().cloned();
        let headers = response.headers_mut();
        headers.entry(REQUEST_ID).or_insert_with(|| self.arrival.request_id.clone());
        if !self.timing {
            return response;
        }
        let mut text = String::new();
        if let Some(Timing { queue, load, instantiate, run, cold }) = timing {
            for (name, time) in [("queue", queue), ("load", load), ("instantiate", instantiate), ("run", run)] {
                entry(&mut text, name, time);
            }
            headers.insert(START, HeaderValue::from_static(if cold { "cold" } else { "warm" }));
        }
        entry(&mut text, "total", self.arrival.at.elapsed());
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(SERVER_TIMING, value);
        }
        if let Some(Ok(id)) = revision.map(|revision| HeaderValue::from_str(revision.id.as_str())) {
            headers.insert(REVISION, id);
        }
        let node = ran_on.and_then(|RanOn(node)| HeaderValue::from_str(node.as_str()).ok());
        headers.insert(NODE, node.unwrap_or_else(|| self.config.node.clone()));
        response
    }
}

/// One metric of a `Server-Timing` field, in milliseconds (W3C Server Timing §4).
fn entry(text: &mut String, name: &str, time: Duration) {
    let comma = if text.is_empty() { "" } else { ", " };
    let micros = time.as_micros();
    let _ = write!(text, "{comma}{name};dur={}.{:03}", micros / 1000, micros % 1000);
}

/// Operators hear of what the platform failed at; what the function or the caller did is theirs to see.
fn log(error: &InvokeError, arrival: &Arrival, revision: Option<&Revision>) {
    if matches!(error, InvokeError::Internal(_) | InvokeError::NotReady(_)) {
        let function = revision.map(|revision| revision.function.as_str());
        tracing::error!(invocation = %arrival.id, function, %error, "an invocation failed");
    }
}

/// Makes a function's response one that HTTP allows: no fields of a hop, a length that is the body's, no body where none
/// may be (RFC 9110 §6.4.1).
///
/// # Errors
/// `BadResponse` if it contradicts itself.
pub(crate) fn presentable(mut response: Response<Body>, method: &Method) -> Result<Response<Body>, InvokeError> {
    let status = response.status();
    if status.is_informational() {
        return Err(InvokeError::BadResponse(format!("{} is not the status of a final response", status.as_u16())));
    }
    let seen = Survey::of(response.headers());
    strip(response.headers_mut(), seen);
    let claimed = if seen.length { Some(claimed_length(response.headers_mut())?) } else { None };
    let exact = response.body().size_hint().exact();
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::Empty;
    } else if *method == Method::HEAD {
        if let (None, Some(length @ 1..)) = (claimed, exact) {
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Body::Empty;
    } else if let (Some(claimed), Some(exact)) = (claimed, exact)
        && claimed != exact
    {
        let text = format!("its content-length is {claimed}, its body has {exact} bytes");
        return Err(InvokeError::BadResponse(text));
    }
    Ok(response)
}

/// The one length that a response claims.
fn claimed_length(headers: &mut http::HeaderMap) -> Result<u64, InvokeError> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let first = values.next().unwrap_or_default();
    let same = values.all(|value| value == first);
    let digits = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(first).ok().filter(|_| same && digits).and_then(|text| text.parse().ok());
    let length = length.ok_or_else(|| InvokeError::BadResponse("its content-length is not one number".into()))?;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(status: u16, length: &[&str], body: Body, method: Method) -> Result<(Option<String>, u64), InvokeError> {
        let mut response = Response::builder().status(status);
        for length in length {
            response = response.header("content-length", *length);
        }
        let response = presentable(response.body(body).unwrap(), &method)?;
        let length = response.headers().get("content-length").map(|value| value.to_str().unwrap().to_owned());
        Ok((length, response.body().size_hint().exact().unwrap()))
    }

    #[test]
    fn a_claimed_length_must_be_the_bodys() {
        let five = || Body::full("12345");
        assert_eq!(present(200, &["5"], five(), Method::GET), Ok((Some("5".into()), 5)));
        assert_eq!(present(200, &["5", "5"], five(), Method::GET), Ok((Some("5".into()), 5)));
        for bad in [&["4"][..], &["6"], &["5", "6"], &["+5"], &["x"], &[""], &["99999999999999999999"]] {
            assert!(present(200, bad, five(), Method::GET).is_err(), "{bad:?}");
        }
        assert!(present(200, &["1"], Body::Empty, Method::GET).is_err());
    }

    #[test]
    fn what_has_no_body_gets_none_and_head_keeps_the_length() {
        assert_eq!(present(200, &["7"], Body::Empty, Method::HEAD), Ok((Some("7".into()), 0)));
        assert_eq!(present(200, &[], Body::full("12345"), Method::HEAD), Ok((Some("5".into()), 0)));
        assert_eq!(present(204, &["5"], Body::full("12345"), Method::GET), Ok((None, 0)));
        assert_eq!(present(304, &["5"], Body::full("12345"), Method::GET), Ok((None, 0)));
        assert!(present(101, &[], Body::Empty, Method::GET).is_err());
    }

    #[test]
    fn times_are_milliseconds_with_three_decimals() {
        let mut text = String::new();
        entry(&mut text, "queue", Duration::from_micros(1_234_567));
        entry(&mut text, "run", Duration::from_micros(8));
        assert_eq!(text, "queue;dur=1234.567, run;dur=0.008");
    }
}
