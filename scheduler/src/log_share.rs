//! What functions print on every node of a cluster, read at one.
//!
//! The admin API asks [`Lines`]: a node alone answers from its [`LogHub`], a member also asks the others. An ask goes to all
//! nodes, who answer to its own subject on the bulk connection; one that follows is renewed while somebody reads and ends
//! six seconds after the last renewal. Lines of the beginning are in order of their time, later ones as they come. A slow
//! reader misses lines rather than holding a node up. Bounds: those of the hub; frames of 32 lines.

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use dunlin_api::{BoxFuture, FunctionName, InvocationId, LogLine, NodeName};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    log_hub::{LogHub, TooManyFollowers},
    membership::Membership,
    nats::Nats,
};

/// How long a follower is served after it was last heard of.
const LEASE: Duration = Duration::from_secs(6);
const RENEW: Duration = Duration::from_secs(2);
/// How long the first lines of other nodes are waited for.
const GATHER: Duration = Duration::from_millis(300);
/// Asks that are answered at once; each costs a task.
const ASKS: usize = 256;
/// Lines in one frame: with the hub's 16 KiB each they fit a message.
const BATCH: usize = 32;

/// Which lines are wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of this function only.
    pub function: Option<FunctionName>,
    /// So many of the last lines.
    pub tail: usize,
    /// And every further one.
    pub follow: bool,
}

/// Log lines, of this node or of all.
pub trait Lines: Send + Sync + 'static {
    /// The lines that are `wanted`.
    ///
    /// # Errors
    /// When too many follow already.
    fn lines(&self, wanted: Wanted) -> BoxFuture<'_, Result<BoxStream<'static, LogLine>, TooManyFollowers>>;
}

impl Lines for LogHub {
    fn lines(&self, wanted: Wanted) -> BoxFuture<'_, Result<BoxStream<'static, LogLine>, TooManyFollowers>> {
        Box::pin(async move { local(self, wanted) })
    }
}

fn local(hub: &LogHub, wanted: Wanted) -> Result<BoxStream<'static, LogLine>, TooManyFollowers> {
    Ok(if wanted.follow {
        hub.follow(wanted.function, wanted.tail)?.boxed()
    } else {
        stream::iter(hub.tail(wanted.function.as_ref(), wanted.tail)).boxed()
    })
}

/// What is sent to all nodes.
#[derive(Serialize, Deserialize)]
struct Ask {
    /// Names the ask; the last token of the subject of its answers.
    id: InvocationId,
    from: NodeName,
    function: Option<FunctionName>,
    tail: usize,
    follow: bool,
}

/// What comes back.
#[derive(Serialize, Deserialize)]
struct Answer {
    lines: Vec<LogLine>,
    /// No more will come.
    last: bool,
}

/// The logs of a cluster, as one of its nodes asks for them and answers.
pub struct LogShare {
    nats: Nats,
    me: NodeName,
    hub: Arc<LogHub>,
    membership: Arc<Membership>,
}

impl LogShare {
    /// The logs of all nodes; those of this one are in `hub`.
    pub fn new(nats: Nats, me: NodeName, hub: Arc<LogHub>, membership: Arc<Membership>) -> Self {
        Self { nats, me, hub, membership }
    }

