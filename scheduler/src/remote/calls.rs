//! The calls in flight from this gateway: a table whose places name the replies.
//!
//! A call takes a place, and its replies come to the subject that ends with the place's number; each also carries the
//! call's key, so that a late one meets no other call. Only a "no responders" of the server carries none: a place whose
//! call was left before anything was heard is not used again for [`REST`], after which no such message can be under way.
//! Bounded by `RemoteConfig::max_in_flight`, and four times as many places, made when they are first needed.

use async_nats::Subject;
use dunlin_api::NodeName;
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::Instant;

use super::{
    frame::{Accept, Cancel, Credit, Frame, Key, Kind, Unreadable, encode},
    link::{Outbox, lock},
    valve::Valve,
};
use crate::subjects::Subjects;

/// Longer than NATS keeps a message under way on a connection that stands.
const REST: Duration = Duration::from_secs(10);

/// Another node, as seen from here.
pub(super) struct Peer {
    pub(super) name: NodeName,
    pub(super) invoke: Subject,
    pub(super) control: Subject,
    pub(super) upload: Subject,
    pub(super) in_flight: AtomicU32,
    /// Frames that came from it.
    heard: AtomicU32,
    /// What that was when it was last looked at.
    looked: AtomicU32,
    /// Whether a frame of it could not be read, which is said once.
    pub(super) warned: AtomicBool,
}

impl Peer {
    pub(super) fn new(name: &NodeName, subjects: &Subjects) -> Self {
        Self {
            name: name.clone(),
            invoke: subjects.invoke(name).into(),
            control: subjects.control(name).into(),
            upload: subjects.upload(name).into(),
            in_flight: AtomicU32::default(),
            heard: AtomicU32::default(),
            looked: AtomicU32::default(),
            warned: AtomicBool::default(),
        }
    }

    /// Whether calls wait for it and nothing came from it since this was last asked.
    pub(super) fn is_quiet(&self) -> bool {
        let heard = self.heard.load(Ordering::Relaxed);
        self.looked.swap(heard, Ordering::Relaxed) == heard && self.in_flight.load(Ordering::Relaxed) > 0
    }
}

/// One call, ping or preparation in flight.
pub(super) struct Call {
    pub(super) key: Key,
    pub(super) peer: Arc<Peer>,
    /// Lets its request body through.
    pub(super) valve: Valve,
    state: Mutex<State>,
}

struct State {
    heard: Option<Instant>,
    accepted: Option<Accept>,
    told: bool,
    reply: Option<Reply>,
    waker: Option<Waker>,
}

/// What comes for a call.
pub(super) enum Event {
    /// It was begun.
    Accepted(Accept),
    /// Nothing else will come on this subject, but an error in the middle of the answer's body.
    Reply(Reply),
}

/// What ends the wait for a call.
pub(super) enum Reply {
    /// A frame other than accept, progress and credit.
    Frame(Frame),
    /// The server knows nobody who listens.
    NoResponders,
    /// A frame that cannot be read: something ran there.
    Unreadable(Unreadable),
    /// The node or the connection is lost.
    Cut,
}

