//! Schedules fire functions: each tick becomes one item in the queue of its trigger, once in the whole cluster.
//!
//! Every worker runs one [`Cron`]. All compute the ticks; for each trigger the two nodes that come first by rendezvous hashing
//! look after it, so that the loss of one delays a tick by a second and loses none. Both would append a tick with the same
//! id, of which the store keeps one; the second looks at the record of the trigger first. What the record says was dealt with
//! never fires again, also when the clock is set back. A failing store delays ticks and loses none while a node
//! lives. A tick can fire twice only if the store failed for longer than [`DUPLICATES`](crate::store::events::DUPLICATES) at the
//! very moment when it was appended. Bounds: [`TURNS`] triggers at once, a hundred ticks of each in one turn.

use dunlin_api::NodeName;
use jiff::Timestamp;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{snapshot::Snapshot, store::events::EventStores};

mod board;
mod mark;
mod schedule;
mod turn;

pub(crate) use mark::{begin, forget};
pub(crate) use schedule::Schedule;

use board::{Board, Key};

/// Triggers that are worked on at once.
pub const TURNS: usize = 32;
/// Longest sleep: the wall clock may be set at any time, and peers come and go.
const LOOK: Duration = Duration::from_secs(1);
/// A node that did not look for this long by the wall clock was away: it slept, or its clock was wrong.
const AWAY: Duration = Duration::from_secs(60);
/// Ticks that came this long before a node began to look are late, not missed: another node may be about to fire them.
const GRACE: Duration = Duration::from_secs(3);

/// What the wall clock says.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
/// The workers that live, this node among them if it is one.
pub type Peers = Arc<dyn Fn() -> Vec<NodeName> + Send + Sync>;

/// Fires the schedules of deployed functions.
pub struct Cron {
    stores: EventStores,
    node: NodeName,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    peers: Peers,
    clock: WallClock,
    turns: Semaphore,
    fired: AtomicU64,
    left_out: AtomicU64,
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cron").field("node", &self.node).finish_non_exhaustive()
    }
}

/// From when on this node has looked at the clock all the time.
struct Awake {
    since: Timestamp,
    looked: Timestamp,
}

impl Awake {
    fn look(&mut self, now: Timestamp) {
        // Set forward or back: what the clock said before says nothing about ticks after `now`.
        self.since = if now > self.looked + AWAY { now - GRACE } else { self.since.min(now) };
        self.looked = now;
    }
}

impl Cron {
    /// Fires what `snapshots` show as deployed, on `node`, one of `peers`.
    pub fn new(
        stores: EventStores,
        node: NodeName,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        peers: Peers,
    ) -> Arc<Self> {
        Self::with_clock(stores, node, snapshots, peers, Arc::new(Timestamp::now))
    }

    /// As [`new`](Self::new), by another clock than the system's.
    pub fn with_clock(
        stores: EventStores,
        node: NodeName,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        peers: Peers,
        clock: WallClock,
    ) -> Arc<Self> {
        let turns = Semaphore::new(TURNS);
        Arc::new(Self { stores, node, snapshots, peers, clock, turns, fired: 0.into(), left_out: 0.into() })
    }

    /// Ticks that this node appended.
    pub fn fired(&self) -> u64 {
        self.fired.load(Relaxed)
    }

    /// Ticks that this node left out because an earlier run had not ended.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Relaxed)
    }

    /// Fires ticks until `stop`. What is being appended then may or may not be; another node goes on from there.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut snapshots, mut board, mut turns) = (self.snapshots.clone(), Board::default(), JoinSet::new());
        let start = (self.clock)();
        let mut awake = Awake { since: start - GRACE, looked: start };
        snapshots.mark_changed();
        while !stop.is_cancelled() {
            let now = (self.clock)();
            awake.look(now);
            board.set_peers((self.peers)(), &self.node, now);
            if snapshots.has_changed().unwrap_or(false) {
                let snapshot = snapshots.borrow_and_update().clone();
                board.follow(&snapshot, &self.node, now);
            }
            for (entry, until) in board.take(now) {
                let (cron, since, of) = (self.clone(), awake.since, entry.clone());
                let turn = turns.spawn(async move {
                    let _turn = cron.turns.acquire().await.expect("the semaphore of a cron is never closed");
                    let done = cron.turn(&entry, since, until).await;
                    ((entry.function.clone(), entry.id.clone()), done)
                });
                board.begun(&of, turn.id());
            }
            let rest = board.next().map_or(LOOK, |due| Duration::try_from(due.duration_since(now)).unwrap_or_default());
            tokio::select! {
                () = stop.cancelled() => {}
                // A catalog that is gone changes no more, and says so at once each time.
                Ok(()) = snapshots.changed() => snapshots.mark_changed(),
                Some(ended) = turns.join_next_with_id() => self.ended(&mut board, ended),
                () = tokio::time::sleep(rest.min(LOOK)) => {}
            }
        }
        turns.shutdown().await;
    }

    fn ended(&self, board: &mut Board, ended: Result<(tokio::task::Id, (Key, TurnResult)), tokio::task::JoinError>) {
        let (key, reason, position) = match ended {
            Ok((_, (key, Ok(position)))) => (key, None, Some(position)),
            Ok((_, (key, Err(error)))) => (key, Some(error.to_string()), None),
            Err(error) => match board.of(error.id()) {
                Some(key) => (key, Some(error.to_string()), None),
                None => return,
            },
        };
        let failures = board.ended(&key, position, (self.clock)());
        if let (Some(error), 1) = (reason, failures) {
            tracing::warn!(function = %key.0, trigger = %key.1, error, "ticks of a schedule are late: they are tried again");
        }
    }
}

type TurnResult = Result<Timestamp, dunlin_api::StoreError>;
