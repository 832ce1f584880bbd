//! Bounded attempts at one JetStream operation.
//!
//! While a stream changes its leader nobody answers for four to five seconds, so every operation is tried again until it
//! is answered or [`TOTAL`] is over; the last attempt still has its [`ATTEMPT`]. No attempt is made without a connection: what async-nats queues meanwhile is sent
//! much later, after its caller has given up.

use dunlin_api::StoreError;
use std::{fmt::Display, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// The longest wait for one answer: a disk that is busy takes a second, not three.
pub(super) const ATTEMPT: Duration = Duration::from_secs(3);
/// The same for reads: nobody answers one while there is no leader, and asking twice harms nobody.
pub(super) const READ: Duration = Duration::from_secs(1);
/// No attempt begins later: it is twice a change of the leader.
const TOTAL: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Why an attempt did not end the operation well.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt would fail alike.
    Final(StoreError),
    /// It was not carried out.
    NotDone(String),
    /// It may have been carried out.
    Unknown(String),
}

impl Failure {
    /// One that no other attempt mends.
    pub(super) fn lasting(reason: impl Display) -> Self {
        Self::Final(StoreError::Unavailable(reason.to_string()))
    }
}

/// Tries until there is an answer. `attempt` is told whether an earlier one may have been carried out.
pub(super) async fn attempts<T, F>(what: &str, attempt: impl FnMut(bool) -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, Failure>>,
{
    attempts_of(what, ATTEMPT, attempt).await
}

/// The same for attempts that may take `each`.
pub(super) async fn attempts_of<T, F>(
    what: &str,
    each: Duration,
    mut attempt: impl FnMut(bool) -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, Failure>>,
{
    let end = Instant::now() + TOTAL;
    let (mut pause, mut unsure) = (FIRST_PAUSE, false);
    loop {
        let reason = match timeout(each, attempt(unsure)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(Failure::Final(error))) => return Err(error),
            Ok(Err(Failure::NotDone(reason))) => reason,
            Ok(Err(Failure::Unknown(reason))) => {
                unsure = true;
                reason
            }
            Err(_) => {
                unsure = true;
                "no answer".into()
            }
        };
        tracing::debug!(what, reason, "tried again");
        let wait = jitter(pause);
        if Instant::now() + wait >= end {
            let (seconds, late) = (TOTAL.as_secs(), if unsure { "; it may still happen" } else { "" });
            let words = format!("{what}: NATS did not do it within {seconds} s: {reason}{late}");
            return Err(StoreError::Unavailable(words));
        }
        sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Between half of `pause` and all of it, so that those who failed together do not come back together.
pub(super) fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}
