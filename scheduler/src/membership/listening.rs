//! How long this node has been able to hear: the only clock by which others are called lost.
//!
//! Time counts only while this node's own heartbeats come back to it in time, and only in steps of a tick that was not
//! late. So a process that was stopped or starved, a NATS that is away or frozen, and a jump of the wall clock all stop
//! this clock, and nobody is blamed for a silence that was ours.

use std::time::Duration;
use tokio::time::Instant;

/// Pure: `now` comes in.
#[derive(Debug)]
pub(super) struct Listening {
    interval: Duration,
    tick: Duration,
    total: Duration,
    at: Instant,
    echo: Instant,
    interrupted: bool,
}

impl Listening {
    /// For heartbeats every `interval` and ticks every `tick`.
    pub(super) fn new(interval: Duration, tick: Duration, now: Instant) -> Self {
        Self { interval, tick, total: Duration::ZERO, at: now, echo: now, interrupted: false }
    }

    /// Time heard so far.
    pub(super) fn total(&self) -> Duration {
        self.total
    }

    /// This node's latest heartbeat, sent at `sent`, came back. True if that ends an interruption: what others said
    /// meanwhile may still be on its way.
    pub(super) fn echo(&mut self, sent: Instant, now: Instant) -> bool {
        if now - sent > self.interval {
            return false;
        }
        self.echo = now;
        std::mem::take(&mut self.interrupted)
    }

    /// A tick: counts the time since the last one if it was spent hearing.
    pub(super) fn advance(&mut self, now: Instant) {
        let since = now - self.at;
        self.at = now;
        // The next echo is due one interval after the last; half an interval more is not yet an interruption.
        if now - self.echo <= self.interval * 3 / 2 {
            self.total += since.min(self.tick * 2);
        } else {
            self.interrupted = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn counts_time_only_while_echoes_come_back_in_time() {
        let start = Instant::now();
        let mut listening = Listening::new(400 * MS, 100 * MS, start);
        let mut run = |from: u32, to: u32, echoes: bool| {
            let mut resumed = false;
            for tick in from / 100..to / 100 {
                let now = start + tick * 100 * MS;
                if echoes && tick % 4 == 0 {
                    resumed |= listening.echo(now, now);
                }
                listening.advance(now);
            }
            (listening.total(), resumed)
        };
        assert_eq!(run(0, 2_000, true), (1_900 * MS, false));
        let (at_the_cut, _) = run(2_000, 10_000, false);
        assert!(at_the_cut <= 2_300 * MS, "{at_the_cut:?}");
        let (after, resumed) = run(10_000, 11_000, true);
        assert!(resumed);
        assert_eq!(after, at_the_cut + 1_000 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_stopped_counts_two_ticks_at_most() {
        let start = Instant::now();
        let mut listening = Listening::new(400 * MS, 100 * MS, start);
        listening.echo(start, start);
        listening.advance(start + 30_000 * MS);
        assert_eq!(listening.total(), Duration::ZERO);
        assert!(!listening.echo(start, start + 30_000 * MS), "an echo of 30 s ago proves nothing");
        assert!(listening.echo(start + 30_000 * MS, start + 30_001 * MS));
        listening.advance(start + 30_400 * MS);
        assert_eq!(listening.total(), 200 * MS);
    }
}
