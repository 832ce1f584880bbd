//! Ticks of schedules, also where clocks are changed.

use super::*;

fn schedule(pattern: &str, timezone: &str) -> Schedule {
    let trigger = serde_json::json!({"schedule": pattern, "timezone": timezone});
    Schedule::of(&serde_json::from_value(trigger).unwrap()).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The first ticks after `after`, as the zone shows them.
fn ticks(schedule: &Schedule, after: &str, count: usize) -> Vec<String> {
    let first = schedule.next(at(after));
    let ticks = std::iter::successors(first, |tick| schedule.next(*tick));
    ticks.take(count).map(|tick| schedule.show(tick)).collect()
}

#[test]
fn ticks_with_and_without_seconds() {
    let minutes = schedule("*/5 * * * *", "UTC");
    assert_eq!(
        ticks(&minutes, "2026-01-01T00:04:59.9Z", 2),
        ["2026-01-01T00:05:00+00:00", "2026-01-01T00:10:00+00:00"]
    );
    let seconds = schedule("*/20 * * * * *", "UTC");
    assert_eq!(ticks(&seconds, "2026-01-01T00:00:20Z", 2), ["2026-01-01T00:00:40+00:00", "2026-01-01T00:01:00+00:00"]);
    assert_eq!(ticks(&schedule("@daily", "UTC"), "2026-01-01T00:00:00Z", 1), ["2026-01-02T00:00:00+00:00"]);
}

#[test]
fn a_schedule_is_a_time_of_its_zone() {
    for (zone, shown) in [
        ("Asia/Kolkata", "2026-07-01T09:00:00+05:30"),
        ("America/New_York", "2026-07-01T09:00:00-04:00"),
        ("Europe/Berlin", "2026-07-01T09:00:00+02:00"),
    ] {
        assert_eq!(ticks(&schedule("0 9 * * *", zone), "2026-06-30T20:00:00Z", 1), [shown]);
    }
}

#[test]
fn in_spring_one_time_a_day_ticks_after_the_gap_and_others_leave_it_out() {
    // In Berlin 02:00 is followed by 03:00 on 29 March 2026.
    let daily = schedule("30 2 * * *", "Europe/Berlin");
    assert_eq!(
        ticks(&daily, "2026-03-28T00:00:00Z", 3),
        ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    );
    let often = schedule("*/30 * * * *", "Europe/Berlin");
    assert_eq!(
        ticks(&often, "2026-03-29T00:29:00Z", 3),
        ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"]
    );
}

#[test]
fn in_autumn_one_time_a_day_ticks_once_and_others_twice() {
    // In Berlin 02:00 to 03:00 comes twice on 25 October 2026.
    let daily = schedule("30 2 * * *", "Europe/Berlin");
    assert_eq!(ticks(&daily, "2026-10-24T22:00:00Z", 2), ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]);
    let often = schedule("*/30 2 * * *", "Europe/Berlin");
    assert_eq!(
        ticks(&often, "2026-10-24T22:00:00Z", 5),
        [
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-26T02:00:00+01:00"
        ]
    );
}

#[test]
fn what_is_found_backwards_is_what_comes_forwards() {
    for pattern in ["30 2 * * *", "*/30 * * * *", "0 0 1 * *", "15,45 2 * * *"] {
        for (from, until) in
            [("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z"), ("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z")]
        {
            let schedule = schedule(pattern, "Europe/Berlin");
            let forward = std::iter::successors(schedule.next(at(from)), |tick| schedule.next(*tick));
            let mut forward: Vec<_> = forward.take_while(|tick| *tick <= at(until)).collect();
            forward.reverse();
            forward.truncate(CAUGHT_UP + 1);
            assert_eq!(schedule.latest(at(from), at(until)), forward, "{pattern} {from}");
        }
    }
}

#[test]
fn a_schedule_that_no_date_fits_never_ticks() {
    assert_eq!(schedule("0 0 30 2 *", "UTC").next(at("2026-01-01T00:00:00Z")), None);
}

/// Plans hourly ticks from midnight, where the node began to look at `since`: the hours that fire, and the position.
fn hours(missed: Missed, since: &str, until: &str) -> (Vec<(i8, usize)>, i8) {
    let time = |text: &str| at(&format!("2026-01-01T{text}Z"));
    let hour = |at: Timestamp| at.to_zoned(TimeZone::UTC).hour();
    let plan = schedule("0 * * * *", "UTC").plan(missed, time("00:00:00"), time(since), time(until));
    (plan.fire.iter().map(|tick| (hour(tick.at), tick.missed)).collect(), hour(plan.position))
}

#[test]
fn ticks_before_the_node_looked_follow_the_policy_and_later_ones_all_fire() {
    assert_eq!(hours(Missed::Skip, "03:30:00", "05:30:00"), (vec![(4, 0), (5, 0)], 5));
    assert_eq!(hours(Missed::Once, "03:30:00", "05:30:00"), (vec![(3, 2), (4, 0), (5, 0)], 5));
    assert_eq!(hours(Missed::All, "03:30:00", "05:30:00"), (vec![(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)], 5));
    // Nothing is due before its time, and a tick at the very moment is.
    assert_eq!(hours(Missed::All, "00:00:00", "00:59:59"), (vec![], 0));
    assert_eq!(hours(Missed::Skip, "00:00:00", "01:00:00"), (vec![(1, 0)], 1));
    assert_eq!(hours(Missed::Skip, "03:30:00", "03:30:00"), (vec![], 3));
}

#[test]
fn a_hundred_missed_ticks_are_caught_up_and_no_more() {
    let minutes = schedule("* * * * *", "UTC");
    let plan = |missed, until: &str| minutes.plan(missed, at("2026-01-01T00:00:00Z"), at(until), at(until));
    assert_eq!(plan(Missed::All, "2026-01-01T01:40:00Z").fire.len(), 100);
    let year = plan(Missed::All, "2027-01-01T00:00:00Z");
    assert_eq!((year.fire.len(), year.fire[99].at), (100, at("2027-01-01T00:00:00Z")));
    assert!(year.fire.iter().all(|tick| tick.caught_up) && year.fire.is_sorted_by_key(|tick| tick.at));
    assert_eq!(plan(Missed::Once, "2027-01-01T00:00:00Z").fire[0].missed, 100);
}

#[test]
fn many_late_ticks_come_in_turns() {
    let seconds = schedule("* * * * * *", "UTC");
    let (start, end) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:02:30Z"));
    let first = seconds.plan(Missed::Skip, start, start, end);
    let second = seconds.plan(Missed::Skip, first.position, start, end);
    assert_eq!((first.fire.len(), second.fire.len(), second.position), (100, 50, end));
}
