//! What a gateway asks of a node beside calls: to make a revision ready, and whether it is there.
//!
//! Deploys ask the first, membership the second. Each takes a place among the calls in flight, and ends at the caller's
//! limit or when the node is lost, whichever comes first.

use dunlin_api::{InvocationId, NodeName, Refusal, Revision};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    LOST, Pong, PrepareError, Remotes,
    calls::{Event, Reply, Slot},
    flight::not_understood,
    frame::{self, Frame, Head, Key, Kind, Ping, Prepare, encode},
    link::publish,
};

/// NATS says within a millisecond that nobody listens.
const GONE: Duration = Duration::from_millis(200);
/// Places beyond those of calls: a gateway that is full still learns who is there.
const ASKS: u32 = 1_024;

impl Remotes {
    /// Makes `node` fetch, verify and compile `revision`.
    ///
    /// # Errors
    /// When it refuses, cannot be reached or is lost meanwhile, or is not done within `limit`.
    pub async fn prepare(&self, node: &NodeName, revision: &Revision, limit: Duration) -> Result<(), PrepareError> {
        let revision = serde_json::to_string(revision).expect("a revision has only string keys");
        let until = Instant::now() + limit;
        let slot = self.ask(node, &Prepare { revision: &revision }).await.ok_or(PrepareError::Unreachable)?;
        let mut lost = Instant::now() + LOST;
        loop {
            match timeout_at(until.min(lost), slot.call.event()).await {
                Ok(Event::Reply(Reply::Frame(reply))) => return prepared(&reply),
                Ok(Event::Accepted(_)) => {}
                Ok(Event::Reply(Reply::Unreadable(error))) => return Err(refused(error.to_string())),
                Ok(Event::Reply(_)) => return Err(PrepareError::Unreachable),
                Err(_) if Instant::now() >= until => return Err(PrepareError::TimedOut),
                Err(_) => match slot.call.heard().map(|heard| heard + LOST) {
                    Some(later) if later > Instant::now() => lost = later,
                    _ => return Err(PrepareError::Unreachable),
                },
            }
        }
    }

    /// Asks `node` whether it is there.
    pub async fn ping(&self, node: &NodeName, limit: Duration) -> Option<Pong> {
        let answered = timeout(limit, async {
            let slot = self.ask(node, &Ping).await?;
            match slot.call.event().await {
                Event::Reply(Reply::Frame(reply)) => reply.head::<frame::Pong>().ok(),
                _ => None,
            }
        });
        answered.await.ok().flatten().map(|pong| Pong { boot: pong.boot, load: pong.load })
    }

    /// Nodes that calls wait for, that were quiet since this was last asked, and of which NATS says that nobody listens
    /// there: the process is gone, or its connection is.
    pub async fn gone(&self) -> Vec<NodeName> {
        let quiet: Vec<_> = self.peers.iter().filter(|peer| peer.is_quiet()).map(|peer| peer.name.clone()).collect();
        let asked = quiet.into_iter().map(|node| async { self.is_gone(&node).await.then_some(node) });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn is_gone(&self, node: &NodeName) -> bool {
        let asked = timeout(GONE, async {
            let slot = self.ask(node, &Ping).await?;
            Some(slot.call.event().await)
        });
        matches!(asked.await, Ok(Some(Event::Reply(Reply::NoResponders))))
    }

    /// Sends a frame to the control subject of `node`, to be answered.
    async fn ask<H: Head>(&self, node: &NodeName, head: &H) -> Option<Slot> {
        let key = Key { id: InvocationId::new().as_u128(), attempt: 0 };
        let slot = self.enter(key, node, self.max_in_flight + ASKS).ok()?;
        let to = slot.call.peer.control.clone();
        publish(&self.nats.control, to, Some(slot.reply.clone()), encode(key, head)).await.ok()?;
        Some(slot)
    }
}

fn prepared(reply: &Frame) -> Result<(), PrepareError> {
    match reply.kind {
        Kind::Ready => Ok(()),
        Kind::Unprepared => Err(match reply.head::<frame::Unprepared<'_>>() {
            Ok(why) => match serde_json::from_str(why.refusal) {
                Ok(refusal) => PrepareError::Refused(refusal),
                // Of a version that knows more reasons.
                Err(_) => refused(why.refusal.to_owned()),
            },
            Err(error) => refused(error.to_string()),
        }),
        _ => Err(refused(not_understood(reply))),
    }
}

fn refused(reason: String) -> PrepareError {
    PrepareError::Refused(Refusal::Node(reason))
}
