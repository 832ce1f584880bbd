//! What came of a run.

/// Latencies in milliseconds, and counts; the warm-up is left out.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) early: Vec<f32>,
    pub(super) late: Vec<f32>,
    pub(super) calls: u64,
    pub(super) refusals: u64,
    pub(super) failures: u64,
    pub(super) local: u64,
    /// Calls served by each node, before and after the change of weights.
    pub(super) served: Vec<Vec<u64>>,
}

impl Outcome {
    pub(super) fn percentile(&self, share: f64) -> f32 {
        percentile([&self.early[..], &self.late[..]].concat(), share)
    }

    pub(super) fn p99(&self) -> f32 {
        self.percentile(0.99)
    }

    /// Whether it became worse while it went on, as it does without end where nodes are given more than they can do.
    pub(super) fn diverges(&self) -> bool {
        percentile(self.late.clone(), 0.9) > 1.5 * percentile(self.early.clone(), 0.9)
    }

    pub(super) fn refusals(&self) -> f64 {
        self.refusals as f64 / self.calls as f64
    }

    pub(super) fn failed(&self) -> f64 {
        self.failures as f64 / self.calls as f64
    }

    /// The share of calls that ran where they arrived.
    pub(super) fn here(&self) -> f64 {
        self.local as f64 / self.calls as f64
    }
}

fn percentile(mut latencies: Vec<f32>, share: f64) -> f32 {
    let index = (latencies.len() as f64 * share) as usize;
    *latencies.select_nth_unstable_by(index, f32::total_cmp).1
}
