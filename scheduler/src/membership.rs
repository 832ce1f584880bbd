//! The nodes of the cluster: who is there, who can be counted on, and what operators want of them.
//!
//! The command line joins and runs it; the router reads [`Membership::view`], the admin API reads and changes it. A node
//! announces itself by heartbeats over core NATS, so that no store is written while nothing changes; what must survive (a
//! wish to drain, a weight, who owns a name) is a record in JetStream. It promises that a node that is silent is out of
//! the view within 1.5 s, at once if it said goodbye; that nobody is called lost for a silence that was this node's own;
//! that of two processes with one name one ends. Views change at most a few times a second, whatever the number of
//! nodes, except when a node must get no more calls. Bounds: 10,000 nodes, 4 KiB per frame, 8 KiB per record. A heartbeat
//! goes from all to all: above 200 nodes they become rarer, so that NATS delivers no more than 100,000 of them a second, and
//! a node that died there is found by the calls that fail.

use dunlin_api::{Load, NodeName, StoreError};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64},
    },
    time::{Duration, SystemTime},
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::nats::Nats;
use records::Records;
use roster::Roster;

mod clock;
mod error;
mod follow;
mod frame;
mod join;
mod listen;
mod listening;
mod records;
mod roster;
mod view;

pub use error::{JoinError, MembershipError};
pub use view::{Member, Members, NodeInfo, NodeState};

/// Suspicions that wait for the run loop; more than that are of the same nodes.
const SUSPECTS: usize = 64;
/// What the goodbye may take: a node that stops does not wait for a NATS that is away.
const GOODBYE: Duration = Duration::from_secs(2);

/// What this node reports of itself with each heartbeat.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// How busy it is.
    pub load: Load,
    /// How many revisions it has ready.
    pub ready: u32,
    /// Whether it takes no new calls.
    pub draining: bool,
}

/// Takes the load that a node reported.
pub type OnLoad = Arc<dyn Fn(&NodeName, Load) + Send + Sync>;

/// How the membership is kept.
#[derive(Clone)]
pub struct MembershipConfig {
    /// Between two heartbeats, 20 ms to 60 s. 400 ms: with three missed, a silent node is out 1.3 to 1.4 s after it was last heard.
    pub interval: Duration,
    /// Heartbeats that may be missing in a row.
    pub misses: u32,
    /// How long the holder of a name may be silent before a new process takes the name.
    pub takeover: Duration,
    /// How long the record of a node that left in order is kept; that of a lost one stays until it is forgotten.
    pub keep_left: Duration,
    /// How far another node's clock may be off: deadlines travel as wall time.
    pub clock_limit: Duration,
    /// The wall clock.
    pub clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    /// Called with each load that another node reports. Must be quick: it runs in the loop that hears the heartbeats.
    pub on_load: Option<OnLoad>,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(400),
            misses: 3,
            takeover: Duration::from_secs(1),
            keep_left: Duration::from_secs(24 * 60 * 60),
            clock_limit: Duration::from_millis(50),
            clock: Arc::new(SystemTime::now),
            on_load: None,
        }
    }
}

/// Why [`Membership::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop, and said goodbye.
    Stopped,
    /// Another process took the name of this node, which must stop.
    Superseded,
}

