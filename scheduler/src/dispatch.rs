//! Where an invocation runs: on this node if it takes it, else on another one. The only place that tries again.
//!
//! The router hands every call to [`Dispatch::invoke`]. It asks the [`Balancer`] for a node, runs the call here or sends it
//! there, and follows one table ([`retry::verdict`]) when that fails. A call that runs here costs one question to the balancer;
//! everything else is off that path. Promises: nothing that may have run is run again unless that is harmless, a
//! call never outlives its deadline, and what can run here goes on while NATS is away. Bounds: [`TRIES`] nodes per call,
//! the balancer's retry budget, [`FAILURES`] remembered failures.

use dunlin_api::{Body, Declined, Invocation, Invoke, InvokeError, Load, LocalNode, NodeName, Revision, Timing};
use http::Response;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

use crate::{
    balancer::{Ask, Balancer, Choice, Explanation, Here, RetryBudget, RevisionKey},
    membership::Membership,
    nats::Nats,
    remote::{Failed, RemoteCall, Remotes, Seen},
};

mod failures;
mod follow;
mod journey;
pub mod retry;

pub use failures::{FAILURES, Failure, Failures};
pub use follow::{follow_members, suspect_gone, update};
use journey::Journey;

/// Nodes that one call is offered to: the chosen one, three more after refusals. If none could be reached, once more.
pub const TRIES: usize = 4;

/// Why a call finds no node without NATS.
const AWAY: &str = "NATS is away, and this node does not run it";

/// Runs invocations where they run best.
pub struct Dispatch<N> {
    node: Arc<N>,
    peers: Option<Peers>,
    /// Whether this node may run calls itself: it is a worker and not drained.
    open: AtomicBool,
    failures: Failures,
    sent: AtomicU64,
    retries: AtomicU64,
}

/// What a node of a cluster needs to run calls elsewhere.
pub struct Peers {
    /// This node.
    pub me: NodeName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its zone.
    pub zone: Option<String>,
    /// The connections.
    pub nats: Nats,
    /// Chooses nodes.
    pub balancer: Arc<Balancer>,
    /// Bounds retries.
    pub budget: RetryBudget,
    /// Sends calls; none on a node that only runs what others send.
    pub remotes: Option<Arc<Remotes>>,
    /// Hears of suspicions.
    pub membership: Arc<Membership>,
    /// Hears of revisions that are called here and not ready here; a full queue forgets.
    pub called: mpsc::Sender<Arc<Revision>>,
}

impl<N: LocalNode> Dispatch<N> {
    /// Runs every call on `node`, which stands alone.
    pub fn alone(node: Arc<N>) -> Self {
        Self::with(node, None, true)
    }

    /// Runs calls on `node`, if `worker`, and on its peers.
    pub fn among(node: Arc<N>, peers: Peers, worker: bool) -> Self {
        Self::with(node, Some(peers), worker)
    }

    fn with(node: Arc<N>, peers: Option<Peers>, open: bool) -> Self {
        let (failures, sent, retries) = Default::default();
        Self { node, peers, open: AtomicBool::new(open), failures, sent, retries }
    }

