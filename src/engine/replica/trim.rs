//! Leases go back to what their protocols allow: after a takeover, for entries that no packet resets, and on
//! a backup whose owner is lost for good. Paced: it must not hold up the connections that it is about.
//!
//! An entry whose own timeout is as long as the lease needs nothing. Where a packet has come meanwhile the
//! timer is set to what the packet set it to, or a little less, and the next packet sets it again.

use std::time::{Duration, Instant};

use super::{Replica, Role};
use crate::table::{Flags, SlotId};

/// Between two slices, and slots visited in one: a million entries take less than a minute.
const TICK: Duration = Duration::from_millis(10);
const SLICE: SlotId = 256;

/// How far a pass is.
#[derive(Default)]
pub(super) struct Trim {
    /// The next slot, while a pass is under way.
    cursor: Option<SlotId>,
    next_slice: Option<Instant>,
    /// Since when this backup has heard of no owner.
    ownerless: Option<Instant>,
}

impl Replica {
    pub(super) fn next_trim(&self) -> Option<Instant> {
        let lost = self
            .trim
            .ownerless
            .filter(|_| !self.ownership.is_abandoned())
            .map(|at| at + self.settings.tunables.owner_lost);
        self.trim.next_slice.into_iter().chain(lost).min()
    }

    /// A takeover is complete, or the owner is given up.
    pub(super) fn begin_trim(&mut self, now: Instant) {
        self.trim.cursor = Some(0);
        self.trim.next_slice = Some(now + TICK);
    }

    pub(super) fn stop_trim(&mut self) {
        self.trim.cursor = None;
        self.trim.next_slice = None;
    }

    /// Nobody has owned the group for long: what is here ends by its protocols' timeouts, and its end is
    /// believed. An owner that comes back all the same finds a backup again.
    pub(super) fn judge_owner(&mut self, now: Instant) {
        if self.ownership.is_owner()
            || self.peers.own()
            || self.group.role == Role::Primary
            || !self.dumps.known()
        {
            self.trim.ownerless = None;
            if self.ownership.hope() {
                self.stop_trim();
                self.reconcile_all();
            }
            return;
        }
        let since = *self.trim.ownerless.get_or_insert(now);
        if now >= since + self.settings.tunables.owner_lost && self.ownership.abandon() {
            self.begin_trim(now);
        }
    }

    /// The next slice, if its time has come.
    pub(super) fn run_trim(&mut self, now: Instant) {
        let Some(from) = self.trim.cursor.filter(|_| self.trim.next_slice.is_some_and(|at| now >= at)) else {
            return;
        };
        let until = self.table.end().min(from.saturating_add(SLICE));
        for id in from..until {
            self.trim_key(id);
        }
        if until < self.table.end() {
            self.trim.cursor = Some(until);
            self.trim.next_slice = Some(now + TICK);
        } else {
            self.stop_trim();
        }
    }

    fn trim_key(&mut self, id: SlotId) {
        let lease = self.settings.lease;
        let Some(mut slot) = self.table.get_mut(id) else { return };
        let leased = slot.has(Flags::PRESENT | Flags::INSTALLED | Flags::MINE)
            && !slot.has(Flags::PENDING)
            // Those of expectations end with a takeover, whatever happens.
            && !slot.is_expectation()
            && slot.timeout().is_some_and(|own| own < lease);
        if leased {
            slot.set(Flags::TRIM);
            self.want_renewal(id);
        }
    }

    /// The timeout that a renewal gives the entry back, if it is one of those.
    pub(super) fn trimmed(&mut self, id: SlotId) -> Option<u32> {
        let wanted = self.ownership.is_owner() || self.ownership.is_abandoned();
        let mut slot = self.table.get_mut(id).filter(|slot| slot.has(Flags::TRIM))?;
        slot.clear(Flags::TRIM);
        let own = slot.timeout().filter(|_| wanted)?;
        self.counters.trimmed += 1;
        Some(own)
    }
}