impl Call {
    /// What came since; waits if nothing did.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut state = lock(&self.state);
        if let (Some(accept), false) = (state.accepted, state.told) {
            state.told = true;
            return Poll::Ready(Event::Accepted(accept));
        }
        match state.reply.take() {
            Some(reply) => Poll::Ready(Event::Reply(reply)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) async fn event(&self) -> Event {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// When the node was last heard of about this call.
    pub(super) fn heard(&self) -> Option<Instant> {
        lock(&self.state).heard
    }

    /// Fails the call: the node or the connection is lost.
    pub(super) fn cut(&self) {
        let mut state = lock(&self.state);
        state.reply.get_or_insert(Reply::Cut);
        state.wake();
    }

    pub(super) fn unreadable(&self, error: Unreadable) {
        let mut state = lock(&self.state);
        state.heard = Some(Instant::now());
        state.reply = Some(Reply::Unreadable(error));
        state.wake();
    }

    fn no_responders(&self) {
        let mut state = lock(&self.state);
        if state.heard.is_none() {
            state.heard = Some(Instant::now());
            state.reply = Some(Reply::NoResponders);
            state.wake();
        }
    }

    fn frame(&self, frame: Frame) {
        self.peer.heard.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&self.state);
        state.heard = Some(Instant::now());
        match frame.kind {
            Kind::Progress => return,
            Kind::Credit => match frame.head::<Credit>() {
                Ok(credit) => return self.valve.grant(credit.bytes),
                Err(error) => state.reply = Some(Reply::Unreadable(error)),
            },
            Kind::Accept => match frame.head::<Accept>() {
                Ok(accept) => state.accepted = Some(accept),
                Err(error) => state.reply = Some(Reply::Unreadable(error)),
            },
            _ => state.reply = Some(Reply::Frame(frame)),
        }
        state.wake();
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The table.
pub(super) struct Calls {
    /// What replies' subjects begin with, with its dot.
    prefix: String,
    outbox: Outbox,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    all: Vec<Place>,
    taken: usize,
    /// The last one freed is used first: few subjects stay hot.
    free: Vec<usize>,
    resting: VecDeque<(Instant, usize)>,
}

struct Place {
    reply: Subject,
    call: Option<Arc<Call>>,
}

impl Calls {
    pub(super) fn new(replies: &str, outbox: Outbox) -> Arc<Self> {
        Arc::new(Self { prefix: format!("{replies}."), outbox, places: Mutex::default() })
    }

    /// Gives a call a place; none if `max` are taken.
    pub(super) fn enter(self: &Arc<Self>, key: Key, peer: Arc<Peer>, max: u32) -> Option<Slot> {
        let state = State { heard: None, accepted: None, told: false, reply: None, waker: None };
        let call = Arc::new(Call { key, peer, valve: Valve::default(), state: Mutex::new(state) });
        let mut places = lock(&self.places);
        let index = places.vacant(max as usize, &self.prefix)?;
        let place = &mut places.all[index];
        place.call = Some(call.clone());
        let reply = place.reply.clone();
        drop(places);
        call.peer.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Slot { calls: self.clone(), index, call, reply, over: true })
    }

    /// The call that a message to `subject` is for, if it is still there.
    fn find(&self, subject: &str) -> Option<Arc<Call>> {
        let index: usize = subject.strip_prefix(&self.prefix)?.parse().ok()?;
        lock(&self.places).all.get(index)?.call.clone()
    }

    /// Nobody listens for the call that a message to `subject` is for.
    pub(super) fn no_responders(&self, subject: &str) {
        if let Some(call) = self.find(subject) {
            call.no_responders();
        }
    }

    /// Hands a frame to its call.
    pub(super) fn take(&self, subject: &str, frame: Frame) {
        if let Some(call) = self.find(subject).filter(|call| call.key == frame.key) {
            call.frame(frame);
        }
    }

    /// The call that `key` belongs to, if it waits at `subject`.
    pub(super) fn known(&self, subject: &str, key: Key) -> Option<Arc<Call>> {
        self.find(subject).filter(|call| call.key == key)
    }

    /// Fails the calls that `affected` says.
    pub(super) fn cut(&self, affected: impl Fn(&Call) -> bool) {
        let places = lock(&self.places);
        let calls = places.all.iter().filter_map(|place| place.call.as_ref());
        let calls: Vec<_> = calls.filter(|call| affected(call)).cloned().collect();
        drop(places);
        calls.iter().for_each(|call| call.cut());
    }
}

impl Places {
    fn vacant(&mut self, max: usize, prefix: &str) -> Option<usize> {
        if self.taken >= max {
            return None;
        }
        self.taken += 1;
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        // So many that rest at once mean that nobody answers at all; then the oldest must do.
        let full = self.all.len() >= max.saturating_mul(4);
        if self.resting.front().is_some_and(|(since, _)| full || since.elapsed() > REST) {
            return self.resting.pop_front().map(|(_, index)| index);
        }
        let index = self.all.len();
        self.all.push(Place { reply: format!("{prefix}{index}").into(), call: None });
        Some(index)
    }
}

/// A call's place. Dropping it frees the place, ends the request body, and cancels the run unless the call is over.
pub(super) struct Slot {
    calls: Arc<Calls>,
    index: usize,
    pub(super) call: Arc<Call>,
    /// Where its replies come.
    pub(super) reply: Subject,
    /// Whether there is nothing to cancel; a call is over before it is sent.
    pub(super) over: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.call.valve.shut();
        self.call.peer.in_flight.fetch_sub(1, Ordering::Relaxed);
        let unheard = self.call.heard().is_none();
        if !self.over {
            let cancel = encode(self.call.key, &Cancel);
            if !self.calls.outbox.post(self.call.peer.control.clone(), cancel) {
                tracing::warn!(node = %self.call.peer.name, "a call was not cancelled: too many frames wait to be sent");
            }
        }
        let mut places = lock(&self.calls.places);
        places.all[self.index].call = None;
        places.taken -= 1;
        if unheard {
            places.resting.push_back((Instant::now(), self.index));
        } else {
            places.free.push(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Arc<Peer> {
        Arc::new(Peer::new(&"node".parse().unwrap(), &Subjects::of(&"test".parse().unwrap())))
    }

    #[test]
    fn a_peer_is_quiet_if_calls_wait_and_nothing_came_since() {
        let peer = peer();
        assert!(!peer.is_quiet());
        peer.in_flight.store(1, Ordering::Relaxed);
        assert!(peer.is_quiet());
        peer.heard.fetch_add(1, Ordering::Relaxed);
        assert!(!peer.is_quiet());
        assert!(peer.is_quiet());
    }

    #[test]
    fn a_place_is_used_again_at_once_only_if_its_call_was_heard_of() {
        let (outbox, _posted) = Outbox::new(8);
        let calls = Calls::new("r", outbox);
        let enter = |id| calls.enter(Key { id, attempt: 0 }, peer(), 1);
        let first = enter(1).unwrap();
        calls.no_responders("r.0");
        drop(first);
        let unheard = enter(2).unwrap();
        assert_eq!(unheard.reply.as_str(), "r.0");
        drop(unheard);
        // A "no responders" for call 2 may still be under way to place 0.
        let third = enter(3).unwrap();
        assert_eq!(third.reply.as_str(), "r.1");
        assert!(enter(4).is_none(), "one is in flight already");
        calls.no_responders("r.0");
        assert!(third.call.heard().is_none());
    }
}
