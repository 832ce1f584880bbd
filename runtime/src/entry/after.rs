//! A running guest with its deadline, wherever it is driven from: before the head, beside the body, or after both.

use dunlin_api::InvokeError;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

use super::GuestFuture;
use crate::{admission::Permit, host::Output, ready::Node};

/// A guest that runs until it ends, fails or reaches its deadline. Dropping it ends the guest and frees its slot.
pub(crate) struct Run {
    guest: Option<GuestFuture>,
    deadline: Instant,
    timeout: Duration,
    /// Made when the guest first waits: most never do, and a timer costs more than a short guest.
    timer: Option<Pin<Box<Sleep>>>,
    output: Output,
    _permit: Permit,
}

impl Run {
    pub(crate) fn new(
        guest: GuestFuture,
        deadline: Instant,
        timeout: Duration,
        output: Output,
        permit: Permit,
    ) -> Self {
        Self { guest: Some(guest), deadline, timeout, timer: None, output, _permit: permit }
    }

    /// Lets the guest run. Ready when it has ended; `Ok` ever after.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InvokeError>> {
        let Some(guest) = &mut self.guest else { return Poll::Ready(Ok(())) };
        // A panic in a host call is our fault, and must cost this invocation only, not its connection.
        let polled = catch_unwind(AssertUnwindSafe(|| guest.as_mut().poll(cx)));
        let polled = polled.unwrap_or_else(|_| Poll::Ready(Err(InvokeError::Internal("a host call panicked".into()))));
        if let Poll::Ready(result) = polled {
            self.guest = None;
            return Poll::Ready(result);
        }
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // The store goes with the future: whatever state the guest was in, nobody meets it again.
        self.guest = None;
        let error = InvokeError::Deadline(self.timeout);
        self.output.remark(&error);
        Poll::Ready(Err(error))
    }

    /// Whether the guest has ended.
    pub(crate) fn ended(&self) -> bool {
        self.guest.is_none()
    }

    /// Lets a guest that still runs go on in the background, until its end or its deadline; it keeps its slot.
    pub(crate) fn detach(mut self, node: &Node) {
        if self.ended() {
            return;
        }
        let rest = async move {
            let result = std::future::poll_fn(|cx| self.poll(cx)).await;
            if let Err(error) = result {
                tracing::debug!(%error, "a function failed after its response");
            }
        };
        node.after.spawn_on(rest, &node.runtime);
    }
}
