//! Times as people read them.

use jiff::{Timestamp, Unit, tz::TimeZone};

/// `2026-11-22 15:41:50`, in local time.
pub(crate) fn local(time_ms: u64) -> String {
    zoned(time_ms, "%Y-%m-%d %H:%M:%S")
}

/// `15:41:50.123`, in local time.
pub(crate) fn clock(time_ms: u64) -> String {
    zoned(time_ms, "%H:%M:%S%.3f")
}

fn zoned(time_ms: u64, format: &str) -> String {
    let time = timestamp(time_ms).to_zoned(TimeZone::system());
    time.strftime(format).to_string()
}

/// How long ago, in the largest unit that fits: `5 minutes ago`.
pub(crate) fn ago(time_ms: u64) -> String {
    since(time_ms, Timestamp::now())
}

fn since(time_ms: u64, now: Timestamp) -> String {
    let seconds = (now - timestamp(time_ms)).total(Unit::Second).unwrap_or_default().max(0.0) as u64;
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

fn timestamp(time_ms: u64) -> Timestamp {
    i64::try_from(time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_the_largest_unit_that_fits() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: u64| since((1_000_000 - seconds) * 1_000, now);
        assert_eq!(ago(0), "0 seconds ago");
        assert_eq!(ago(61), "1 minute ago");
        assert_eq!(ago(7_300), "2 hours ago");
        assert_eq!(ago(200_000), "2 days ago");
        assert_eq!(since(2_000_000_000, now), "0 seconds ago");
        assert_eq!(since(u64::MAX, now), "11 days ago");
    }
}