    /// Tries of calls that were sent to other nodes, and how many of them were not the first of their call.
    pub fn sent(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.retries.load(Relaxed))
    }

    /// Whether this node runs calls itself from now on. Those that run are not touched.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Relaxed);
    }

    /// The last calls that failed for reasons of the platform.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// What it needs to run calls elsewhere; none if it stands alone.
    pub fn peers(&self) -> Option<&Peers> {
        self.peers.as_ref()
    }

    /// The node that a call of `revision` would go to now, or why there is none; and what the balancer makes of each node.
    pub fn explain(
        &self,
        peers: &Peers,
        revision: &Revision,
        now: Instant,
    ) -> (Result<NodeName, String>, Vec<Explanation>) {
        let key = RevisionKey::of(revision);
        let choice = match self.choose(peers, (revision, key), &[], false) {
            Next::Here => Ok(peers.me.clone()),
            Next::There(node) => Ok(node),
            Next::Nowhere(why) => Err(why),
            Next::Away => Err(AWAY.into()),
        };
        let here = self.here(peers, revision);
        let ask = Ask { revision: key, placement: &revision.settings.place, tried: &[], here, last: false };
        (choice, peers.balancer.explain(&ask, now))
    }

    /// Whether `revision` may run here, and how that would be.
    fn here(&self, peers: &Peers, revision: &Revision) -> Option<Here> {
        let fits = self.open.load(Relaxed) && revision.settings.place.fits(&peers.labels, peers.zone.as_deref());
        fits.then(|| Here { load: self.node.load(), ready: self.node.is_ready(revision) })
    }

    fn choose(&self, peers: &Peers, (revision, key): (&Revision, RevisionKey), tried: &[NodeName], last: bool) -> Next {
        let here = if tried.contains(&peers.me) { None } else { self.here(peers, revision) };
        if peers.remotes.is_none() || !peers.nats.is_connected() {
            return match here {
                Some(_) => Next::Here,
                None if peers.remotes.is_none() => Next::Nowhere("this node sends no calls to others".into()),
                None => Next::Away,
            };
        }
        let ask = Ask { revision: key, placement: &revision.settings.place, tried, here, last };
        match peers.balancer.pick(&ask, &mut rand::rng(), Instant::now()) {
            Choice::Here => Next::Here,
            Choice::There(node) => Next::There(node),
            Choice::None(why) => Next::Nowhere(why.to_string()),
        }
    }
}

impl Peers {
    async fn send(&self, node: &NodeName, call: RemoteCall, attempt: u8) -> Result<Response<Body>, Failed> {
        match &self.remotes {
            Some(remotes) => remotes.invoke(node, call, attempt).await,
            None => {
                let seen = Seen::NotSent("this node sends no calls to others".into());
                Err(Failed { seen, load: None, call: Some(call) })
            }
        }
    }

    /// Runs a call that this node began, and tells the balancer how long that took: it learns this node's own speed too.
    async fn measured(
        &self,
        revision: RevisionKey,
        run: impl Future<Output = Result<Response<Body>, InvokeError>>,
    ) -> Result<Response<Body>, InvokeError> {
        let begun = Instant::now();
        let sent = self.balancer.sent(&self.me, revision, begun);
        let response = run.await?;
        let now = Instant::now();
        sent.answered(None, run_time(&response, now - begun), now);
        Ok(response)
    }
}

impl<N: LocalNode> Invoke for Dispatch<N> {
    async fn invoke(&self, call: Invocation) -> Result<Response<Body>, InvokeError> {
        let Some(peers) = &self.peers else { return self.node.invoke(call).await };
        let key = RevisionKey::of(&call.revision);
        let next = self.choose(peers, (&call.revision, key), &[], false);
        let (call, next) = match next {
            Next::Here => match self.node.begin(call) {
                Ok(run) => return peers.measured(key, run).await,
                Err(declined) => {
                    let Declined { call, why } = *declined;
                    return Box::pin(Journey::new(self, peers, &call, key).declined(call, why)).await;
                }
            },
            next => (call, next),
        };
        // Boxed, so that calls that run here do not carry the size of those that do not.
        Box::pin(Journey::new(self, peers, &call, key).run(call, next)).await
    }
}

/// Where the next try of a call goes.
enum Next {
    Here,
    There(NodeName),
    /// Nowhere, and why.
    Nowhere(String),
    /// Nowhere, until NATS is back.
    Away,
}

/// How long a call ran that took `whole`: without its wait for a slot.
fn run_time(response: &Response<Body>, whole: Duration) -> Duration {
    whole.saturating_sub(response.extensions().get::<Timing>().map_or(Duration::ZERO, |timing| timing.queue))
}

/// The load that a response's node reported with it.
fn reported(response: &Response<Body>) -> Option<Load> {
    response.extensions().get().copied()
}
