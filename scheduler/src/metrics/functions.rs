//! Which functions have counters of their own: those that are deployed, up to a bound.
//!
//! Read on every invocation without a lock; made anew when what is deployed changes, which is seldom.

use dunlin_api::FunctionName;
use std::{collections::HashMap, sync::Arc};

use super::function::PerFunction;
use crate::snapshot::Snapshot;

/// Functions with series of their own. Each that was called has some twenty of them, and a server of Prometheus
/// begins to feel a target with tens of thousands.
pub const MAX_FUNCTIONS: usize = 1_000;

/// Stands for all other functions. It cannot be the name of one.
pub(super) const OTHER: &str = "_other";

/// The counters of all functions.
#[derive(Debug, Default)]
pub(super) struct Functions {
    own: HashMap<FunctionName, Arc<PerFunction>>,
    other: Arc<PerFunction>,
}

impl Functions {
    /// The counters that `name` counts on.
    pub(super) fn of(&self, name: &FunctionName) -> &PerFunction {
        self.own.get(name).unwrap_or(&self.other)
    }

    /// What `name` is called in a label.
    pub(super) fn label<'a>(&self, name: &'a FunctionName) -> &'a str {
        if self.own.contains_key(name) { name.as_str() } else { OTHER }
    }

    /// The same for what is deployed in `snapshot`: who has counters keeps them, who was removed loses them, and those that
    /// came take the room that is left in the order of their names.
    pub(super) fn following(&self, snapshot: &Snapshot) -> Self {
        let kept = self.own.iter().filter(|(name, _)| snapshot.functions.contains_key(*name));
        let mut own: HashMap<_, _> = kept.map(|(name, counters)| (name.clone(), counters.clone())).collect();
        let mut new: Vec<_> = snapshot.functions.keys().filter(|name| !own.contains_key(*name)).collect();
        new.sort_unstable();
        let room = MAX_FUNCTIONS.saturating_sub(own.len());
        own.extend(new.into_iter().take(room).map(|name| (name.clone(), Arc::default())));
        Self { own, other: self.other.clone() }
    }

    /// All counters with their labels, by name, so that two pages can be compared.
    pub(super) fn all(&self) -> Vec<(&str, &PerFunction)> {
        let mut all: Vec<_> = self.own.iter().map(|(name, counters)| (name.as_str(), &**counters)).collect();
        all.push((OTHER, &self.other));
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }
}
