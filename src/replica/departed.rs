//! Addresses that have just left this node, and what the kernel ends because of that.
//!
//! When an address goes, or its interface is set down, the kernel ends every entry that was masqueraded to it
//! (`nf_nat_masquerade`'s notifiers, `masq_inet_event` and `masq_device_event`). That is this node's loss, not the
//! connection's end: told to the peer, it would take the copies away that the next owner needs. So such ends are held
//! back: the entry stays in the table, without the kernel. Who takes the group over gets it by the handover; when the
//! address comes back here, it is installed again; when this node stays primary without the address, it has ended after all.
//!
//! Called by the daemon, which hears of addresses by rtnetlink before it hears of the ends. Destroys nothing in any kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Replica;
use crate::entry::Entry;
use crate::table::{Flags, SlotId};

/// A primary that has been without an address for so long will not hand over any more.
const HANDOVER: Duration = Duration::from_secs(3);

/// Addresses that left, and when.
#[derive(Default)]
pub(super) struct Departed(BTreeMap<IpAddr, Instant>);

impl Departed {
    pub(super) fn covers(&self, entry: &Entry) -> bool {
        // Not translated, it does not go with an address of ours.
        entry.reply.dst != entry.orig.src && self.0.contains_key(&entry.reply.dst)
    }

    /// Whoever owns the group from now on knows nothing of this node's losses.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    fn judged_at(&self) -> Option<Instant> {
        self.0.values().min().map(|at| *at + HANDOVER)
    }
}

impl Replica {
    /// These addresses are not on a working interface of this node any more. Told before the events that it causes.
    pub fn handle_departed(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Instant) {
        if self.group.owner {
            for address in addresses {
                self.departed.0.entry(address).or_insert(now);
            }
        }
    }

    /// These addresses are (again): what was held back for them goes into the kernel again.
    pub fn handle_returned(&mut self, addresses: &[IpAddr]) {
        let back: Vec<IpAddr> =
            addresses.iter().copied().filter(|address| self.departed.0.remove(address).is_some()).collect();
        for id in self.held_back(&back) {
            self.want_kernel(id, false);
        }
    }

    /// An end that a departed address has caused: the entry is kept, the kernel has it no more.
    pub(super) fn hold_back(&mut self, id: SlotId) -> bool {
        let Some(slot) = self.table.get_mut(id) else { return false };
        // Nearly always nothing has left, and no entry is unpacked to be looked at.
        let held = self.group.owner
            && !self.departed.0.is_empty()
            && slot.flags.contains(Flags::PRESENT)
            && self.departed.covers(&slot.entry());
        if held {
            slot.flags -=
                Flags::INSTALLED | Flags::PENDING | Flags::READ_BACK | Flags::STRAY | Flags::REPLACE;
            self.counters.held_back += 1;
        }
        held
    }

    /// When that is judged next. A node that is not primary waits for whoever is, however long that takes.
    pub(super) fn next_departed(&self) -> Option<Instant> {
        self.departed.judged_at().filter(|_| self.standing().primary)
    }

    /// Entries without the kernel whose address left and did not come back, on a node that is still primary: ended.
    pub(super) fn judge_departed(&mut self, now: Instant) {
        if self.next_departed().is_none_or(|at| now < at) {
            return;
        }
        let late: Vec<IpAddr> = self
            .departed
            .0
            .iter()
            .filter(|(_, at)| now >= **at + HANDOVER)
            .map(|(address, _)| *address)
            .collect();
        self.departed.0.retain(|address, _| !late.contains(address));
        for id in self.held_back(&late) {
            self.end(id);
            self.release(id);
        }
    }

    /// Entries held back for these addresses.
    fn held_back(&self, addresses: &[IpAddr]) -> Vec<SlotId> {
        if addresses.is_empty() || !self.group.owner {
            return Vec::new();
        }
        let held = |id: &SlotId| {
            self.table.get(*id).is_some_and(|slot| {
                slot.flags.contains(Flags::PRESENT)
                    && !slot.flags.intersects(Flags::INSTALLED | Flags::PENDING | Flags::ASKED)
                    && addresses.contains(&slot.entry().reply.dst)
            })
        };
        (0..self.table.end()).filter(held).collect()
    }
}
