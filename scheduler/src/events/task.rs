//! One delivery on this node, from the moment it was pulled until it is settled.
//!
//! It waits for its turn and for a slot, runs, and is settled by its outcome. While it is here the store is told so. A failed
//! one goes back to the store until its next try; in an ordered source it waits here, because nothing may overtake it.
//! What did not run waits here for [`HOLD`] at most. Nothing is given up before its dead letter is stored.

use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Outcome, Work,
    answer::LONGEST_WAIT,
    held::{Held, How},
    item,
    lanes::Turn,
    source::{InForce, Source},
    stats::Running,
    work::reason,
};
use crate::store::events::Delivery;

/// Deliveries beyond `max_deliver` of an event that never had an outcome: it may be what kills its nodes.
const ENDLESS: u64 = 50;
/// How long an event waits here for a node that takes it.
const HOLD: Duration = Duration::from_secs(30);
/// Before it is tried again, doubled up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Longest time until what was given back comes again: it grows, so that [`ENDLESS`] deliveries take hours.
const BACK: Duration = Duration::from_secs(600);
/// Until what a stopping node gives back comes again elsewhere.
const AT_ONCE: Duration = Duration::from_millis(1);
/// How long items wait for a function that is not deployed: what this node knows may be old.
const UNDEPLOYED: Duration = Duration::from_secs(60);
/// Between tries to store a dead letter, doubled up to the second.
const BURY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// What is kept of what a function printed.
const LOG_LINES: usize = 20;
const LOG_BYTES: usize = 4 << 10;

pub(super) struct Task {
    pub source: Arc<Source>,
    pub delivery: Delivery,
    pub turn: Option<Turn>,
    /// What has not begun is given back.
    pub halt: CancellationToken,
    /// A delivery of this ordered source is not settled: those behind it are left, too.
    pub broken: CancellationToken,
}

/// What happens next with a delivery.
enum Next {
    /// It was settled.
    Settled,
    /// It was not, and comes again.
    Left,
}

impl Task {
    pub(super) async fn run(self) {
        let held = Held::new(self.delivery.settle.clone());
        let next = tokio::select! {
            next = self.process(&held) => next,
            never = held.keep() => match never {},
        };
        if matches!(next, Next::Left) && self.source.ordered() {
            self.broken.cancel();
        }
    }

    async fn process(&self, held: &Held) -> Next {
        let mut failed = self.delivery.failed;
        if let Some(turn) = &self.turn
            && let Err(next) = self.unless_halted(held, failed, turn.wait()).await
        {
            return next;
        }
        let mut waits = Waits::default();
        loop {
            let in_force = self.source.terms.borrow().clone();
            let terms = &in_force.terms;
            if self.delivery.delivered > u64::from(terms.max_deliver) + ENDLESS {
                let reason = format!("it was delivered {} times without an outcome", self.delivery.delivered);
                return self.bury(held, failed, &reason).await;
            }
            if !terms.deployed {
                match self.unless_halted(held, failed, self.deployed()).await {
                    Err(next) => return next,
                    Ok(true) => continue,
                    Ok(false) => return self.bury(held, failed, "the function is not deployed").await,
                }
            }
            let outcome = match self.attempt(held, failed, &in_force).await {
                Ok(outcome) => outcome,
                Err(next) => return next,
            };
            let wait = match outcome {
                Outcome::Done => return self.done(held).await,
                Outcome::Rejected { reason } => return self.bury(held, failed + 1, &reason).await,
                Outcome::Failed { after, reason } => {
                    failed += 1;
                    if failed >= terms.max_deliver {
                        return self.bury(held, failed, &reason).await;
                    }
                    let wait = after.map(|after| after.min(LONGEST_WAIT));
                    let wait = wait.unwrap_or_else(|| terms.retry().wait(failed, rand::random()));
                    waits = Waits::default();
                    if !self.source.ordered() {
                        return self.give_back(held, wait, failed).await;
                    }
                    wait
                }
                Outcome::NotRun { .. } => match waits.next() {
                    Some(wait) => wait,
                    // Nothing may overtake it.
                    None if self.source.ordered() => AGAIN.1,
                    None => return self.give_back(held, self.away(), failed).await,
                },
            };
            if let Err(next) = self.unless_halted(held, failed, sleep(wait)).await {
                return next;
            }
        }
    }

    /// Runs it once, when there is a place of its trigger and a slot of its node.
    async fn attempt(&self, held: &Held, failed: u32, in_force: &InForce) -> Result<Outcome, Next> {
        let Source { shared, counters, .. } = &*self.source;
        let room = async { (in_force.places.acquire().await, shared.slots.acquire().await) };
        let _room = self.unless_halted(held, failed, room).await?;
        // Another node may have it by now.
        if !held.is_ours() {
            return Err(Next::Left);
        }
        let _running = Running::begin(counters, &shared.running);
        let run = self.work().run(&self.delivery, failed + 1);
        let Some(outcome) = shared.force.run_until_cancelled(run).await else {
            return Err(self.give_back(held, AT_ONCE, failed).await);
        };
        counters.count(&outcome);
        if let Some(reason) = reason(&outcome) {
            tracing::debug!(function = %self.source.function(), trigger = %self.source.trigger(), delivery = ?self.delivery, reason, "a try failed");
        }
        Ok(outcome)
    }