/// This node's part in the cluster.
pub struct Membership {
    nats: Nats,
    me: Arc<NodeInfo>,
    config: MembershipConfig,
    status: Arc<dyn Fn() -> Status + Send + Sync>,
    roster: Mutex<Roster>,
    published: watch::Sender<Arc<Members>>,
    drain_wanted: watch::Sender<bool>,
    announce: Notify,
    /// Someone else uses this node's name: its record must be read.
    recheck: Notify,
    suspects: mpsc::Sender<NodeName>,
    inputs: Mutex<Option<listen::Inputs>>,
    sequence: AtomicU32,
    /// Roll calls answered since the last heartbeat.
    answered: AtomicU32,
    /// The last known revision of this node's record.
    revision: AtomicU64,
    warned: listen::Warned,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Membership {
    /// Registers this node and learns of the others. [`run`](Self::run) must follow at once: until then this node
    /// answers nobody.
    ///
    /// # Errors
    /// `NameTaken` if another process that lives has this name; when NATS, its permissions or its JetStream do not do.
    pub async fn join(
        nats: &Nats,
        me: NodeInfo,
        status: Arc<dyn Fn() -> Status + Send + Sync>,
        config: MembershipConfig,
    ) -> Result<Arc<Self>, JoinError> {
        join::join(nats, me, status, config).await
    }

    /// Sends and hears heartbeats until `stop`, then says goodbye. Goes on whatever NATS does. To be called once.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Ended {
        let Some(inputs) = lock(&self.inputs).take() else { return Ended::Stopped };
        let (listen, watch) = inputs.split();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(watch) => {
                tracing::error!(node = %self.me.node, "another process took the name of this node");
                return Ended::Superseded;
            }
            never = self.listen(listen) => match never {},
        }
        if tokio::time::timeout(GOODBYE, self.goodbye()).await.is_err() {
            tracing::warn!("NATS did not take this node's goodbye: the others will miss its heartbeats instead");
        }
        Ended::Stopped
    }

    /// The cluster as it was when something other than load changed last.
    pub fn view(&self) -> Arc<Members> {
        self.published.borrow().clone()
    }

    /// The cluster, now and whenever something other than load changes.
    pub fn changes(&self) -> watch::Receiver<Arc<Members>> {
        self.published.subscribe()
    }

    /// The cluster with the loads of this moment, for people: costs a walk over all nodes. What it shows is published at
    /// once, so that whoever saw a node come up finds it used.
    pub fn latest(&self) -> Members {
        self.publish_from(roster::Changed::Soon);
        lock(&self.roster).view()
    }

    /// Whether an operator wants this node drained.
    pub fn drain_wanted(&self) -> watch::Receiver<bool> {
        self.drain_wanted.subscribe()
    }

    /// Asks for the drain of `node`, or ends it. Holds also over a restart of the node.
    ///
    /// # Errors
    /// `Unknown`, `Store`.
    pub async fn drain(&self, node: &NodeName, on: bool) -> Result<(), MembershipError> {
        self.change(node, |record| std::mem::replace(&mut record.drained, on) != on).await
    }

    /// Gives `node` another weight than its own slots, or with none its own again. Everyone follows at once.
    ///
    /// # Errors
    /// `Unknown`, `NoSlots`, `Store`.
    pub async fn set_slots(&self, node: &NodeName, slots: Option<u32>) -> Result<(), MembershipError> {
        if slots == Some(0) {
            return Err(MembershipError::NoSlots);
        }
        self.change(node, |record| std::mem::replace(&mut record.slots, slots) != slots).await
    }

    async fn change(
        &self,
        node: &NodeName,
        change: impl Fn(&mut records::Record) -> bool,
    ) -> Result<(), MembershipError> {
        let changed = async { Records::open(&self.nats).await?.change(node, change).await }.await;
        changed.map_err(|error| match error {
            StoreError::NotFound(_) => MembershipError::Unknown(node.clone()),
            other => MembershipError::Store(other),
        })
    }

    /// Removes the record of a node that is lost or has left.
    ///
    /// # Errors
    /// `Unknown`, `Alive`, `Store`.
    pub async fn forget(&self, node: &NodeName) -> Result<(), MembershipError> {
        if matches!(lock(&self.roster).state(node), Some(NodeState::Up | NodeState::Draining)) {
            return Err(MembershipError::Alive(node.clone()));
        }
        let records = Records::open(&self.nats).await.map_err(MembershipError::Store)?;
        let found = records.get(node).await.map_err(MembershipError::Store)?;
        let (_, revision) = found.ok_or_else(|| MembershipError::Unknown(node.clone()))?;
        records.remove(node, revision).await.map_err(MembershipError::Store)
    }

    /// Sends a heartbeat now, because this node's state changed.
    pub fn announce(&self) {
        self.announce.notify_one();
    }

    /// Calls to `node` fail: it is asked at once, and is out of the view if it does not answer within 300 ms.
    pub fn suspect(&self, node: &NodeName) {
        // Full: as many are asked already, and heartbeats judge the rest.
        let _ = self.suspects.try_send(node.clone());
    }
}

/// Nothing panics while holding these locks, and a poisoned one still holds what it held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
