//! One HTTP request from hyper to hyper: checked, routed, run, answered.
//!
//! Each connection has one [`Front`]. The function's future runs inside the connection's own poll (HTTP/1.1) or stream
//! task (HTTP/2), so that a client that leaves cancels it. What a request allocates here: one buffer for made identifiers,
//! one flag for who runs it, and with a body one box for its stream.

use bytes::Bytes;
use dunlin_api::{Body, BodyError, Invoke};
use http::{Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use super::{
    Shared,
    arrival::{Arrival, Dice},
    asking,
    exchange::Exchange,
    fields::{Survey, TIMING, strip},
    pulse::{Busy, Pulse},
    refusal,
};
use crate::{calls::http::RESERVED, metrics::Trigger};

/// The requests of one connection.
pub(super) struct Front<I> {
    shared: Arc<Shared<I>>,
    pub pulse: Arc<Pulse>,
    dice: Dice,
}

impl<I: Invoke> Front<I> {
    pub(super) fn new(shared: Arc<Shared<I>>, pulse: Arc<Pulse>) -> Self {
        Self { shared, pulse, dice: Dice::default() }
    }

    /// Answers `request`; `busy` marks it as in flight until the response's body is gone.
    pub(super) async fn serve(&self, mut request: Request<Incoming>, busy: Busy) -> Response<Reply> {
        let Shared { router, config, .. } = &*self.shared;
        let version = request.version();
        if !request.body().is_end_stream() {
            self.pulse.had_body.store(true, Relaxed);
        }
        if version == Version::HTTP_10 {
            self.pulse.old_client.store(true, Relaxed);
        }
        let seen = Survey::of(request.headers());
        if let Err(refusal) = refusal::check(&mut request, seen, config) {
            tracing::debug!(?refusal, "refused a request");
            router.metrics().malformed();
            return Reply::wrap(refusal.response(version), busy);
        }
        if request.uri().path() == "*" {
            // OPTIONS * asks about the server, not about a function.
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Reply::wrap(response, busy);
        }
        if let Some(calls) = &self.shared.calls
            && request.uri().path().starts_with(RESERVED)
        {
            return Reply::wrap(Box::pin(asking::about(&**calls, &request)).await, busy);
        }
        let headers = request.headers_mut();
        strip(headers, seen);
        if seen.timing {
            headers.remove(TIMING);
        }
        let arrival = Arrival::of(headers, seen, &self.dice);
        let (parts, body) = request.into_parts();
        let revision = router.route(refusal::host(&parts), parts.uri.path(), &parts.method, self.dice.roll());
        let request = Request::from_parts(parts, body);
        if seen.prefer
            && let (Some(calls), Ok(revision)) = (&self.shared.calls, &revision)
            && let Some(preferences) = asking::preferences(request.headers())
        {
            let accepted = asking::submit(&**calls, revision, request, preferences, &arrival);
            return Reply::wrap(Box::pin(accepted).await.onto(version), busy);
        }
        let (metrics, timing) = (&**router.metrics(), seen.timing || config.always_timing);
        let exchange = Exchange { config, metrics, trigger: Trigger::Http, arrival, timing };
        Reply::wrap(exchange.run(&**router, revision, request).await.onto(version), busy)
    }
}

/// A response's body on its way out. Keeps to the length that its head promised: too much or too little is an error, on
/// which hyper cuts the connection or resets the stream, so that no client takes it for complete.
pub(super) struct Reply {
    body: Body,
    left: Option<u64>,
    _busy: Busy,
}

impl Reply {
    fn wrap(response: Response<Body>, busy: Busy) -> Response<Self> {
        let length =
            response.headers().get(header::CONTENT_LENGTH).filter(|_| matches!(response.body(), Body::Stream(_)));
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        response.map(|body| Self { body, left, _busy: busy })
    }

    fn check(&mut self, frame: Option<&Frame<Bytes>>) -> Result<(), BodyError> {
        let Some(left) = self.left else { return Ok(()) };
        match frame.map(|frame| frame.data_ref().map_or(0, |data| data.len() as u64)) {
            None if left > 0 => Err(format!("the response ended {left} bytes before its content-length").into()),
            None => Ok(()),
            Some(length) => {
                self.left = Some(left.checked_sub(length).ok_or("the response goes on after its content-length")?);
                Ok(())
            }
        }
    }
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose();
        let checked = frame.and_then(|frame| this.check(frame.as_ref()).map(|()| frame));
        if let Err(error) = &checked {
            tracing::debug!(%error, "cut a response");
        }
        Poll::Ready(checked.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
