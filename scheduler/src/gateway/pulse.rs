//! What a connection's socket and its requests tell the one who watches over its time.
//!
//! Timers cost more than a small request does, so no request sets one. Socket and requests note what they see in a
//! [`Pulse`], the connection asks its [`Watch`] after each poll how long that may last, and keeps one timer for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

use super::config::Config;

/// Signs of life, written where they happen. Relaxed: each is read by the task that wrote it, or after a wake-up.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Requests begun.
    requests: AtomicU32,
    /// Requests whose response has not ended.
    in_flight: AtomicU32,
    /// Bytes came while no request was in flight: a head has begun.
    fed: AtomicBool,
    /// The socket takes no more.
    stalled: AtomicBool,
    /// Writes that moved something.
    writes: AtomicU32,
    /// A request had a body, which may not have been read to its end.
    pub had_body: AtomicBool,
    /// The client speaks HTTP/1.0, whose responses may end with the connection.
    pub old_client: AtomicBool,
}

impl Pulse {
    /// The socket gave bytes.
    pub(super) fn read(&self) {
        if self.in_flight.load(Relaxed) == 0 {
            self.fed.store(true, Relaxed);
        }
    }

    /// The socket took bytes, or takes no more.
    pub(super) fn wrote(&self, stalled: bool) {
        if !stalled {
            self.writes.store(self.writes.load(Relaxed).wrapping_add(1), Relaxed);
        }
        self.stalled.store(stalled, Relaxed);
    }
}

/// One request in flight, until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Pulse>);

impl Busy {
    pub(super) fn begin(pulse: &Arc<Pulse>) -> Self {
        pulse.in_flight.fetch_add(1, Relaxed);
        pulse.requests.fetch_add(1, Relaxed);
        pulse.fed.store(false, Relaxed);
        Self(pulse.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// What a connection is waiting for, as far as time is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// For its first request.
    Fresh,
    /// For the rest of a head.
    Head,
    /// For the next request.
    Idle,
    /// For the function, whose deadline bounds it.
    Busy,
    /// For the client to take what was written.
    Stalled,
}

/// Knows until when a connection may stay as it is.
pub(super) struct Watch {
    pulse: Arc<Pulse>,
    http2: bool,
    phase: Phase,
    /// Distinguishes two stays in one phase with something between them.
    round: u32,
    since: Instant,
}

impl Watch {
    /// Begins to watch a connection that was accepted at `accepted`.
    pub(super) fn new(pulse: Arc<Pulse>, http2: bool, accepted: Instant) -> Self {
        let mut watch = Self { pulse, http2, phase: Phase::Fresh, round: 0, since: accepted };
        // What has come by now has come since `accepted`.
        (watch.phase, watch.round) = watch.look();
        watch
    }

    fn look(&self) -> (Phase, u32) {
        let pulse = &self.pulse;
        let requests = pulse.requests.load(Relaxed);
        if pulse.stalled.load(Relaxed) {
            (Phase::Stalled, pulse.writes.load(Relaxed))
        } else if pulse.in_flight.load(Relaxed) > 0 {
            (Phase::Busy, 0)
        } else if self.http2 {
            // Frames come at any time: only the requests count.
            (Phase::Idle, requests)
        } else if pulse.fed.load(Relaxed) {
            (Phase::Head, requests)
        } else if requests == 0 {
            (Phase::Fresh, 0)
        } else {
            (Phase::Idle, requests)
        }
    }

    /// Gives the phase its whole time again.
    pub(super) fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// The phase now, and until when it may last. `now` is asked only when a phase begins.
    pub(super) fn observe(&mut self, config: &Config, now: impl FnOnce() -> Instant) -> (Phase, Option<Instant>) {
        let (phase, round) = self.look();
        if (phase, round) != (self.phase, self.round) {
            // The first head has one budget from the accept on, however its bytes are spread.
            let same_head = self.phase == Phase::Fresh && phase == Phase::Head;
            (self.phase, self.round) = (phase, round);
            if phase != Phase::Busy && !same_head {
                self.since = now();
            }
        }
        let bound = |limit: Duration| Some(self.since + limit);
        let until = match phase {
            Phase::Fresh | Phase::Head => bound(config.head_timeout),
            Phase::Idle => bound(config.idle_timeout),
            Phase::Stalled => bound(config.write_timeout),
            Phase::Busy => None,
        };
        (phase, until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_time_and_only_a_new_stay_begins_it_anew() {
        let pulse = Arc::new(Pulse::default());
        let (config, start) = (Config::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(pulse.clone(), false, start);
        let mut observe = |second| watch.observe(&config, || after(second));
        assert_eq!(observe(0), (Phase::Fresh, Some(after(10))));
        pulse.fed.store(true, Relaxed);
        assert_eq!(observe(4), (Phase::Head, Some(after(10))));
        let busy = Busy::begin(&pulse);
        assert_eq!(observe(4), (Phase::Busy, None));
        pulse.stalled.store(true, Relaxed);
        assert_eq!(observe(4), (Phase::Stalled, Some(after(34))));
        assert_eq!(observe(5), (Phase::Stalled, Some(after(34))));
        pulse.writes.store(1, Relaxed);
        assert_eq!(observe(5), (Phase::Stalled, Some(after(35))));
        pulse.stalled.store(false, Relaxed);
        drop(busy);
        assert_eq!(observe(5), (Phase::Idle, Some(after(65))));
        pulse.fed.store(true, Relaxed);
        assert_eq!(observe(6), (Phase::Head, Some(after(16))));
    }
}