    /// Answers the other nodes until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let subject = self.nats.subjects.logs();
        let mut asks = match self.nats.bulk.subscribe(subject).await {
            Ok(asks) => asks,
            Err(error) => {
                tracing::error!(%error, "other nodes cannot read the logs of this one");
                return stop.cancelled().await;
            }
        };
        let mut served: JoinSet<()> = JoinSet::new();
        let mut leases: HashMap<InvocationId, watch::Sender<Instant>> = HashMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = served.join_next() => leases.retain(|_, lease| lease.receiver_count() > 0),
                Some(message) = asks.next() => self.clone().asked(&message, &mut leases, &mut served),
            }
        }
    }

    fn asked(
        self: Arc<Self>,
        message: &Message,
        leases: &mut HashMap<InvocationId, watch::Sender<Instant>>,
        served: &mut JoinSet<()>,
    ) {
        let Ok(ask) = serde_json::from_slice::<Ask>(&message.payload) else {
            // Of another version, or somebody who tries what he may send.
            tracing::debug!("an ask for logs cannot be read");
            return;
        };
        if ask.from == self.me {
            return;
        }
        let until = Instant::now() + LEASE;
        if served.len() >= ASKS && !leases.contains_key(&ask.id) {
            tracing::debug!("too many ask for logs: this one is not answered");
            return;
        }
        if let Some(lease) = leases.get(&ask.id) {
            // Nobody listening means that it has ended meanwhile, by its own fault.
            let _ = lease.send(until);
            return;
        }
        let (lease, renewed) = watch::channel(until);
        if ask.follow {
            leases.insert(ask.id, lease);
        }
        served.spawn(async move { self.serve(ask, renewed).await });
    }

    async fn serve(&self, ask: Ask, mut lease: watch::Receiver<Instant>) {
        let subject = format!("{}.{}", self.nats.subjects.log_lines(&ask.from), ask.id);
        let wanted = Wanted { function: ask.function, tail: ask.tail, follow: ask.follow };
        let Ok(lines) = local(&self.hub, wanted) else { return };
        let mut batches = lines.ready_chunks(BATCH);
        loop {
            let until = *lease.borrow_and_update();
            tokio::select! {
                batch = batches.next() => {
                    let last = batch.is_none();
                    self.send(&subject, Answer { lines: batch.unwrap_or_default(), last }).await;
                    if last {
                        return;
                    }
                }
                Ok(()) = lease.changed() => {}
                () = sleep_until(until) => return,
            }
        }
    }

    async fn send(&self, subject: &str, message: impl Serialize) {
        let payload: Bytes = serde_json::to_vec(&message).expect("lines have only string keys").into();
        let publish = self.nats.bulk.publish(subject.to_owned(), payload);
        // A NATS that is away costs the reader lines, not this node its time.
        let _ = tokio::time::timeout(RENEW, publish).await;
    }

    /// The lines of the other nodes, of which there are `others`.
    async fn remote(self: Arc<Self>, wanted: Wanted, others: usize) -> Option<BoxStream<'static, LogLine>> {
        let id = InvocationId::new();
        let answers =
            self.nats.bulk.subscribe(format!("{}.{id}", self.nats.subjects.log_lines(&self.me))).await.ok()?;
        let Wanted { function, tail, follow } = wanted;
        let ask = Ask { id, from: self.me.clone(), function, tail, follow };
        let subject = self.nats.subjects.logs();
        self.send(&subject, &ask).await;
        let mut reading = Reading { answers, open: others };
        let mut first = Vec::new();
        let until = Instant::now() + GATHER;
        while let Ok(Some(lines)) = timeout_at(until, reading.next()).await {
            first.extend(lines);
        }
        let first = stream::iter(first);
        if !follow {
            return Some(first.boxed());
        }
        let renewals = interval(RENEW);
        let rest =
            stream::unfold((self, reading, renewals, ask), |(share, mut reading, mut renewals, ask)| async move {
                loop {
                    tokio::select! {
                        lines = reading.next() => return Some((stream::iter(lines?), (share, reading, renewals, ask))),
                        _ = renewals.tick() => share.send(&share.nats.subjects.logs(), &ask).await,
                    }
                }
            });
        Some(first.chain(rest.flatten()).boxed())
    }
}

/// Answers to one ask.
struct Reading {
    answers: Subscriber,
    /// Nodes that have not said that they are done.
    open: usize,
}

impl Reading {
    async fn next(&mut self) -> Option<Vec<LogLine>> {
        while self.open > 0 {
            let message = self.answers.next().await?;
            let Ok(answer) = serde_json::from_slice::<Answer>(&message.payload) else { continue };
            self.open -= usize::from(answer.last);
            if !answer.lines.is_empty() {
                return Some(answer.lines);
            }
        }
        None
    }
}

/// The logs of all nodes.
pub struct ClusterLogs(pub Arc<LogShare>);

impl Lines for ClusterLogs {
    fn lines(&self, wanted: Wanted) -> BoxFuture<'_, Result<BoxStream<'static, LogLine>, TooManyFollowers>> {
        Box::pin(async move {
            let share = &self.0;
            let mine = local(&share.hub, wanted.clone())?;
            let members = share.membership.view();
            let others = members.iter().filter(|member| member.is_live() && member.info.node != share.me).count();
            if others == 0 || !share.nats.is_connected() {
                return Ok(mine);
            }
            let tail = wanted.tail;
            let Some(theirs) = share.clone().remote(wanted, others).await else { return Ok(mine) };
            Ok(merge(mine, theirs, tail).await)
        })
    }
}

/// The lines that are there at once in order of their time, no more than `tail`; the others as they come.
async fn merge(
    mut mine: BoxStream<'static, LogLine>,
    mut theirs: BoxStream<'static, LogLine>,
    tail: usize,
) -> BoxStream<'static, LogLine> {
    let mut first = Vec::new();
    for lines in [&mut mine, &mut theirs] {
        while let Some(Some(line)) = futures::FutureExt::now_or_never(lines.next()) {
            first.push(line);
        }
    }
    first.sort_by_key(|line| line.time_ms);
    let older = first.len().saturating_sub(tail);
    stream::iter(first.split_off(older)).chain(stream::select(mine, theirs)).boxed()
}
