//! The response body: what the guest writes, as it writes it, driving the guest while it is read.

use bytes::Bytes;
use dunlin_api::{Body, BodyError, ByteSize, InvokeError};
use http::{HeaderMap, header};
use http_body::{Body as _, Frame, SizeHint};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use wasmtime_wasi_http::{Error, WasiBody};

use super::after::Run;
use crate::ready::Ready;

/// Makes the body of a response. A guest that has ended with one chunk written needs no stream: the chunk is sent with
/// the head in one write.
pub(crate) fn finish(ready: &Arc<Ready>, headers: &HeaderMap, mut body: WasiBody, run: Run) -> Body {
    let limit = ready.revision.settings.limits.response_body;
    let mut early = VecDeque::new();
    if run.ended() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || Pin::new(&mut body).poll_frame(&mut cx);
        let first = poll();
        let second = if matches!(first, Poll::Ready(Some(Ok(_)))) { poll() } else { Poll::Pending };
        match (first, second) {
            (Poll::Ready(None), _) => return Body::Empty,
            (Poll::Ready(Some(Ok(frame))), Poll::Ready(None)) => match frame.into_data() {
                Ok(data) if limit.is_none_or(|l| data.len() as u64 <= l.bytes()) => return Body::full(data),
                Ok(data) => early.push_back(Some(Ok(Frame::data(data)))),
                Err(other) => early.push_back(Some(Ok(other))),
            },
            (first, second) => {
                // What was read must be said, in this order, before the body is asked again.
                for frame in [first, second] {
                    if let Poll::Ready(frame) = frame {
                        early.push_back(frame);
                    }
                }
            }
        }
    }
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let left = limit.map(ByteSize::bytes);
    let driven = Driven { early, body, run: Some(run), ready: ready.clone(), left, declared, sent: 0, whole: false };
    Body::stream(driven)
}

/// A body that lets its guest run whenever it is read.
struct Driven {
    /// What was read before anybody asked.
    early: VecDeque<Option<Result<Frame<Bytes>, Error>>>,
    body: WasiBody,
    /// None once the guest was handed on.
    run: Option<Run>,
    ready: Arc<Ready>,
    /// Bytes that may still be sent, if the function has such a limit.
    left: Option<u64>,
    /// The length the guest declared.
    declared: Option<u64>,
    sent: u64,
    /// The end was read.
    whole: bool,
}

impl Driven {
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.early.pop_front() {
            return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
        }
        if let Some(run) = &mut self.run
            && let Poll::Ready(Err(error)) = run.poll(cx)
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(Into::into)))
    }

    fn count(&mut self, bytes: u64) -> Result<(), BodyError> {
        self.sent += bytes;
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left.checked_sub(bytes).ok_or_else(|| {
            let limit = self.ready.revision.settings.limits.response_body.unwrap_or_default();
            InvokeError::BadResponse(format!("its body is larger than limits.response_body = {limit}"))
        })?;
        Ok(())
    }
}

impl http_body::Body for Driven {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(this.poll_body(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |d| d.len() as u64);
                Some(this.count(bytes).map(|()| frame))
            }
            None => {
                this.whole = true;
                None
            }
            failed => failed,
        })
    }

    fn size_hint(&self) -> SizeHint {
        if !self.early.is_empty() { SizeHint::default() } else { self.body.size_hint() }
    }
}

impl Drop for Driven {
    /// A body that was read to its end, or to its declared length, leaves its guest time to finish; one that was
    /// abandoned takes it along.
    fn drop(&mut self) {
        let whole = self.whole || self.declared.is_some_and(|length| self.sent >= length);
        if let Some(run) = self.run.take()
            && whole
        {
            run.detach(&self.ready.node);
        }
    }
}
