//! The body of an answer that streams from another node.

use bytes::Bytes;
use dunlin_api::BodyError;
use http_body::Frame as Part;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    LOST,
    calls::{Event, Reply, Slot},
    frame::{Failed, Frame},
    inbound::Inbound,
};

/// Its beginning, then what arrives. It breaks when the node is lost or the deadline passes; dropping it cancels the run.
pub(super) struct Download {
    first: Option<Bytes>,
    inbound: Inbound,
    slot: Slot,
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Download {
    /// Lets the node send on, and follows it.
    pub(super) fn begin(first: Bytes, inbound: Inbound, mut slot: Slot, deadline: Instant) -> Self {
        slot.over = false;
        inbound.begin();
        let first = Some(first).filter(|first| !first.is_empty());
        let timer = Box::pin(sleep_until(deadline.min(Instant::now() + LOST)));
        Self { first, inbound, slot, deadline, timer }
    }

    /// What ends the body before its end, if anything does now.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        while let Poll::Ready(event) = self.slot.call.poll(cx) {
            if let Event::Reply(reply) = event {
                return Poll::Ready(match reply {
                    Reply::Frame(frame) => self.failed(&frame),
                    _ => format!("the node `{}` was lost", self.slot.call.peer.name),
                });
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let heard = self.slot.call.heard().max(Some(self.inbound.heard()));
            let lost = heard.map_or(now, |heard| heard + LOST);
            if now >= self.deadline {
                return Poll::Ready("the deadline passed".into());
            }
            if now >= lost {
                return Poll::Ready(format!("the node `{}` was lost", self.slot.call.peer.name));
            }
            self.timer.as_mut().reset(lost.min(self.deadline));
        }
    }

    fn failed(&mut self, frame: &Frame) -> String {
        self.slot.over = true;
        match frame.head::<Failed>() {
            Ok(failed) => failed.error.to_string(),
            Err(error) => format!("a frame of the node `{}` cannot be read: {error}", self.slot.call.peer.name),
        }
    }
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Part<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Part::data(first))));
        }
        if let Poll::Ready(part) = this.inbound.poll(cx) {
            // After the end, and after the trailers, the run is over there too.
            this.slot.over |= part.as_ref().is_none_or(|part| part.as_ref().is_ok_and(Part::is_trailers));
            return Poll::Ready(part);
        }
        this.poll_broken(cx).map(|reason| Some(Err(reason.into())))
    }
}
