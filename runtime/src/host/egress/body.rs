//! Bodies on their way out and in. Both are pulled by whoever receives them, so back-pressure is the receiver's pace.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};
use wasmtime_wasi_http::{Error, WasiBody};

use super::{error, headers::strip_hop_by_hop};

/// Empty frames that are skipped at once before others get their turn.
const EMPTY: usize = 32;

/// A request body without its empty frames: HTTP/2 queues each of them without bound (GHSA-f8mm-ggr3-89wh).
pub(super) struct Leaving(pub(super) WasiBody);

impl Body for Leaving {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        for _ in 0..EMPTY {
            match ready!(Pin::new(&mut self.0).poll_frame(cx)) {
                Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                Some(Ok(mut frame)) => {
                    if let Some(trailers) = frame.trailers_mut() {
                        strip_hop_by_hop(trailers);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                end => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A response body that gives up when nothing comes for too long, and holds its place among the open ones.
pub(super) struct Arriving {
    body: Incoming,
    between_bytes: Duration,
    deadline: Instant,
    /// Made when the guest first has to wait.
    timer: Option<Pin<Box<Sleep>>>,
    open: Option<OwnedSemaphorePermit>,
}

impl Arriving {
    pub(super) fn new(body: Incoming, between_bytes: Duration, deadline: Instant, open: OwnedSemaphorePermit) -> Self {
        Self { body, between_bytes, deadline, timer: None, open: Some(open) }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self { body, between_bytes, deadline, timer, open } = self.get_mut();
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(frame) => {
                *timer = None;
                if !matches!(frame, Some(Ok(_))) {
                    *open = None;
                }
                Poll::Ready(frame.map(|frame| {
                    let mut frame = frame.map_err(|error| error::receiving(&error))?;
                    if let Some(trailers) = frame.trailers_mut() {
                        strip_hop_by_hop(trailers);
                    }
                    Ok(frame)
                }))
            }
            Poll::Pending => {
                let until = || {
                    let now = Instant::now();
                    now.checked_add(*between_bytes).map_or(*deadline, |until| until.min(*deadline))
                };
                ready!(timer.get_or_insert_with(|| Box::pin(sleep_until(until()))).as_mut().poll(cx));
                *open = None;
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
