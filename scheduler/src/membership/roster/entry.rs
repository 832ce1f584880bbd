//! What is known of one node, and which process of its name is believed.

use dunlin_api::Load;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

use super::Changed;
use crate::membership::{
    clock::Offset,
    frame::Beat,
    view::{Member, NodeInfo, NodeState},
};

/// One node, and what it is judged by.
pub(super) struct Entry {
    pub(super) member: Member,
    /// Boot and start of the process that owns the name by the record.
    pub(super) owner: Option<(u64, u64)>,
    pub(super) weight: Option<u32>,
    pub(super) sequence: u32,
    pub(super) every: Duration,
    /// Time listened when it was last heard.
    pub(super) heard: Duration,
    /// Time listened when it was suspected.
    pub(super) suspected: Option<Duration>,
    pub(super) clock: Offset,
}

impl Entry {
    pub(super) fn new(info: Arc<NodeInfo>, state: NodeState, now: Instant) -> Self {
        let load = Load { in_flight: 0, slots: info.slots };
        let member = Member {
            slots: info.slots,
            info,
            state,
            drained: false,
            load,
            ready: 0,
            seen: None,
            joined: now,
            clock_offset_ms: None,
            unfit: None,
        };
        let zero = Duration::ZERO;
        Self {
            member,
            owner: None,
            weight: None,
            sequence: 0,
            every: zero,
            heard: zero,
            suspected: None,
            clock: Offset::default(),
        }
    }

    /// Whether `beat` is newer than what is known, and of the process that owns the name.
    pub(super) fn believes(&self, beat: &Beat) -> bool {
        if beat.info.boot == self.member.info.boot {
            return beat.sequence > self.sequence && (self.member.state != NodeState::Left || self.sequence == 0);
        }
        match self.owner {
            Some((boot, _)) if boot == beat.info.boot => true,
            // Its record may still be on its way; that of one that was replaced is not.
            Some((_, started_ms)) => !self.member.is_live() && beat.info.started_ms > started_ms,
            None => !self.member.is_live(),
        }
    }

    /// Begins anew with another process of the same name.
    pub(super) fn replace(&mut self, info: Arc<NodeInfo>, state: NodeState, now: Instant) {
        let fresh = Self::new(info, state, now);
        let slots = self.weight.unwrap_or(fresh.member.slots);
        let member = Member { drained: self.member.drained, slots, ..fresh.member };
        *self = Self { member, owner: self.owner, weight: self.weight, ..fresh };
    }

    pub(super) fn enter(&mut self, state: NodeState, why: &str) {
        let (node, from) = (&self.member.info.node, self.member.state);
        match state {
            NodeState::Lost => tracing::warn!(%node, why, "a node is lost"),
            _ => tracing::info!(%node, ?from, to = ?state, why, "a node changed its state"),
        }
        self.member.state = state;
    }

    /// Marks the node unfit, or fit again, as its clock is. True if that changed.
    pub(super) fn judge_clock(&mut self) -> bool {
        let off = self.clock.is_off();
        if off == self.member.unfit.is_some() {
            return false;
        }
        let ahead_ms = self.clock.ahead_ms().unwrap_or_default();
        let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
        self.member.unfit = off.then(|| format!("its clock is {} ms {side} the one of this node", ahead_ms.abs()));
        let node = &self.member.info.node;
        match &self.member.unfit {
            Some(why) => tracing::warn!(%node, why, "a node gets no calls from here: set the clocks by NTP"),
            None => tracing::info!(%node, "the clock of a node is right again"),
        }
        true
    }

    /// How soon others should see it after it `changed`; it `took` calls before.
    pub(super) fn urgency(&self, changed: bool, took: bool) -> Changed {
        match changed {
            true if took && !self.member.takes_calls() => Changed::Now,
            true => Changed::Soon,
            false => Changed::Nothing,
        }
    }
}
