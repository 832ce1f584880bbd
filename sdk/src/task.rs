//! Async functions: what `#[dunlin_sdk::http]` runs an `async fn` with, and what there is to wait for.
//!
//! An instance serves one request at a time, so this is one future on one thread: while it waits, the instance sleeps in
//! the host's `wasi:io/poll` until one of the things waited for is ready. Combinators of other crates (`futures::join!`,
//! `select!`) work on it; futures that need another runtime do not, and say so.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wasip2::clocks::monotonic_clock;
use wasip2::io::poll::{Pollable, poll};

thread_local! {
    /// What is waited for, and whom to wake. Each entry belongs to a live [`Ready`], so there are as many as those.
    static WAITING: RefCell<Vec<(Rc<Pollable>, Waker)>> = const { RefCell::new(Vec::new()) };
}

/// Runs `future` to its end.
///
/// # Panics
/// When it waits for something that is not of this module: nothing would ever wake it.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let waiting = WAITING.with_borrow(Clone::clone);
        assert!(!waiting.is_empty(), "the function waits for a future of another runtime, which nothing here wakes");
        let pollables: Vec<&Pollable> = waiting.iter().map(|(pollable, _)| pollable.as_ref()).collect();
        for index in poll(&pollables) {
            waiting[index as usize].1.wake_by_ref();
        }
    }
}

/// Waits for `time` to pass, leaving others their turn.
pub async fn sleep(time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    ready(monotonic_clock::subscribe_duration(nanoseconds)).await;
}

/// Waits until `pollable` is ready; for authors who call `wasi` interfaces themselves.
pub async fn ready(pollable: Pollable) {
    Ready(Rc::new(pollable)).await;
}

struct Ready(Rc<Pollable>);

impl Ready {
    fn forget(&self) {
        WAITING.with_borrow_mut(|waiting| waiting.retain(|(pollable, _)| !Rc::ptr_eq(pollable, &self.0)));
    }
}

impl Future for Ready {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.forget();
        if self.0.ready() {
            return Poll::Ready(());
        }
        WAITING.with_borrow_mut(|waiting| waiting.push((self.0.clone(), context.waker().clone())));
        Poll::Pending
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_a_future_that_waits_for_nothing() {
        assert_eq!(block_on(async { 1 + async { 2 }.await }), 3);
    }

    #[test]
    #[should_panic(expected = "another runtime")]
    fn says_so_when_nothing_would_wake_it() {
        block_on(std::future::pending::<()>());
    }
}
