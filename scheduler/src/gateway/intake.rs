//! Request bodies on their way in: counted against the function's limit, and not waited for without end.
//!
//! [`Intake`] wraps every body that has bytes; a body without any costs nothing. When it fails, it says why in a
//! [`Fault`] that the gateway reads after the invocation: the function only saw a failed read, the client shall hear 413
//! or 408.

use bytes::Bytes;
use dunlin_api::{Body, BodyError, ByteSize, InvokeError};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

const TOO_LARGE: u8 = 1;
const TIMEOUT: u8 = 2;

/// What a request body may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub size: ByteSize,
    pub idle: Duration,
}

impl Bounds {
    fn error(self, fault: u8) -> Option<InvokeError> {
        match fault {
            TOO_LARGE => Some(InvokeError::BodyTooLarge(self.size)),
            TIMEOUT => Some(InvokeError::BodyTimeout(self.idle)),
            _ => None,
        }
    }
}

/// Why a body failed, if it did. None for a request without a body.
#[derive(Debug)]
pub(crate) struct Fault(Bounds, Option<Arc<AtomicU8>>);

impl Fault {
    pub(crate) fn error(&self) -> Option<InvokeError> {
        self.0.error(self.1.as_ref()?.load(Relaxed))
    }
}

/// Bounds `body`.
///
/// # Errors
/// `BodyTooLarge` if its length is known to be over the limit: nothing of it is read.
pub(crate) fn bounded<B>(body: B, bounds: Bounds) -> Result<(Body, Fault), InvokeError>
where
    B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
{
    if body.is_end_stream() {
        return Ok((Body::Empty, Fault(bounds, None)));
    }
    if body.size_hint().lower() > bounds.size.bytes() {
        return Err(InvokeError::BodyTooLarge(bounds.size));
    }
    let fault = Arc::new(AtomicU8::new(0));
    let left = bounds.size.bytes();
    let intake = Intake { body, bounds, left, waiting: None, timer: None, fault: fault.clone() };
    Ok((Body::stream(intake), Fault(bounds, Some(fault))))
}

struct Intake<B> {
    body: B,
    bounds: Bounds,
    left: u64,
    /// Since when nothing comes.
    waiting: Option<Instant>,
    /// Made when a body makes the function wait for the first time; then only moved forward.
    timer: Option<Pin<Box<Sleep>>>,
    fault: Arc<AtomicU8>,
}

impl<B> Intake<B> {
    fn fail<T>(&self, fault: u8) -> Poll<Option<Result<T, BodyError>>> {
        self.fault.store(fault, Relaxed);
        Poll::Ready(self.bounds.error(fault).map(|error| Err(error.into())))
    }

    /// Whether nothing came for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let until = *self.waiting.get_or_insert_with(Instant::now) + self.bounds.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= until {
                return true;
            }
            timer.as_mut().reset(until);
        }
        false
    }
}

impl<B> http_body::Body for Intake<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.fault.load(Relaxed) != 0 {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            return if this.is_late(cx) { this.fail(TIMEOUT) } else { Poll::Pending };
        };
        this.waiting = None;
        let frame = frame.transpose().map_err(Into::into)?;
        let length = frame.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        match this.left.checked_sub(length) {
            Some(left) => this.left = left,
            None => return this.fail(TOO_LARGE),
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full, StreamBody};

    const BOUNDS: Bounds = Bounds { size: ByteSize(5), idle: Duration::from_secs(30) };

    fn chunks(
        chunks: &[&'static str],
    ) -> impl http_body::Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static {
        let frames: Vec<_> = chunks.iter().map(|c| Ok(Frame::data(Bytes::from_static(c.as_bytes())))).collect();
        StreamBody::new(futures::stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_of_the_limit_passes_and_one_byte_more_does_not() {
        let (body, fault) = bounded(chunks(&["123", "45"]), BOUNDS).unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "12345");
        assert_eq!(fault.error(), None);
        let (body, fault) = bounded(chunks(&["123", "456"]), BOUNDS).unwrap();
        assert!(body.collect().await.is_err());
        assert_eq!(fault.error(), Some(InvokeError::BodyTooLarge(ByteSize(5))));
    }

    #[test]
    fn a_known_length_over_the_limit_is_refused_unread() {
        let result = bounded(Full::new(Bytes::from_static(b"123456")), BOUNDS);
        assert_eq!(result.err(), Some(InvokeError::BodyTooLarge(ByteSize(5))));
    }

    #[test]
    fn a_body_without_bytes_is_empty() {
        let (body, fault) = bounded(Full::new(Bytes::new()), BOUNDS).unwrap();
        assert!(matches!(body, Body::Empty) && fault.error().is_none());
    }

    #[tokio::test]
    async fn a_body_that_stops_is_waited_for_only_so_long() {
        let (send, receive) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
        let stream = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receive));
        let bounds = Bounds { idle: Duration::from_millis(20), ..BOUNDS };
        let (mut body, fault) = bounded(stream, bounds).unwrap();
        send.send(Ok(Frame::data(Bytes::from_static(b"1")))).await.unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
        assert_eq!(fault.error(), Some(InvokeError::BodyTimeout(bounds.idle)));
    }
}