    /// Calls that nobody waits for are run by others.
    fn work(&self) -> &dyn Work {
        let call = self.delivery.stored.message.header(item::KIND) == Some(item::KIND_CALL);
        if call { &*self.source.shared.calls } else { &*self.source.events }
    }

    /// What `future` gives, unless waiting has no sense any more.
    async fn unless_halted<T>(&self, held: &Held, failed: u32, future: impl Future<Output = T>) -> Result<T, Next> {
        tokio::select! {
            biased;
            () = self.broken.cancelled() => Err(Next::Left),
            () = self.halt.cancelled() => Err(self.give_back(held, AT_ONCE, failed).await),
            value = future => Ok(value),
        }
    }

    /// Waits until the function is deployed; false if that takes too long.
    async fn deployed(&self) -> bool {
        let mut terms = self.source.terms.clone();
        let deployed = async { terms.wait_for(|in_force| in_force.terms.deployed).await.is_ok() };
        tokio::time::timeout(UNDEPLOYED, deployed).await.unwrap_or(false)
    }

    async fn done(&self, held: &Held) -> Next {
        let acked = held.settle(How::Ack).await;
        let message = &self.delivery.stored.message;
        if acked
            && message.header(item::KIND) == Some(item::KIND_EVENT)
            && let Some(name) = message.header(item::BLOB)
            && let Err(error) = self.source.shared.stores.blobs.delete(name).await
        {
            tracing::warn!(blob = name, %error, "the payload of an event that is done stays behind");
        }
        // It had its effect: those behind it may go on, whether or not it comes again.
        Next::Settled
    }

    async fn give_back(&self, held: &Held, wait: Duration, failed: u32) -> Next {
        let given = held.settle(How::Retry(wait, failed)).await;
        if given { Next::Settled } else { Next::Left }
    }

    /// When an event that found no node here comes again.
    fn away(&self) -> Duration {
        let times = u32::try_from(self.delivery.delivered).unwrap_or(u32::MAX);
        HOLD.saturating_mul(times).min(BACK).mul_f64(rand::random_range(0.8..1.2))
    }

    /// Stores the dead letter, however long that takes, and only then gives the delivery up.
    async fn bury(&self, held: &Held, attempts: u32, reason: &str) -> Next {
        let Source { shared, counters, .. } = &*self.source;
        let (function, trigger) = (self.source.function(), self.source.trigger());
        let log = self.log_tail(attempts);
        let mut pause = BURY.0;
        loop {
            let buried = shared.dead.bury(function, trigger, &self.delivery, attempts, reason, log.clone());
            match shared.force.run_until_cancelled(buried).await {
                None => return self.give_back(held, AT_ONCE, attempts.saturating_sub(1)).await,
                Some(Ok(_)) => break,
                Some(Err(error)) if counters.error(error.to_string()) => {
                    tracing::error!(%function, %trigger, %error, "a dead letter cannot be stored yet");
                }
                Some(Err(_)) => {}
            }
            shared.force.run_until_cancelled(sleep(pause)).await;
            pause = (pause * 2).min(BURY.1);
            if !held.is_ours() {
                return Next::Left;
            }
        }
        counters.dead.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::warn!(%function, %trigger, delivery = ?self.delivery, attempts, reason, "an event became a dead letter");
        self.work().buried(&self.delivery, attempts, reason).await;
        held.settle(How::GiveUp(reason)).await;
        // Stored as a dead letter: those behind it may go on, whether or not it comes again.
        Next::Settled
    }

    /// What the function printed in the last tries, as far as this node knows.
    fn log_tail(&self, attempts: u32) -> Vec<String> {
        let lines = self.source.shared.logs.tail(Some(self.source.function()), 1_000);
        let printed = lines.into_iter().filter(|line| self.work().printed(&self.delivery, attempts, line));
        bounded(printed.map(|line| line.text).collect())
    }
}

/// The last lines that fit.
fn bounded(mut lines: Vec<String>) -> Vec<String> {
    let mut bytes = 0;
    for line in &mut lines {
        line.truncate(line.floor_char_boundary(LOG_BYTES));
    }
    let fits = |line: &&String| {
        bytes += line.len();
        bytes <= LOG_BYTES
    };
    let kept = lines.iter().rev().take(LOG_LINES).take_while(fits).count();
    lines.split_off(lines.len() - kept)
}

/// The waits of an event that did not run.
struct Waits {
    since: Option<Instant>,
    pause: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { since: None, pause: AGAIN.0 }
    }
}

impl Waits {
    /// The next wait; none if it waited long enough.
    fn next(&mut self) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let wait = self.pause.mul_f64(rand::random_range(0.5..1.0));
        self.pause = (self.pause * 2).min(AGAIN.1);
        (since.elapsed() < HOLD).then_some(wait)
    }
}
