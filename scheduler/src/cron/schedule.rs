//! When a schedule ticks, and which of its ticks are to fire. Pure: times come in as arguments.
//!
//! Ticks are times on the wall clock of the schedule's zone. Where that clock leaps forward, a schedule with one time a day
//! (`30 2 * * *`) ticks at the first moment after the gap, and others leave out what the gap swallowed. Where it goes back,
//! a schedule with one time a day ticks at the first of the two moments only, and others at both. (These are the rules of
//! croner: "fixed time" and "interval" jobs.)

use dunlin_api::trigger::{CronTrigger, Missed};
use jiff::{Timestamp, tz::TimeZone};

/// Ticks that came while no node ran and are caught up or counted.
const CAUGHT_UP: usize = 100;
/// Late ticks in one plan; the rest follow in the next.
const AT_ONCE: usize = 100;

/// A schedule, parsed.
pub(crate) struct Schedule {
    cron: croner::Cron,
    zone: TimeZone,
}

/// A tick that is to fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    /// When.
    pub(crate) at: Timestamp,
    /// How many ticks before it, that came while no node ran, it stands for; counted up to a hundred.
    pub(crate) missed: usize,
    /// Whether it is one of several that are caught up: they wait for each other's runs, whatever the overlap policy.
    pub(crate) caught_up: bool,
}

/// What is to happen with the ticks up to some moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Those to fire, in order.
    pub(crate) fire: Vec<Tick>,
    /// Where the trigger stands afterwards: ticks up to here are dealt with.
    pub(crate) position: Timestamp,
}

impl Schedule {
    /// The schedule of `trigger`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn of(trigger: &CronTrigger) -> Result<Self, String> {
        Ok(Self { cron: trigger.parsed()?, zone: trigger.zone()? })
    }

    /// The first tick after `after`; none if it never ticks again.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&after, false).ok().map(|tick| tick.timestamp())
    }

    /// The last tick before `before`, or at it if `inclusive`.
    fn previous(&self, before: Timestamp, inclusive: bool) -> Option<Timestamp> {
        let before = before.to_zoned(self.zone.clone());
        self.cron.find_previous_occurrence(&before, inclusive).ok().map(|tick| tick.timestamp())
    }

    /// A moment as RFC 3339 with the offset of the schedule's zone.
    pub(crate) fn show(&self, at: Timestamp) -> String {
        at.display_with_offset(self.zone.to_offset(at)).to_string()
    }

    /// What becomes of the ticks after `position` and not after `until`. Those up to `since`, when this node began to
    /// look, came while no node ran: `missed` decides. The later ones are at most late.
    pub(crate) fn plan(&self, missed: Missed, position: Timestamp, since: Timestamp, until: Timestamp) -> Plan {
        let mut plan = Plan { fire: Vec::new(), position };
        let away = since.min(until);
        if away > position {
            plan.catch_up(missed, &self.latest(position, away));
        }
        let mut at = plan.position.max(away);
        for _ in 0..AT_ONCE {
            match self.next(at) {
                Some(tick) if tick <= until && tick > at => at = tick,
                _ => break,
            }
            plan.fire.push(Tick { at, missed: 0, caught_up: false });
            plan.position = at;
        }
        plan
    }

    /// The last ticks after `from` and not after `until`, the last one first; one more than are caught up.
    fn latest(&self, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let first = self.previous(until, true);
        let ticks = std::iter::successors(first, |tick| self.previous(*tick, false));
        ticks.take_while(|tick| *tick > from).take(CAUGHT_UP + 1).collect()
    }
}

impl Plan {
    fn catch_up(&mut self, missed: Missed, latest: &[Timestamp]) {
        let Some(&last) = latest.first() else { return };
        self.position = last;
        match missed {
            Missed::Skip => {}
            Missed::Once => self.fire.push(Tick { at: last, missed: latest.len() - 1, caught_up: false }),
            Missed::All => {
                let ticks = latest.iter().take(CAUGHT_UP).rev();
                self.fire.extend(ticks.map(|at| Tick { at: *at, missed: 0, caught_up: true }));
            }
        }
    }
}

#[cfg(test)]
mod tests;
