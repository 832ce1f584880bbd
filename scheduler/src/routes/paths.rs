//! The routes of one host as a tree of path segments.
//!
//! The table makes one per host and asks it on every request. Built in time linear in the routes, read without an
//! allocation. A look-up visits a node of the tree at most once, so its time is bounded by the routes, whatever the path;
//! its depth by the longest pattern.

use http::Method;
use std::{collections::HashMap, sync::Arc};

use super::pattern::{Pattern, Segment};
use crate::snapshot::Deployed;

/// One function's share of a path.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub function: Arc<Deployed>,
    /// Empty = all.
    pub methods: Vec<Method>,
}

impl Claim {
    pub(super) fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }
}

/// Whether some method is in both lists; an empty one holds all.
pub(super) fn overlap(some: &[Method], others: &[Method]) -> bool {
    some.is_empty() || others.is_empty() || some.iter().any(|method| others.contains(method))
}

#[derive(Debug, Default)]
pub(super) struct Paths {
    texts: HashMap<Box<str>, Paths>,
    param: Option<Box<Paths>>,
    /// Claims on the path that ends here.
    here: Vec<Claim>,
    /// Claims on everything below.
    rest: Vec<Claim>,
}

/// Claims on one path. Those of a `{*rest}` on its bare prefix come behind the explicit ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claims<'a> {
    pub explicit: &'a [Claim],
    pub implicit: &'a [Claim],
}

impl Paths {
    /// The claims on `pattern`, to add to.
    pub(super) fn claims(&mut self, pattern: &Pattern) -> &mut Vec<Claim> {
        let mut node = self;
        for segment in pattern.segments() {
            node = match segment {
                Segment::Text(text) => node.texts.entry(text.clone()).or_default(),
                Segment::Param => node.param.get_or_insert_default(),
                Segment::Rest => return &mut node.rest,
            };
        }
        &mut node.here
    }

    /// The claims on the most specific route for `path`.
    pub(super) fn find(&self, path: &str) -> Option<Claims<'_>> {
        self.below(Some(path.strip_prefix('/')?))
    }

    /// `left` is what of the path is left for this node; none if it ended here.
    fn below(&self, left: Option<&str>) -> Option<Claims<'_>> {
        let Some(left) = left else { return Claims::of(&self.here, &self.rest) };
        let (segment, tail) = left.split_once('/').map_or((left, None), |(segment, tail)| (segment, Some(tail)));
        if left.is_empty() {
            // The slash at the end of `/x/`: bare, unless a route ends in exactly that slash.
            let explicit = self.texts.get("").map_or(&[][..], |node| &node.here);
            return Claims::of(explicit, &self.rest);
        }
        let text = self.texts.get(segment).and_then(|node| node.below(tail));
        let param = || self.param.as_ref().filter(|_| !segment.is_empty())?.below(tail);
        text.or_else(param).or_else(|| Claims::of(&self.rest, &[]))
    }
}

impl<'a> Claims<'a> {
    fn of(explicit: &'a [Claim], implicit: &'a [Claim]) -> Option<Self> {
        (!explicit.is_empty() || !implicit.is_empty()).then_some(Self { explicit, implicit })
    }
}
