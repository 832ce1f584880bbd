//! Ctrl-C and SIGTERM.
//!
//! Commands that end by themselves give up at the first signal; nodes drain at the first and leave at the second.

use anyhow::Context as _;
use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::{Exit, Failure};

/// Both signals by which people and service managers ask a process to stop.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// From now on the signals do not end the process by themselves.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    /// The next signal of either kind.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// `work`, unless a signal comes first: then `work` is dropped, which stops what it started.
pub(crate) async fn or_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut stop = Stop::listen()?;
    tokio::select! {
        result = work => result,
        () = stop.asked() => Err(Failure::new(Exit::Interrupted, "stopped").into()),
    }
}
