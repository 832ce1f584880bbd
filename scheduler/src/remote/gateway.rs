//! The gateway's end: sends calls to other nodes and hands their answers back.
//!
//! One per node, made at its start and called by the router. One task reads all replies, one all chunks of bodies; both
//! only find the call and wake it. Whatever ends a connection fails the calls that stood on it at that moment, not at
//! their timeouts.

use dashmap::DashMap;
use dunlin_api::{Body, NodeName};
use http::Response;
use std::{
    borrow::Cow,
    mem,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Failed, RemoteCall, RemoteConfig, RemoteError, Seen, SendBody,
    calls::{Call, Calls, Peer, Slot},
    flight::Flight,
    frame::{self, Frame, Invoke, Key, encode_with},
    inbound::Streams,
    link::{Inbox, Once, Outbox, Posted, check_payload, connects, deliver, publish, unix_us},
    outbound::Outbound,
};
use crate::nats::Nats;

/// A node may begin a call so long after it was sent, or a quarter of its time. Longer than a starved machine needs to
/// look at its socket: silence costs a call that is not idempotent its answer.
const ACCEPT_WITHIN: Duration = Duration::from_millis(500);
/// What an answer that was sent in time may take to get here, clocks included.
const GRACE: Duration = Duration::from_millis(250);
/// How often a reconnection that nobody reported is looked for.
const WATCH: Duration = Duration::from_millis(250);

/// The other nodes, as whom calls are sent to.
pub struct Remotes {
    pub(super) nats: Nats,
    me: NodeName,
    pub(super) peers: DashMap<NodeName, Arc<Peer>>,
    calls: Arc<Calls>,
    streams: Arc<Streams>,
    uploads: TaskTracker,
    pub(super) max_in_flight: u32,
    parts: Once<Parts>,
}

/// What [`Remotes::run`] reads from.
struct Parts {
    replies: Inbox,
    downloads: Inbox,
    posted: Posted,
}

impl Remotes {
    /// Subscribes to what is sent to `me`. Nothing is received until [`run`](Self::run).
    ///
    /// # Errors
    /// When a subject cannot be received, or NATS takes only small messages.
    pub async fn start(nats: &Nats, me: &NodeName, config: RemoteConfig) -> Result<Arc<Self>, RemoteError> {
        check_payload(&nats.control)?;
        let (replies, download) = (nats.subjects.replies(me), nats.subjects.download(me));
        let (outbox, posted) = Outbox::new(config.max_in_flight);
        let parts = Parts {
            replies: Inbox::open(&nats.control, format!("{replies}.*"), format!("{replies}.start")).await?,
            downloads: Inbox::open(&nats.bulk, download.clone(), download).await?,
            posted,
        };
        Ok(Arc::new(Self {
            nats: nats.clone(),
            me: me.clone(),
            peers: DashMap::new(),
            calls: Calls::new(&replies, outbox.clone()),
            streams: Streams::new(config.buffer.bytes(), outbox),
            uploads: TaskTracker::new(),
            max_in_flight: config.max_in_flight,
            parts: Once::new(parts),
        }))
    }

