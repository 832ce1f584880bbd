//! Credit for a body that is sent, and the end of the call it belongs to.
//!
//! The receiver [`grant`](Valve::grant)s bytes, the one task that sends [`take`](Valve::take)s them. Shutting it ends
//! whatever that task does. Bounded: credit saturates.

use futures::task::AtomicWaker;
use std::{
    future::poll_fn,
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::Poll,
};

/// What a chunk costs beside its bytes, so that many tiny ones are bounded too.
pub(super) const CHUNK_COST: u64 = 512;
/// Most bytes of one chunk.
pub(super) const CHUNK: u64 = 64 << 10;

/// One body's credit.
#[derive(Default)]
pub(super) struct Valve {
    credit: AtomicU64,
    opened: AtomicBool,
    shut: AtomicBool,
    waker: AtomicWaker,
}

impl Valve {
    /// Lets `bytes` more through.
    pub(super) fn grant(&self, bytes: u64) {
        let add = |credit: u64| Some(credit.saturating_add(bytes));
        let _ = self.credit.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        self.opened.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ends the call.
    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Runs `work` until the valve is shut: then drops it and returns none.
    pub(super) async fn until_shut<F: Future>(&self, mut work: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.shut.load(Ordering::Acquire) { Poll::Ready(None) } else { work.as_mut().poll(cx).map(Some) }
        })
        .await
    }

    /// Whether a body has begun to flow.
    pub(super) fn is_open(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }

    /// Waits until the receiver has granted anything: before that it may not know of the body.
    pub(super) async fn opened(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.is_open() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Takes credit for one chunk of at most `wanted` bytes; waits while there is none.
    pub(super) async fn take(&self, wanted: usize) -> usize {
        let wanted = (wanted as u64).min(CHUNK);
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            let mut taken = 0;
            let pay = |credit: u64| {
                taken = credit.saturating_sub(CHUNK_COST).min(wanted);
                (taken > 0).then(|| credit - taken - CHUNK_COST)
            };
            match self.credit.fetch_update(Ordering::AcqRel, Ordering::Acquire, pay) {
                Ok(_) => Poll::Ready(taken as usize),
                Err(_) => Poll::Pending,
            }
        })
        .await
    }
}
