//! A delivery that this node has: it stays ours as long as we say in time that we work on it.
//!
//! [`Held::keep`] says so every third of [`ACK_WAIT`]. A process that was stopped for longer finds that out before it
//! starts anything: by then the message may be with another node.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

use crate::store::events::{ACK_WAIT, Settle};
use dunlin_api::StoreError;

/// Tries to settle before that is left to the next delivery.
const TRIES: u32 = 4;
/// Between them at first; doubled each time.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Held {
    pub settle: Arc<dyn Settle>,
    /// When it was last ours for sure; none once that was too long ago.
    since: Mutex<Option<Instant>>,
}

/// How a delivery is settled.
#[derive(Clone, Copy)]
pub(super) enum How<'a> {
    Ack,
    Retry(Duration, u32),
    GiveUp(&'a str),
}

impl Held {
    pub(super) fn new(settle: Arc<dyn Settle>) -> Self {
        Self { settle, since: Mutex::new(Some(Instant::now())) }
    }

    /// Whether nobody else can have it yet.
    pub(super) fn is_ours(&self) -> bool {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = since.filter(|since| since.elapsed() < ACK_WAIT);
        since.is_some()
    }

    /// Keeps it until it is dropped, or until it was lost: then there is nothing to keep.
    pub(super) async fn keep(&self) -> Infallible {
        loop {
            sleep(ACK_WAIT / 3).await;
            if !self.is_ours() {
                return std::future::pending().await;
            }
            let told = Instant::now();
            if let Ok(Ok(())) = timeout(ACK_WAIT / 3, self.settle.progress()).await {
                *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
            }
        }
    }

    /// Settles it; whether the store took that. If not, the message comes again.
    pub(super) async fn settle(&self, how: How<'_>) -> bool {
        let mut pause = PAUSE;
        for _ in 0..TRIES {
            match timeout(ACK_WAIT / 3, self.tell(how)).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => tracing::debug!(%error, "a delivery cannot be settled yet"),
                Err(_) => {}
            }
            sleep(pause).await;
            pause *= 2;
        }
        false
    }

    async fn tell(&self, how: How<'_>) -> Result<(), StoreError> {
        match how {
            How::Ack => self.settle.ack().await,
            How::Retry(delay, failed) => self.settle.retry(delay, failed).await,
            How::GiveUp(reason) => self.settle.give_up(reason).await,
        }
    }
}
