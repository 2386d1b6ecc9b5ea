//! Entries that are bound to this node: translated to an address that no failover moves (masquerade to a
//! router's own address). Nothing can carry them on elsewhere, so they are counted, and told.
//!
//! Called by `handle_timeout`: a slice of the table at a time, so that the loop is not held up. Changes
//! nothing.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Replica;
use crate::table::{Flags, SlotId};
use ctsync_ctnetlink::entry::Entry;

/// Slots looked at in one step.
const SLICE: SlotId = 8192;
/// Between two steps, and between two walks.
const STEP: Duration = Duration::from_millis(250);
const REST: Duration = Duration::from_secs(5);

/// The walk, and what the last whole one found.
pub(super) struct Bound {
    /// The group's virtual addresses; while none are known nothing can be told apart.
    virtual_addresses: HashSet<IpAddr>,
    cursor: SlotId,
    counted: u32,
    found: u32,
    /// One of the addresses that were found.
    address: Option<IpAddr>,
    next: Instant,
}

impl Bound {
    pub(super) fn new(now: Instant) -> Bound {
        Bound { virtual_addresses: HashSet::new(), cursor: 0, counted: 0, found: 0, address: None, next: now }
    }

    pub(super) fn found(&self) -> u32 {
        self.found
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address.filter(|_| self.found > 0)
    }

    fn begin_again(&mut self) {
        (self.cursor, self.counted) = (0, 0);
    }
}

/// The address that binds an entry to this node: what its originator is translated to is `local` and does not
/// move.
pub fn bound_to(
    entry: &Entry,
    local: impl Fn(&IpAddr) -> bool,
    virtual_addresses: &HashSet<IpAddr>,
) -> Option<IpAddr> {
    let to = entry.reply.dst;
    (to != entry.orig.src && local(&to) && !virtual_addresses.contains(&to)).then_some(to)
}

impl Replica {
    /// The addresses that a failover moves.
    pub fn set_virtual_addresses(&mut self, addresses: HashSet<IpAddr>) {
        self.bound.virtual_addresses = addresses;
        self.bound.begin_again();
    }

    /// Look at the next slice, if its time has come.
    pub(super) fn count_bound(&mut self, now: Instant) {
        if now < self.bound.next {
            return;
        }
        self.bound.next = now + STEP;
        if !self.ownership.is_owner() || self.bound.virtual_addresses.is_empty() {
            self.bound.begin_again();
            self.bound.found = 0;
            return;
        }
        let end = self.table.end();
        let until = self.bound.cursor.saturating_add(SLICE).min(end);
        for id in self.bound.cursor..until {
            let Some(slot) = self.table.get(id) else { continue };
            if !slot.has(Flags::PRESENT) || slot.is_expectation() {
                continue;
            }
            let local = |address: &IpAddr| self.filter.local.contains(address);
            if let Some(to) = bound_to(&slot.entry(), local, &self.bound.virtual_addresses) {
                self.bound.counted += 1;
                self.bound.address = Some(to);
            }
        }
        self.bound.cursor = until;
        if until >= end {
            self.bound.found = self.bound.counted;
            self.bound.begin_again();
            self.bound.next = now + REST;
        }
    }
}
