//! Which nodes have which revisions ready.
//!
//! A deploy asks [`Cluster::make_ready`]: the preferred nodes fetch, verify and compile before traffic moves. Each worker
//! runs [`Prefetch::run`]: it makes ready what it is preferred for when functions or nodes change, and what is called
//! here often although others are preferred, so that calls run where they arrive. Bounds: the room for code in the
//! runtime, [`CALLED`] revisions watched, one revision at a time, two minutes for each node of a deploy.

use dunlin_api::{BoxFuture, LocalNode, NodeName, Refusal, Revision};
use futures::future::join_all;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

use crate::{
    balancer::{Balancer, MIN_PREFERRED, RevisionKey},
    deploy::{MakeReady, Readied},
    membership::Members,
    remote::{PrepareError, Remotes},
    snapshot::Snapshot,
};

/// Calls that wait to be counted; more are not needed to see that a function is called often.
pub const CALLED: usize = 1_024;
/// Compiling the largest components takes a minute on a slow core.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// A revision called here this often within [`WINDOW`] is made ready here.
const OFTEN: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// Changes come in bursts: a node that joins announces itself to everybody, a deploy writes several records.
const SETTLE: Duration = Duration::from_millis(100);
/// Before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Makes revisions ready on the nodes of a cluster that should run them.
pub struct Cluster<N> {
    /// This node.
    pub me: NodeName,
    /// Its runtime.
    pub node: Arc<N>,
    /// Knows which nodes should run what.
    pub balancer: Arc<Balancer>,
    /// Reaches the others; none on a node that may not.
    pub remotes: Option<Arc<Remotes>>,
}

impl<N: LocalNode> MakeReady for Cluster<N> {
    fn make_ready(&self, revision: Arc<Revision>) -> BoxFuture<'_, Readied> {
        Box::pin(async move {
            let nodes = preferred(&self.balancer, &revision);
            let each = nodes.into_iter().map(|node| {
                let revision = revision.clone();
                async move {
                    let result = match &self.remotes {
                        _ if node == self.me => self.node.prepare(revision).await,
                        Some(remotes) => {
                            let prepared = remotes.prepare(&node, &revision, READY_WITHIN).await;
                            prepared.map_err(|error| refusal(&node, error))
                        }
                        None => Err(Refusal::Node("this node cannot ask others: deploy through a gateway".into())),
                    };
                    (node.to_string(), result)
                }
            });
            join_all(each).await
        })
    }
}

fn refusal(node: &NodeName, error: PrepareError) -> Refusal {
    match error {
        PrepareError::Refused(refusal) => refusal,
        other => Refusal::Node(format!("`{node}`: {other}")),
    }
}

fn preferred(balancer: &Balancer, revision: &Revision) -> Vec<NodeName> {
    balancer.preferred(RevisionKey::of(revision), &revision.settings.place, MIN_PREFERRED)
}

/// Keeps this node ready for what it should run.
pub struct Prefetch<N> {
    /// This node.
    pub me: NodeName,
    /// Its runtime.
    pub node: Arc<N>,
    /// Knows which nodes should run what.
    pub balancer: Arc<Balancer>,
    /// What is deployed.
    pub deployed: watch::Receiver<Arc<Snapshot>>,
    /// Who is alive; the balancer knows it before this is seen here.
    pub members: watch::Receiver<Arc<Members>>,
    /// Revisions that are called here and not ready here.
    pub called: mpsc::Receiver<Arc<Revision>>,
}

impl<N: LocalNode> Prefetch<N> {
    /// Works until the catalog or the membership is gone. Cancel safe; the caller owns the task.
    pub async fn run(mut self) {
        let mut demand = Demand::default();
        loop {
            let failed = self.prepare_all().await;
            let again = tokio::time::sleep(if failed { AGAIN } else { Duration::MAX });
            tokio::pin!(again);
            loop {
                tokio::select! {
                    changed = self.deployed.changed() => if changed.is_err() { return } else { break },
                    changed = self.members.changed() => if changed.is_err() { return } else { break },
                    () = &mut again => break,
                    revision = self.called.recv() => {
                        let Some(revision) = revision else { return };
                        if demand.count(RevisionKey::of(&revision), Instant::now()) {
                            self.prepare(&revision).await;
                        }
                    }
                }
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Makes ready what this node is preferred for, what was called last first, as much as the runtime has room for; true
    /// if some of it failed.
    async fn prepare_all(&mut self) -> bool {
        let snapshot = self.deployed.borrow_and_update().clone();
        self.members.mark_unchanged();
        if !self.node.has_room() {
            return false;
        }
        let mut wanted = Vec::new();
        for (revision, _) in snapshot.functions.values().flat_map(|f| &f.serving) {
            // Between two of them others may run: with 10,000 functions this loop takes a while.
            tokio::task::consume_budget().await;
            if !self.node.is_ready(revision) && preferred(&self.balancer, revision).contains(&self.me) {
                wanted.push(revision.clone());
            }
        }
        let mut failed = false;
        for revision in self.node.by_recent_use(wanted).await {
            if !self.node.has_room() {
                break;
            }
            failed |= !self.prepare(&revision).await;
        }
        failed
    }

    async fn prepare(&self, revision: &Arc<Revision>) -> bool {
        let prepared = self.node.prepare(revision.clone()).await;
        if let Err(error) = &prepared {
            tracing::warn!(function = %revision.function, revision = %revision.id, %error, "it could not be made ready");
        }
        prepared.is_ok()
    }
}

/// How often revisions are called that are not ready here.
#[derive(Default)]
struct Demand(HashMap<RevisionKey, (Instant, u32)>);

impl Demand {
    /// Counts a call; true when there were enough to be worth it.
    fn count(&mut self, revision: RevisionKey, now: Instant) -> bool {
        if self.0.len() >= CALLED {
            self.0.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        if self.0.len() >= CALLED && !self.0.contains_key(&revision) {
            return false;
        }
        let (since, calls) = self.0.entry(revision).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *calls) = (now, 0);
        }
        *calls += 1;
        *calls == OFTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_often_enough_in_one_window_is_wanted_once() {
        let (mut demand, start) = (Demand::default(), Instant::now());
        let key = RevisionKey(1);
        let calls = (0..2 * OFTEN).filter(|_| demand.count(key, start)).count();
        assert_eq!(calls, 1);
        let slow = RevisionKey(2);
        assert!(!(0..2 * OFTEN).any(|n| demand.count(slow, start + n * WINDOW / 2)));
    }

    #[test]
    fn remembers_a_bounded_number_of_revisions() {
        let (mut demand, start) = (Demand::default(), Instant::now());
        for n in 0..2 * CALLED as u64 {
            demand.count(RevisionKey(n), start);
        }
        assert_eq!(demand.0.len(), CALLED);
        assert!(!demand.count(RevisionKey(u64::MAX), start + WINDOW));
        assert_eq!(demand.0.len(), 1);
    }
}
