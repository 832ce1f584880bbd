//! How long things took, counted into a few fixed ranges: two atomic additions per value, no lock.
//!
//! Not the histogram of the library that writes the page: that one is behind a mutex, which all cores of a node would meet at.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper ends of the ranges in microseconds. From a warm call of a small function to the default timeout; few, because each
/// is a series of every function.
const ENDS_US: [u64; 11] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000, 30_000_000];

/// Counts of durations.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// One for each end, and one for what is longer.
    counts: [AtomicU64; ENDS_US.len() + 1],
    /// Nanoseconds: enough for 584 years.
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, took: Duration) {
        // The short ones are the many, and are found first.
        let range = ENDS_US.iter().position(|end| took <= Duration::from_micros(*end)).unwrap_or(ENDS_US.len());
        self.counts[range].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn read(&self) -> Reading {
        let ends = ENDS_US.iter().map(|end| *end as f64 / 1e6).chain([f64::INFINITY]);
        let ranges: Vec<_> = ends.zip(&self.counts).map(|(end, count)| (end, count.load(Relaxed))).collect();
        let count = ranges.iter().map(|(_, count)| count).sum();
        Reading { ranges, count, sum_seconds: self.sum_ns.load(Relaxed) as f64 / 1e9 }
    }
}

/// A histogram at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    /// Upper end in seconds, and how many fell between it and the one before.
    pub ranges: Vec<(f64, u64)>,
    /// All of them, as the ranges have it.
    pub count: u64,
    pub sum_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_range_that_ends_with_it() {
        let histogram = Histogram::default();
        for took_us in [0, 500, 501, 30_000_000, 30_000_001] {
            histogram.observe(Duration::from_micros(took_us));
        }
        let Reading { ranges, count, sum_seconds } = histogram.read();
        let counts: Vec<_> = ranges.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((count, ranges.last().unwrap().0), (5, f64::INFINITY));
        assert!((sum_seconds - 60.001_002).abs() < 1e-9);
    }
}
