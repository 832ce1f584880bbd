//! One call on its way: from the moment it was sent until its answer's head is there.

use bytes::Bytes;
use dunlin_api::{Body, InvokeError, Load, RanOn};
use http::{Response, StatusCode};
use std::{mem, sync::Arc};
use tokio::{
    pin, select,
    time::{Instant, sleep_until},
};

use super::{
    Failed, LOST, RemoteCall, Seen, SendBody,
    calls::{Event, Reply, Slot},
    download::Download,
    frame::{self, Frame, Kind, Unreadable},
    gateway::{Remotes, warn},
    inbound::Streams,
};

/// A call that was sent.
pub(super) struct Flight<'a> {
    remotes: &'a Remotes,
    slot: Slot,
    call: RemoteCall,
    accepted: bool,
    load: Option<Load>,
}

impl<'a> Flight<'a> {
    pub(super) fn new(remotes: &'a Remotes, slot: Slot, call: RemoteCall) -> Self {
        Self { remotes, slot, call, accepted: false, load: None }
    }

    /// Waits for the frame that ends the wait for a head.
    pub(super) async fn answer(&mut self, silent_at: Instant) -> Result<Frame, Seen> {
        let timer = sleep_until(silent_at.min(self.call.deadline));
        pin!(timer);
        loop {
            let call = self.slot.call.clone();
            select! {
                biased;
                event = call.event() => match event {
                    Event::Reply(reply) => return self.reply(reply),
                    Event::Accepted(accept) => {
                        self.accepted = true;
                        self.load = Some(accept.load);
                        self.send_rest(accept.credit);
                        timer.as_mut().reset((Instant::now() + LOST).min(self.call.deadline));
                    }
                },
                () = &mut timer => {
                    let later = self.overdue()?;
                    timer.as_mut().reset(later.min(self.call.deadline));
                }
            }
        }
    }

    fn reply(&mut self, reply: Reply) -> Result<Frame, Seen> {
        match reply {
            Reply::Frame(frame) => Ok(frame),
            Reply::Cut if self.accepted => Err(Seen::Lost),
            Reply::Cut => Err(Seen::Silent),
            Reply::NoResponders => {
                self.slot.over = true;
                Err(Seen::NoResponders)
            }
            Reply::Unreadable(error) => Err(self.unreadable(&error)),
        }
    }

    /// When to look again, unless the call is to be given up.
    fn overdue(&self) -> Result<Instant, Seen> {
        let now = Instant::now();
        let lost = self.slot.call.heard().map_or(now, |heard| heard + LOST);
        if now >= self.call.deadline {
            Err(Seen::Deadline)
        } else if !self.accepted {
            Err(Seen::Silent)
        } else if now >= lost {
            Err(Seen::Lost)
        } else {
            Ok(lost)
        }
    }

    fn send_rest(&mut self, credit: u64) {
        if let SendBody::Stream { rest, .. } = &mut self.call.body {
            let rest = mem::take(rest);
            self.slot.call.valve.grant(credit);
            self.remotes.upload(self.slot.call.clone(), rest);
        }
    }

    /// Something ran there, but what came of it is not known.
    fn unreadable(&self, error: &Unreadable) -> Seen {
        let node = &self.slot.call.peer.name;
        let error = format!("the answer of the node `{node}` cannot be read: {error}");
        Seen::Answered { error: InvokeError::Internal(error), started: true }
    }

    /// Makes of the last frame what the caller gets.
    #[expect(clippy::result_large_err, reason = "as for `Remotes::invoke`")]
    pub(super) fn land(mut self, reply: &Frame, streams: &Arc<Streams>) -> Result<Response<Body>, Failed> {
        // Only an answer that streams leaves something to cancel.
        self.slot.over = true;
        if reply.kind != Kind::Answer {
            let seen = self.refusal(reply).unwrap_or_else(|error| self.unreadable(&error));
            return Err(self.failed(seen));
        }
        match self.response(reply) {
            Ok((mut response, Some(first))) => {
                let inbound = streams.open(self.slot.call.key, self.slot.call.peer.control.clone());
                let body = Download::begin(first, inbound, self.slot, self.call.deadline);
                *response.body_mut() = Body::stream(body);
                Ok(response)
            }
            Ok((response, None)) => Ok(response),
            Err(error) => {
                let seen = self.unreadable(&error);
                Err(self.failed(seen))
            }
        }
    }

    fn refusal(&mut self, reply: &Frame) -> Result<Seen, Unreadable> {
        match reply.kind {
            Kind::Refused => {
                let refused = reply.head::<frame::Refused>()?;
                self.load = Some(refused.load);
                Ok(Seen::Refused(refused.why))
            }
            Kind::Failed => {
                let failed = reply.head::<frame::Failed>()?;
                self.load = Some(failed.load);
                Ok(Seen::Answered { error: failed.error, started: failed.started })
            }
            Kind::Unreadably => {
                let reason = not_understood(reply);
                warn(&self.slot.call.peer, &reason);
                Ok(Seen::Refused(InvokeError::Internal(reason)))
            }
            _ => Err(Unreadable::Malformed),
        }
    }

    /// The answer; with the beginning of its body if that streams.
    fn response(&self, reply: &Frame) -> Result<(Response<Body>, Option<Bytes>), Unreadable> {
        let (answer, tail) = reply.parts::<frame::Answer>()?;
        let (fields, first) = tail.split(answer.fields, answer.body)?;
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::from_u16(answer.status).map_err(|_| Unreadable::Malformed)?;
        *response.headers_mut() = fields;
        let extensions = response.extensions_mut();
        extensions.insert(RanOn(self.slot.call.peer.name.clone()));
        extensions.insert(answer.load);
        if let Some(timing) = answer.timing {
            extensions.insert(timing);
        }
        if answer.streamed {
            return Ok((response, Some(first)));
        }
        if !first.is_empty() {
            *response.body_mut() = Body::full(first);
        }
        Ok((response, None))
    }

    pub(super) fn failed(self, seen: Seen) -> Failed {
        let Self { call, accepted, load, .. } = self;
        // An accepted stream was begun to be read.
        let kept = !accepted || matches!(call.body, SendBody::Kept(_));
        Failed { seen, load, call: kept.then_some(call) }
    }
}

/// What a node says about a frame that it could not read.
pub(super) fn not_understood(reply: &Frame) -> String {
    let reason = reply.head::<frame::Unreadably<'_>>();
    format!("the node cannot read this node's frame: {}", reason.map_or("it speaks another version", |r| r.reason))
}
