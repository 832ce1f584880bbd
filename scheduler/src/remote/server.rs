//! The worker's end: receives calls for this node and hands them to its [`LocalNode`].
//!
//! One per node. One task reads calls, one what concerns them (cancellations, credit) and the node (pings, preparations), one
//! the chunks of request bodies. Each call is one task of the server's tracker ([`super::serving`]). To stop: [`drain`]
//! refuses calls while it stays subscribed, [`idle`] waits for those that run, and only the end of [`run`] unsubscribes:
//! every other order loses calls.
//!
//! [`drain`]: Server::drain
//! [`idle`]: Server::idle
//! [`run`]: Server::run

use async_nats::{Message, Subject};
use dunlin_api::{FunctionName, InvokeError, LocalNode, NodeName, RevisionId};
use std::{
    collections::HashSet,
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    pin, select,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    RemoteConfig, RemoteError, Revisions,
    frame::{Credit, Frame, Key, Kind, Pong, Refused, Unreadable, Unreadably},
    frame::{encode, key_of},
    inbound::Streams,
    known::Known,
    link::{Inbox, Once, Outbox, Posted, check_payload, connects, deliver, lock},
    preparing::PREPARING,
    serving::Serving,
};
use crate::nats::Nats;

/// How often a reconnection of the bulk connection is looked for.
const WATCH: Duration = Duration::from_millis(250);
/// After unsubscribing, calls that were under way are refused for so long.
const LINGER: Duration = Duration::from_secs(1);
/// Senders of frames that could not be read, each of which is named once.
const WARNED: usize = 1_000;

/// Serves the calls that other nodes send to this one.
pub struct Server<N> {
    pub(super) nats: Nats,
    pub(super) node: Arc<N>,
    pub(super) revisions: Arc<dyn Revisions>,
    pub(super) streams: Arc<Streams>,
    pub(super) outbox: Outbox,
    me: NodeName,
    boot: u64,
    known: Arc<Known>,
    pub(super) tasks: TaskTracker,
    /// Cancelled when the server has stopped: ends what runs in the background.
    pub(super) ended: CancellationToken,
    pub(super) draining: AtomicBool,
    pub(super) preparing: Semaphore,
    pub(super) warming: Mutex<HashSet<(FunctionName, RevisionId)>>,
    warned: Mutex<HashSet<String>>,
    pub(super) received: AtomicU64,
    parts: Once<Parts>,
}

/// What [`Server::run`] reads from.
struct Parts {
    calls: Inbox,
    control: Inbox,
    uploads: Inbox,
    posted: Posted,
}

impl<N: LocalNode> Server<N> {
    /// Subscribes to what is sent to `me`, whose present start is `boot`. When it returns, calls are received; they are
    /// answered once it [`run`](Self::run)s.
    ///
    /// # Errors
    /// When a subject cannot be received, or NATS takes only small messages.
    pub async fn start(
        nats: &Nats,
        me: &NodeName,
        boot: u64,
        node: Arc<N>,
        revisions: Arc<dyn Revisions>,
        config: RemoteConfig,
    ) -> Result<Arc<Self>, RemoteError> {
        check_payload(&nats.control)?;
        let (outbox, posted) = Outbox::new(config.max_in_flight);
        let subjects = &nats.subjects;
        let (calls, control, uploads) = (subjects.invoke(me), subjects.control(me), subjects.upload(me));
        let parts = Parts {
            calls: Inbox::open(&nats.control, calls.clone(), calls).await?,
            control: Inbox::open(&nats.control, control.clone(), control).await?,
            uploads: Inbox::open(&nats.bulk, uploads.clone(), uploads).await?,
            posted,
        };
        Ok(Arc::new(Self {
            nats: nats.clone(),
            node,
            revisions,
            streams: Streams::new(config.buffer.bytes(), outbox.clone()),
            outbox,
            me: me.clone(),
            boot,
            known: Arc::default(),
            tasks: TaskTracker::new(),
            ended: CancellationToken::new(),
            draining: AtomicBool::new(false),
            preparing: Semaphore::new(PREPARING),
            warming: Mutex::default(),
            warned: Mutex::default(),
            received: AtomicU64::new(0),
            parts: Once::new(parts),
        }))
    }

    /// Serves until `stop`; then unsubscribes, refuses what still comes for a second, and ends the calls that still run.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(parts) = self.parts.take() else { return };
        let (control, uploads) = (self.clone(), self.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(deliver(parts.posted, self.nats.control.clone(), self.ended.clone()));
        let mut readers = JoinSet::new();
        readers.spawn(self.clone().read_calls(parts.calls, stop.clone()));
        tasks.spawn(async move { control.read(parts.control, Self::on_control).await });
        tasks.spawn(async move { uploads.read(parts.uploads, |s, m| s.streams.take(&m.payload)).await });
        readers.spawn({
            let (server, stop) = (self.clone(), stop.clone());
            async move { stop.run_until_cancelled(server.watch()).await.unwrap_or_default() }
        });
        while readers.join_next().await.is_some() {}
        self.known.shut(|_| true);
        self.tasks.close();
        self.ended.cancel();
        // A guest is dropped at its next await; whoever computes has a second.
        let _ = timeout(LINGER, self.tasks.wait()).await;
        let _ = timeout(LINGER, tasks.join_next()).await;
        let _ = timeout(LINGER, self.nats.control.flush()).await;
        tasks.shutdown().await;
    }

