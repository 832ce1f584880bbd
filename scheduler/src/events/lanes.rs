//! Which deliveries wait for which: those with the same key run one after another, in the order they came.

use std::collections::HashMap;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The ends of all lanes of one consumer. Lanes that ended are forgotten when there are twice as many as were in use.
#[derive(Default)]
pub(super) struct Lanes {
    last: HashMap<String, CancellationToken>,
    sweep_at: usize,
}

/// A place in a lane; leaving it lets the next one go.
pub(super) struct Turn {
    before: Option<CancellationToken>,
    _after: DropGuard,
}

impl Lanes {
    /// Takes the last place in the lane `key`.
    pub(super) fn enter(&mut self, key: &str) -> Turn {
        if self.last.len() >= self.sweep_at {
            self.last.retain(|_, last| !last.is_cancelled());
            self.sweep_at = (2 * self.last.len()).max(64);
        }
        let mine = CancellationToken::new();
        let before = self.last.insert(key.to_owned(), mine.clone());
        Turn { before, _after: mine.drop_guard() }
    }
}

impl Turn {
    /// Waits until everything before it in its lane has left.
    pub(super) async fn wait(&self) {
        if let Some(before) = &self.before {
            before.cancelled().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn one_waits_for_the_one_before_in_its_lane_only() {
        let mut lanes = Lanes::default();
        let (first, other) = (lanes.enter("a"), lanes.enter("b"));
        let (second, third) = (lanes.enter("a"), lanes.enter("a"));
        assert!(first.wait().now_or_never().is_some() && other.wait().now_or_never().is_some());
        assert!(second.wait().now_or_never().is_none());
        drop(first);
        assert!(second.wait().now_or_never().is_some() && third.wait().now_or_never().is_none());
        drop(second);
        assert!(third.wait().now_or_never().is_some());
    }

    #[test]
    fn lanes_that_ended_are_forgotten() {
        let mut lanes = Lanes::default();
        for n in 0..10_000 {
            drop(lanes.enter(&n.to_string()));
        }
        assert!(lanes.last.len() <= 64, "{}", lanes.last.len());
    }
}