    /// Receives until `stop`; then every call that is still in flight fails. The second run of one `Remotes` ends at once.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(parts) = self.parts.take() else { return };
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().replies(parts.replies));
        tasks.spawn(self.clone().downloads(parts.downloads));
        tasks.spawn(deliver(parts.posted, self.nats.control.clone(), CancellationToken::new()));
        tasks.spawn(self.clone().watch());
        stop.run_until_cancelled(tasks.join_next()).await;
        self.calls.cut(|_| true);
        self.streams.fail_all("this node stops");
        tasks.shutdown().await;
    }

    async fn replies(self: Arc<Self>, mut inbox: Inbox) {
        while let Some(message) = inbox.next().await {
            if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                self.calls.no_responders(&message.subject);
                continue;
            }
            match Frame::read(&message.payload) {
                Ok(frame) => self.calls.take(&message.subject, frame),
                Err(error) => {
                    let key = frame::key_of(&message.payload);
                    if let Some(call) = key.and_then(|key| self.calls.known(&message.subject, key)) {
                        warn(&call.peer, &error);
                        call.unreadable(error);
                    }
                }
            }
        }
    }

    async fn downloads(self: Arc<Self>, mut inbox: Inbox) {
        while let Some(message) = inbox.next().await {
            self.streams.take(&message.payload);
        }
    }

    /// Fails what stood on a connection that broke.
    async fn watch(self: Arc<Self>) {
        let mut connected = self.nats.connection();
        let mut control = connects(&self.nats.control);
        let mut bulk = connects(&self.nats.bulk);
        loop {
            let _ = timeout(WATCH, connected.changed()).await;
            let up = *connected.borrow_and_update();
            let again = mem::replace(&mut control, connects(&self.nats.control));
            if !up || again != control {
                self.calls.cut(|_| true);
            }
            if mem::replace(&mut bulk, connects(&self.nats.bulk)) != bulk {
                self.streams.fail_all("the connection to NATS broke");
                self.calls.cut(|call| call.valve.is_open());
            }
            if connected.has_changed().is_err() {
                // Nobody tells any more; the interval above still does.
                sleep(WATCH).await;
            }
        }
    }

    fn peer(&self, node: &NodeName) -> Arc<Peer> {
        if let Some(peer) = self.peers.get(node) {
            return peer.clone();
        }
        let made = || Arc::new(Peer::new(node, &self.nats.subjects));
        self.peers.entry(node.clone()).or_insert_with(made).clone()
    }

    /// Sends `call` to `node` and waits for its answer's head; the body streams. The answer says in its extensions where
    /// it ran ([`RanOn`](dunlin_api::RanOn)), how busy that node is ([`Load`](dunlin_api::Load)), and where the time went
    /// ([`Timing`](dunlin_api::Timing)). Dropping the future or the body cancels the run.
    ///
    /// # Errors
    /// What was seen of it instead, with the call itself if it can be sent again.
    #[expect(clippy::result_large_err, reason = "the caller takes the call back by value and sends it on")]
    pub async fn invoke(&self, node: &NodeName, call: RemoteCall, attempt: u8) -> Result<Response<Body>, Failed> {
        let now = Instant::now();
        let accept_by = now + ACCEPT_WITHIN.min(call.deadline.saturating_duration_since(now) / 4);
        let failed = |seen, call| Err(Failed { seen, load: None, call: Some(call) });
        if call.deadline <= now {
            return failed(Seen::Deadline, call);
        }
        let key = Key { id: call.id.as_u128(), attempt };
        let payload = self.invocation(key, &call, now, accept_by);
        let mut slot = match self.enter(key, node, self.max_in_flight) {
            Ok(slot) => slot,
            Err(why) => return failed(Seen::NotSent(why), call),
        };
        // From here on it may have been sent, also if this future is dropped in the middle.
        slot.over = false;
        let sent = publish(&self.nats.control, slot.call.peer.invoke.clone(), Some(slot.reply.clone()), payload);
        if let Err(error) = sent.await {
            slot.over = true;
            return failed(Seen::NotSent(error), call);
        }
        let mut flight = Flight::new(self, slot, call);
        match flight.answer(accept_by + GRACE).await {
            Ok(reply) => flight.land(&reply, &self.streams),
            Err(seen) => Err(flight.failed(seen)),
        }
    }

    /// Takes a place for what is sent to `node`, if fewer than `max` are taken.
    pub(super) fn enter(&self, key: Key, node: &NodeName, max: u32) -> Result<Slot, String> {
        if !self.nats.is_connected() {
            return Err("this node is not connected to NATS".into());
        }
        let slot = self.calls.enter(key, self.peer(node), max);
        slot.ok_or_else(|| format!("{max} calls are in flight from this node, the most it has"))
    }

    fn invocation(&self, key: Key, call: &RemoteCall, now: Instant, accept_by: Instant) -> bytes::Bytes {
        let head = &call.head;
        let uri = match head.uri.path_and_query() {
            Some(path) if head.uri.authority().is_none() => Cow::Borrowed(path.as_str()),
            _ => Cow::Owned(head.uri.to_string()),
        };
        let first = call.body.first();
        let invoke = Invoke {
            gateway: self.me.as_str(),
            function: call.revision.function.as_str(),
            revision: call.revision.id.as_str(),
            sent_unix_us: unix_us(),
            accept_by_us: (accept_by - now).as_micros() as u64,
            deadline_us: (call.deadline - now).as_micros() as u64,
            trace: (call.trace.trace_id, call.trace.parent_id, call.trace.flags),
            may_load: call.may_load,
            streamed: matches!(call.body, SendBody::Stream { .. }),
            method: head.method.as_str(),
            uri: &uri,
            fields: head.headers.len() as u32,
            body: first.len() as u32,
        };
        encode_with(key, &invoke, &head.headers, first)
    }

    /// Sends the rest of a request body, until the call is over.
    pub(super) fn upload(&self, call: Arc<Call>, rest: Body) {
        let bulk = self.nats.bulk.clone();
        self.uploads.spawn(async move {
            let out = Outbound { bulk: &bulk, to: call.peer.upload.clone(), key: call.key, valve: &call.valve };
            if let Some(Err(error)) = call.valve.until_shut(pin!(out.pump(rest))).await {
                tracing::debug!(error, node = %call.peer.name, "a request body was not sent");
                call.cut();
            }
        });
    }

    /// Fails everything in flight on `node` now: it is lost.
    pub fn lost(&self, node: &NodeName) {
        self.peers.remove(node);
        self.calls.cut(|call| call.peer.name == *node);
    }

    /// How many calls are in flight on `node`, until their bodies end.
    pub fn in_flight(&self, node: &NodeName) -> u32 {
        self.peers.get(node).map_or(0, |peer| peer.in_flight.load(Ordering::Relaxed))
    }
}

/// Says once for each node that its frames or ours cannot be read.
pub(super) fn warn(peer: &Peer, error: &dyn std::fmt::Display) {
    if !peer.warned.swap(true, Ordering::Relaxed) {
        tracing::warn!(node = %peer.name, %error, "a frame cannot be read");
    }
}
