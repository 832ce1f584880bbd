//! Keeps what chooses and what sends true to the membership.

use dunlin_api::NodeName;
use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    balancer::{Balancer, Candidate},
    membership::{Member, Members, Membership},
    remote::Remotes,
};

/// A node that calls wait for and that said nothing for so long is asked for.
const QUIET: Duration = Duration::from_millis(250);

/// Tells `balancer` who is there, and calls `lost` for each process that is there no more, until the membership is gone.
pub async fn follow_members(
    membership: Arc<Membership>,
    balancer: Arc<Balancer>,
    lost: impl Fn(&NodeName) + Send + Sync,
) {
    let mut changes = membership.changes();
    let mut known: HashMap<NodeName, u64> = HashMap::new();
    loop {
        let members = changes.borrow_and_update().clone();
        update(&balancer, &members);
        let live = members.iter().filter(|member| member.is_live());
        let live: HashMap<_, _> = live.map(|member| (member.info.node.clone(), member.info.boot)).collect();
        // A process that took the name of another one knows nothing of the calls of that one.
        for (node, _) in known.iter().filter(|(node, boot)| live.get(*node) != Some(*boot)) {
            lost(node);
        }
        known = live;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Looks for nodes that calls wait for and that are gone, until it is dropped. New calls avoid a node that does not answer,
/// so that none of them may find out.
pub async fn suspect_gone(membership: Arc<Membership>, remotes: Arc<Remotes>) {
    loop {
        tokio::time::sleep(QUIET).await;
        for node in remotes.gone().await {
            membership.suspect(&node);
        }
    }
}

/// Makes the live nodes of `members` those that `balancer` chooses from.
pub fn update(balancer: &Balancer, members: &Members) {
    balancer.update(members.iter().filter(|member| member.is_live()).map(|member| candidate(member)).collect());
}

fn candidate(member: &Member) -> Candidate {
    Candidate {
        node: member.info.node.clone(),
        slots: member.slots,
        labels: member.info.labels.clone(),
        zone: member.info.zone.clone(),
        worker: member.info.worker,
        draining: !member.takes_calls(),
        joined: member.joined.into_std(),
    }
}
