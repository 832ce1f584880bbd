//! The deliveries of one consumer that are out: pure, with time as an argument.
//!
//! Messages up to the cursor that are not here are settled. Bound: [`MAX_PENDING`].

use std::collections::{BTreeMap, BTreeSet};
use tokio::time::{Duration, Instant};

use crate::store::events::{ACK_WAIT, MAX_PENDING};

#[derive(Default)]
pub(super) struct Flight {
    /// The last message that was looked at.
    pub(super) cursor: u64,
    out: BTreeMap<u64, Out>,
    due: BTreeSet<(Instant, u64)>,
    /// The hold that gets messages, where only one may.
    holder: Option<u64>,
}

struct Out {
    /// When it is delivered again.
    due: Instant,
    delivered: u64,
    failed: u32,
    /// Somebody works on it; else it waits for its next try.
    handed: bool,
}

impl Flight {
    /// Whether `hold` may get messages where only one hold may: the one that got some last, or a new one when nobody
    /// works on any.
    pub(super) fn admits(&mut self, hold: u64, now: Instant) -> bool {
        if self.holder.is_none() && self.out.values().all(|out| !out.handed || out.due <= now) {
            self.holder = Some(hold);
        }
        self.holder == Some(hold)
    }

    /// When the next of those that somebody works on is given up: another hold may be admitted then.
    pub(super) fn busy_until(&self, now: Instant) -> Option<Instant> {
        self.out.values().filter(|out| out.handed && out.due > now).map(|out| out.due).min()
    }

    /// `hold` is gone.
    pub(super) fn left(&mut self, hold: u64) {
        if self.holder == Some(hold) {
            self.holder = None;
        }
    }

    /// Up to `max` messages that are to be delivered again, in order of their numbers.
    pub(super) fn due(&self, now: Instant, max: usize) -> Vec<u64> {
        let mut due: Vec<_> =
            self.due.range(..=(now, u64::MAX)).map(|(_, sequence)| *sequence).take(MAX_PENDING).collect();
        due.sort_unstable();
        due.truncate(max);
        due
    }

    /// When the next message is to be delivered again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// How many messages more may be out.
    pub(super) fn room(&self) -> usize {
        MAX_PENDING.saturating_sub(self.out.len())
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// A message is handed out, for the first time or again; `failed` is what the disk knows. Returns how often it was
    /// delivered and how often it failed.
    pub(super) fn hand_out(&mut self, sequence: u64, failed: u32, now: Instant) -> (u64, u32) {
        let (delivered, failed) = self.out.get(&sequence).map_or((1, failed), |out| (out.delivered + 1, out.failed));
        self.settled(sequence);
        let due = now + ACK_WAIT;
        self.out.insert(sequence, Out { due, delivered, failed, handed: true });
        self.due.insert((due, sequence));
        (delivered, failed)
    }

    /// A message is out no more.
    pub(super) fn settled(&mut self, sequence: u64) {
        if let Some(out) = self.out.remove(&sequence) {
            self.due.remove(&(out.due, sequence));
        }
    }

    /// There is progress on the delivery number `delivered` of a message.
    pub(super) fn progress(&mut self, sequence: u64, delivered: u64, now: Instant) {
        self.put_off(sequence, delivered, now + ACK_WAIT, |_| {});
    }

    /// The delivery number `delivered` of a message is over; the next one is due after `delay`.
    pub(super) fn retry(&mut self, sequence: u64, delivered: u64, failed: u32, now: Instant, delay: Duration) {
        self.put_off(sequence, delivered, now + delay, |out| {
            out.failed = failed;
            out.handed = false;
        });
    }

    /// Does nothing for a delivery that was given up: another one is on its way.
    fn put_off(&mut self, sequence: u64, delivered: u64, due: Instant, change: impl FnOnce(&mut Out)) {
        if let Some(out) = self.out.get_mut(&sequence).filter(|out| out.delivered == delivered) {
            self.due.remove(&(out.due, sequence));
            out.due = due;
            change(out);
            self.due.insert((due, sequence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_not_settled_is_due_after_the_wait() {
        let (mut flight, start) = (Flight::default(), Instant::now());
        assert_eq!(flight.hand_out(7, 0, start), (1, 0));
        assert_eq!(flight.next(), Some(start + ACK_WAIT));
        assert!(flight.due(start + ACK_WAIT - SECOND, 10).is_empty());
        assert_eq!(flight.due(start + ACK_WAIT, 10), [7]);
        assert_eq!(flight.hand_out(7, 0, start + ACK_WAIT), (2, 0));
        assert!(flight.due(start + ACK_WAIT, 10).is_empty());
        flight.settled(7);
        assert_eq!((flight.next(), flight.len()), (None, 0));
    }

    #[test]
    fn progress_begins_the_wait_anew_for_the_delivery_that_is_out() {
        let (mut flight, start) = (Flight::default(), Instant::now());
        flight.hand_out(7, 0, start);
        flight.progress(7, 1, start + 5 * SECOND);
        assert!(flight.due(start + ACK_WAIT, 10).is_empty());
        assert_eq!(flight.due(start + ACK_WAIT + 5 * SECOND, 10), [7]);
        flight.hand_out(7, 0, start + ACK_WAIT + 5 * SECOND);
        let due = flight.next();
        flight.progress(7, 1, start + 2 * ACK_WAIT);
        flight.retry(7, 1, 3, start, SECOND);
        assert_eq!(flight.next(), due, "the first delivery was given up");
    }

    #[test]
    fn a_retry_is_due_after_its_delay_with_its_failures() {
        let (mut flight, start) = (Flight::default(), Instant::now());
        flight.hand_out(8, 0, start);
        flight.hand_out(7, 2, start);
        flight.retry(8, 1, 1, start, SECOND);
        flight.retry(7, 1, 2, start, 2 * SECOND);
        assert_eq!(flight.due(start + SECOND, 10), [8]);
        assert_eq!(flight.due(start + 2 * SECOND, 10), [7, 8], "in order of their numbers");
        assert_eq!(flight.due(start + 2 * SECOND, 1), [7]);
        assert_eq!(flight.hand_out(8, 0, start + SECOND), (2, 1));
        assert_eq!(flight.hand_out(7, 2, start + SECOND), (2, 2));
    }

    #[test]
    fn one_hold_at_a_time_until_nobody_works() {
        let (mut flight, start) = (Flight::default(), Instant::now());
        assert!(flight.admits(1, start) && !flight.admits(2, start));
        flight.hand_out(7, 0, start);
        flight.hand_out(8, 0, start);
        flight.left(1);
        assert!(!flight.admits(2, start + SECOND));
        flight.settled(7);
        flight.retry(8, 1, 1, start, ACK_WAIT * 10);
        assert!(flight.admits(2, start + SECOND), "what waits for its next try is not worked on");
        flight.hand_out(8, 1, start);
        flight.left(2);
        assert!(flight.admits(1, start + ACK_WAIT), "what was forgotten holds nobody up");
    }

    #[test]
    fn room_ends_at_the_limit() {
        let (mut flight, start) = (Flight::default(), Instant::now());
        for sequence in 0..MAX_PENDING as u64 {
            assert!(flight.room() > 0);
            flight.hand_out(sequence, 0, start);
        }
        assert_eq!(flight.room(), 0);
        flight.settled(0);
        assert_eq!(flight.room(), 1);
    }
}