    /// Whether every call is refused with `Draining` from now on. Calls that run go on.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Release);
    }

    /// Ends the calls that `gateway` sent: it is lost, and nobody waits for their answers.
    pub fn lost(&self, gateway: &NodeName) {
        self.known.abandon(&self.nats.subjects.replies(gateway));
    }

    /// Tries of calls that other nodes sent.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until no accepted call is left.
    pub async fn idle(&self) {
        self.known.idle().await;
    }

    async fn read(self: Arc<Self>, mut inbox: Inbox, handle: impl Fn(&Arc<Self>, Message)) {
        while let Some(message) = inbox.next().await {
            handle(&self, message);
        }
    }

    async fn read_calls(self: Arc<Self>, mut inbox: Inbox, stop: CancellationToken) {
        {
            let stopped = stop.cancelled();
            pin!(stopped);
            loop {
                select! {
                    biased;
                    () = &mut stopped => break,
                    message = inbox.next() => match message {
                        Some(message) => self.on_call(message),
                        None => return,
                    }
                }
            }
        }
        self.set_draining(true);
        inbox.close().await;
        let _ = timeout(LINGER, self.clone().read(inbox, Self::on_call)).await;
    }

    /// Breaks the bodies that stood on a connection that broke.
    async fn watch(self: Arc<Self>) {
        let mut bulk = connects(&self.nats.bulk);
        loop {
            sleep(WATCH).await;
            if mem::replace(&mut bulk, connects(&self.nats.bulk)) != bulk {
                self.streams.fail_all("the connection to NATS broke");
                self.known.shut(|valve| valve.is_open());
            }
        }
    }

    fn on_call(self: &Arc<Self>, message: Message) {
        let Some(reply) = message.reply else { return };
        match Frame::read(&message.payload) {
            Ok(frame) if self.draining.load(Ordering::Acquire) => {
                let refused = Refused { load: self.node.load(), why: InvokeError::Draining };
                self.outbox.post(reply, encode(frame.key, &refused));
            }
            Ok(frame) => {
                // A copy is not answered: whoever sent the first waits for the answer of that.
                if let Some(running) = self.known.enter(frame.key, &reply) {
                    let server = self.clone();
                    self.tasks
                        .spawn(async move { Serving::new(&server, reply, frame.key).run(&frame, &running).await });
                }
            }
            Err(error) => self.unreadable(reply, &message.payload, &error),
        }
    }

    fn on_control(self: &Arc<Self>, message: Message) {
        let frame = match Frame::read(&message.payload) {
            Ok(frame) => frame,
            Err(error) => {
                if let Some(reply) = message.reply {
                    self.unreadable(reply, &message.payload, &error);
                }
                return;
            }
        };
        match (frame.kind, message.reply) {
            (Kind::Cancel, _) => self.known.cancel(frame.key),
            (Kind::Credit, _) => match frame.head::<Credit>() {
                Ok(credit) => self.known.grant(frame.key, credit.bytes),
                // Without it the answer would stand still.
                Err(_) => self.known.cancel(frame.key),
            },
            (Kind::Ping, Some(reply)) => {
                self.outbox.post(reply, encode(frame.key, &Pong { boot: self.boot, load: self.node.load() }));
            }
            (Kind::Prepare, Some(reply)) => {
                let (server, ended) = (self.clone(), self.ended.clone());
                self.tasks.spawn(async move { ended.run_until_cancelled(server.prepare(&frame, reply)).await });
            }
            (_, Some(reply)) => self.unreadable(reply, &message.payload, &Unreadable::Malformed),
            _ => {}
        }
    }

    /// Answers a frame that cannot be read, and names its sender once.
    pub(super) fn unreadable(&self, reply: Subject, payload: &[u8], error: &Unreadable) {
        let key = key_of(payload).unwrap_or(Key { id: 0, attempt: 0 });
        self.unreadable_call(reply, key, error);
    }

    pub(super) fn unreadable_call(&self, reply: Subject, key: Key, error: &Unreadable) {
        // Without the last token, which is the call's place, it is the gateway's.
        let sender = reply.rsplit_once('.').map_or(reply.as_str(), |(gateway, _)| gateway);
        let mut warned = lock(&self.warned);
        if warned.len() < WARNED && warned.insert(sender.to_owned()) {
            tracing::warn!(node = %self.me, from = sender, %error, "a frame cannot be read");
        }
        drop(warned);
        self.outbox.post(reply, encode(key, &Unreadably { reason: &error.to_string() }));
    }
}
