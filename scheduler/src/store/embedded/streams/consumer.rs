//! One consumer: what all holds on it share, and the deliveries that they hand out.
//!
//! A pull reads the disk only behind the cursor and for what is due again; an append wakes it. Nothing is handed out that
//! a cancelled call could lose: taking is one step without a wait.

use dunlin_api::{BoxFuture, StoreError};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

use super::{flight::Flight, log::Log};
use crate::store::events::{Consumer, Delivery, Settle, Stored, Waiting};

/// Rows that one step of a pull looks at before others may use the thread.
const SCAN: usize = 256;

pub(super) struct Shared {
    pub(super) log: Box<dyn Log>,
    /// Told of new messages, and of room.
    pub(super) wake: Arc<Notify>,
    state: Mutex<State>,
    holds: AtomicU64,
}

#[derive(Default)]
struct State {
    flight: Flight,
    ordered: bool,
    gone: bool,
}

impl Shared {
    pub(super) fn new(log: Box<dyn Log>, wake: Arc<Notify>) -> Self {
        Self { log, wake, state: Mutex::default(), holds: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether only one hold gets messages at a time.
    pub(super) fn set_ordered(&self, ordered: bool) {
        self.state().ordered = ordered;
    }

    /// The consumer was removed: pulls end.
    pub(super) fn close(&self) {
        self.state().gone = true;
        self.wake.notify_waiters();
    }

    /// Whether nothing is out.
    pub(super) fn is_idle(&self) -> bool {
        self.state().flight.len() == 0
    }

    pub(super) fn waiting(&self) -> Result<Waiting, StoreError> {
        let (cursor, unsettled) = {
            let state = self.state();
            (state.flight.cursor, state.flight.len() as u64)
        };
        Ok(Waiting { pending: self.log.count(cursor)?, unsettled })
    }

    /// What can be handed out now, or when to look again; `None` = when told.
    fn take(self: &Arc<Self>, hold: u64, max: usize) -> Result<Taken, StoreError> {
        let (mut state, now) = (self.state(), Instant::now());
        if state.gone {
            return Err(StoreError::NotFound("the consumer".into()));
        }
        if state.ordered && !state.flight.admits(hold, now) {
            return Ok(Taken::Wait(state.flight.busy_until(now)));
        }
        let mut taken = Vec::new();
        for sequence in state.flight.due(now, max) {
            match self.log.get(sequence)? {
                Some((stored, failed)) => taken.push(self.delivery(&mut state.flight, stored, failed, now)),
                // Deleted, or replaced by a later change.
                None => state.flight.settled(sequence),
            }
        }
        let room = state.flight.room().min(max - taken.len());
        let mut ended = true;
        if room > 0 {
            let scan = self.log.scan(state.flight.cursor, room.min(SCAN))?;
            state.flight.cursor = state.flight.cursor.max(scan.last);
            ended = scan.ended;
            for (stored, failed) in scan.found {
                taken.push(self.delivery(&mut state.flight, stored, failed, now));
            }
        }
        Ok(match (taken.is_empty(), ended) {
            (false, _) => Taken::Some(taken),
            (true, false) => Taken::More,
            (true, true) => Taken::Wait(state.flight.next()),
        })
    }

    fn delivery(self: &Arc<Self>, flight: &mut Flight, stored: Stored, failed: u32, now: Instant) -> Delivery {
        let sequence = stored.sequence;
        let (delivered, failed) = flight.hand_out(sequence, failed, now);
        let settle = Arc::new(Handed { consumer: self.clone(), sequence, delivered, failed });
        Delivery { stream: self.log.name().to_owned(), stored, delivered, failed, settle }
    }
}

enum Taken {
    Some(Vec<Delivery>),
    /// Nothing so far, but the log goes on.
    More,
    /// Nothing until somebody tells, or until then.
    Wait(Option<Instant>),
}

/// A hold on a consumer.
pub(super) struct Hold {
    shared: Arc<Shared>,
    number: u64,
    /// Told when the hold is gone.
    left: Box<dyn Fn() + Send + Sync>,
}

impl Hold {
    pub(super) fn new(shared: Arc<Shared>, left: Box<dyn Fn() + Send + Sync>) -> Self {
        let number = shared.holds.fetch_add(1, Ordering::Relaxed);
        Self { shared, number, left }
    }
}

impl Consumer for Hold {
    fn pull(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Delivery>, StoreError>> {
        Box::pin(async move {
            loop {
                // Before looking: what comes after that is told.
                let mut told = std::pin::pin!(self.shared.wake.notified());
                told.as_mut().enable();
                match self.shared.take(self.number, max.max(1))? {
                    Taken::Some(deliveries) => return Ok(deliveries),
                    Taken::More => tokio::task::yield_now().await,
                    Taken::Wait(None) => told.await,
                    Taken::Wait(Some(until)) => tokio::select! {
                        () = told => {}
                        () = tokio::time::sleep_until(until) => {}
                    },
                }
            }
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.state().flight.left(self.number);
        self.shared.wake.notify_waiters();
        (self.left)();
    }
}

/// One delivery that is out.
struct Handed {
    consumer: Arc<Shared>,
    sequence: u64,
    delivered: u64,
    failed: u32,
}

impl Handed {
    fn settled(&self) {
        let full_or_ordered = {
            let mut state = self.consumer.state();
            let full = state.flight.room() == 0;
            state.flight.settled(self.sequence);
            full || state.ordered
        };
        if full_or_ordered {
            self.consumer.wake.notify_waiters();
        }
    }
}

impl Settle for Handed {
    fn ack(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.consumer.log.acked(self.sequence).await?;
            self.settled();
            Ok(())
        })
    }

    fn progress(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.consumer.state().flight.progress(self.sequence, self.delivered, Instant::now());
        Box::pin(std::future::ready(Ok(())))
    }

    fn retry(&self, delay: Duration, failed: u32) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if failed != self.failed {
                self.consumer.log.failed(self.sequence, failed).await?;
            }
            let now = Instant::now();
            self.consumer.state().flight.retry(self.sequence, self.delivered, failed, now, delay);
            // Who waits for the next that is due looks again when that is.
            self.consumer.wake.notify_waiters();
            Ok(())
        })
    }

    fn give_up<'a>(&'a self, reason: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.consumer.log.ended(self.sequence).await?;
            tracing::debug!(stream = self.consumer.log.name(), sequence = self.sequence, reason, "given up");
            self.settled();
            Ok(())
        })
    }
}
