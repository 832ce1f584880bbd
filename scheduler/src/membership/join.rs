//! How a node becomes a member: it hears itself, hears the others, makes sure of its name, and registers.
//!
//! All others answer a roll call, so it knows the cluster in milliseconds; it waits longer, at most 100 ms, only if
//! some record has no answer, and for [`takeover`](super::MembershipConfig::takeover) if its own name does. NATS reports a
//! denied subscription to nobody, so whatever this node needs to hear it sends to itself once.

use async_nats::{
    Subscriber,
    jetstream::kv::{Entry, Watch},
};
use dunlin_api::{NodeName, StoreError};
use futures::{
    StreamExt,
    stream::{SelectAll, select_all},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{
    JoinError, Membership, MembershipConfig, SUSPECTS, Status,
    frame::{Beat, Frame, MAX_FRAME_BYTES},
    listen::{Inputs, Warned},
    lock,
    records::{Record, Records, parse, pause},
    roster::{Changed, Roster, Rules},
    view::{NodeInfo, NodeState},
};
use crate::nats::Nats;

/// More often would be a flood, more seldom no sign of life.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(60));
/// How long what a node sends may take to come back to it before it is called deaf.
const DEAF: Duration = Duration::from_secs(3);
/// How long answers to the roll call are waited for.
const ROLL_CALL: Duration = Duration::from_millis(100);
/// How long the bucket of the nodes may have no leader: an election takes half of it.
const LEADER: Duration = Duration::from_secs(10);
/// Old records that one joining node removes, so that it is not kept long.
const SWEPT: usize = 64;
/// Attempts to write the own record while operators change it.
const ATTEMPTS: u32 = 8;

pub(super) async fn join(
    nats: &Nats,
    me: NodeInfo,
    status: Arc<dyn Fn() -> Status + Send + Sync>,
    mut config: MembershipConfig,
) -> Result<Arc<Membership>, JoinError> {
    config.interval = config.interval.clamp(INTERVALS.0, INTERVALS.1);
    let store = |error| JoinError::Store { bucket: Records::bucket(nats), error };
    let mut frames = subscribe(nats, &me.node).await?;
    let (records, entries, watch) = opened(nats, &me.node).await.map_err(store)?;
    let (membership, suspects) = create(nats, me, status, config);
    membership.check_length()?;
    for entry in &entries {
        membership.recorded(entry);
    }
    let found = records.get(&membership.me.node).await.map_err(store)?;
    let holder = found.map(|(record, _)| record).filter(|record| !record.left).map(|record| record.info);
    membership.call_the_roll(&mut frames, holder.is_some()).await?;
    membership.register(&records, holder.map(|holder| holder.boot)).await?;
    membership.send_heartbeat(None).await;
    if let Err(deaf) = membership.hear_itself(&mut frames).await {
        membership.goodbye().await;
        return Err(deaf);
    }
    membership.sweep(&records, &entries).await;
    membership.publish_from(Changed::Nothing);
    *lock(&membership.inputs) = Some(Inputs { frames, suspects, watch });
    Ok(Arc::new(membership))
}

/// The bucket and what it holds. When a whole cluster starts its stream may be there before it has a leader.
async fn opened(nats: &Nats, me: &NodeName) -> Result<(Records, Vec<Entry>, Watch), StoreError> {
    let (end, mut attempt) = (Instant::now() + LEADER, 0);
    loop {
        let opened = async {
            let records = Records::open(nats).await?;
            // Any answer will do: one that is read shows that there is a leader.
            records.get(me).await?;
            let (entries, watch) = records.watch().await?;
            Ok((records, entries, watch))
        };
        match opened.await {
            Err(StoreError::Unavailable(error)) if Instant::now() < end => {
                attempt += 1;
                tracing::debug!(error, "the bucket of the nodes cannot be used yet");
                sleep(pause(attempt)).await;
            }
            opened => return opened,
        }
    }
}

async fn subscribe(nats: &Nats, me: &NodeName) -> Result<SelectAll<Subscriber>, JoinError> {
    let subjects = [nats.subjects.heartbeats(), nats.subjects.roll_call(), nats.subjects.membership(me)];
    let mut subscribers = Vec::with_capacity(subjects.len());
    for subject in subjects {
        subscribers.push(nats.control.subscribe(subject).await?);
    }
    Ok(select_all(subscribers))
}

fn create(
    nats: &Nats,
    me: NodeInfo,
    status: Arc<dyn Fn() -> Status + Send + Sync>,
    config: MembershipConfig,
) -> (Membership, mpsc::Receiver<NodeName>) {
    let me = Arc::new(me);
    let rules = Rules { interval: config.interval, misses: config.misses, clock_limit: config.clock_limit };
    let (suspects, suspected) = mpsc::channel(SUSPECTS);
    let membership = Membership {
        nats: nats.clone(),
        roster: Mutex::new(Roster::new(me.clone(), rules, Instant::now())),
        me,
        config,
        status,
        published: watch::Sender::default(),
        drain_wanted: watch::Sender::new(false),
        announce: Notify::new(),
        recheck: Notify::new(),
        suspects,
        inputs: Mutex::new(None),
        sequence: AtomicU32::new(0),
        answered: AtomicU32::new(0),
        revision: AtomicU64::new(0),
        warned: Warned::default(),
    };
    (membership, suspected)
}

impl Membership {
    fn check_length(&self) -> Result<(), JoinError> {
        // The longest frame carries a heartbeat and the question of a node with the longest name.
        let (bytes, limit) = (serde_json::to_vec(&self.me).map_or(0, |json| json.len()), MAX_FRAME_BYTES - 256);
        if bytes > limit { Err(JoinError::TooLong { bytes, limit }) } else { Ok(()) }
    }

    /// Hears itself, then everybody else. With `contested` it waits for another process of its name.
    async fn call_the_roll(&self, frames: &mut SelectAll<Subscriber>, contested: bool) -> Result<(), JoinError> {
        let (all, own) = (self.nats.subjects.roll_call(), self.nats.subjects.membership(&self.me.node));
        let patience = if contested { self.config.takeover } else { ROLL_CALL };
        let mut deaf_to = vec![all.clone(), own.clone()];
        let mut deadline = Instant::now() + DEAF;
        self.ask(all).await;
        self.ask(own).await;
        while !deaf_to.is_empty() || contested || lock(&self.roster).awaited() > 0 {
            let Ok(Some(message)) = timeout_at(deadline, frames.next()).await else { break };
            match Frame::decode(&message.subject, &message.payload) {
                Ok(Frame::Ask(ask)) if ask.boot == self.me.boot => {
                    deaf_to.retain(|subject| *subject != *message.subject);
                    if deaf_to.is_empty() {
                        deadline = Instant::now() + patience;
                    }
                }
                // This node is not a member yet: it does not answer.
                Ok(Frame::Ask(_)) => {}
                Ok(Frame::Beat(beat) | Frame::Answer { beat, .. }) if self.is_rival(&beat) => {
                    return Err(self.taken_by(&beat.info));
                }
                _ => self.receive(&message).await,
            }
        }
        deaf_to.pop().map_or(Ok(()), |subject| Err(JoinError::Deaf(subject)))
    }

    fn is_rival(&self, beat: &Beat) -> bool {
        beat.info.node == self.me.node && beat.info.boot != self.me.boot && beat.state != NodeState::Left
    }

    fn taken_by(&self, holder: &NodeInfo) -> JoinError {
        let now_ms = self.wall_us().unsigned_abs() / 1_000;
        JoinError::NameTaken {
            node: self.me.node.clone(),
            at: holder.http.as_ref().or(holder.admin.as_ref()).map(|at| format!(" at {at}")).unwrap_or_default(),
            age_seconds: now_ms.saturating_sub(holder.started_ms) / 1_000,
        }
    }

    /// Takes the name from `silent`, the process that held it and did not answer, and from nobody else.
    async fn register(&self, records: &Records, silent: Option<u64>) -> Result<(), JoinError> {
        let store = |error| JoinError::Store { bucket: Records::bucket(&self.nats), error };
        for attempt in 1.. {
            let found = records.get(&self.me.node).await.map_err(store)?;
            if let Some((record, _)) = &found
                && !record.left
                && Some(record.info.boot) != silent
            {
                return Err(self.taken_by(&record.info));
            }
            let (drained, slots) = found.as_ref().map_or((false, None), |(record, _)| (record.drained, record.slots));
            let record = Record { info: self.me.clone(), drained, slots, left: false };
            match records.put(&record, found.map(|(_, revision)| revision)).await {
                Ok(revision) => {
                    self.revision.store(revision, Ordering::Relaxed);
                    self.drain_wanted.send_replace(drained);
                    break;
                }
                Err(StoreError::Conflict(_)) if attempt < ATTEMPTS => tokio::time::sleep(pause(attempt)).await,
                Err(error) => return Err(store(error)),
            }
        }
        Ok(())
    }

    /// Removes what nobody misses: where nodes come and go under new names, each that comes makes room.
    async fn sweep(&self, records: &Records, entries: &[Entry]) {
        let now_s = self.wall_us() / 1_000_000;
        let kept_s = i64::try_from(self.config.keep_left.as_secs()).unwrap_or(i64::MAX);
        let missed = |record: &Record| !record.left || record.drained || record.slots.is_some();
        let old = entries.iter().filter(|entry| now_s - entry.created.unix_timestamp() >= kept_s);
        let old = old.filter_map(|entry| Some((parse(entry).ok()??, entry.revision)));
        for (record, revision) in old.filter(|(record, _)| !missed(record)).take(SWEPT) {
            let node = &record.info.node;
            if *node == self.me.node {
                continue;
            }
            match records.remove(node, revision).await {
                Ok(()) => tracing::info!(%node, "the record of a node that left long ago is removed"),
                Err(error) => tracing::debug!(%node, %error, "a record is not removed"),
            }
        }
    }

    async fn hear_itself(&self, frames: &mut SelectAll<Subscriber>) -> Result<(), JoinError> {
        let deadline = Instant::now() + DEAF;
        while let Ok(Some(message)) = timeout_at(deadline, frames.next()).await {
            match Frame::decode(&message.subject, &message.payload) {
                Ok(Frame::Beat(beat)) if self.is_mine(&beat) => return Ok(()),
                _ => self.receive(&message).await,
            }
        }
        Err(JoinError::Deaf(self.nats.subjects.heartbeat(&self.me.node)))
    }
}
