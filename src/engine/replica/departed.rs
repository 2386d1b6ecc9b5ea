//! Addresses that have just left this node, and what the kernel ends because of that.
//!
//! When an address goes, or its interface is set down, the kernel ends every entry that was masqueraded to it
//! (`nf_nat_masquerade`'s notifiers, `masq_inet_event` and `masq_device_event`). That is this node's loss,
//! not the connection's end: told to the peer, it would take the copies away that the next owner needs. So
//! such ends are held back: the entry stays in the table, without the kernel. Who takes the group over gets
//! it by the handover; when the address comes back here, it is installed again; when this node stays primary
//! without the address, it has ended after all.
//!
//! Called by the daemon, which hears of addresses by rtnetlink before it hears of the ends. Destroys nothing
//! in any kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Replica;
use crate::table::{Flags, Slot, SlotId};
use ctsync_ctnetlink::entry::Entry;

/// A primary that has been without an address for so long will not hand over any more.
const HANDOVER: Duration = Duration::from_secs(3);

/// What has left.
#[derive(Default)]
pub(super) struct Departed {
    /// Addresses, and when they left.
    addresses: BTreeMap<IpAddr, Instant>,
    /// Keys, by hash, under which the kernel has made another entry meanwhile.
    strays: BTreeSet<u64>,
}

impl Departed {
    pub(super) fn covers(&self, entry: &Entry) -> bool {
        // Not translated, it does not go with an address of ours.
        entry.reply.dst != entry.orig.src && self.addresses.contains_key(&entry.reply.dst)
    }

    /// Whoever owns the group from now on knows nothing of this node's losses.
    pub(super) fn forget(&mut self) {
        self.addresses.clear();
        self.strays.clear();
    }

    /// The kernel's entry is to make room for the one that was kept, once. Nothing else is ever replaced by a
    /// primary (12): this one belongs to the same packets, and came up while their address was away.
    pub(super) fn replaces(&mut self, slot: &Slot) -> bool {
        slot.has(Flags::PRESENT | Flags::REPLACE) && self.strays.remove(&slot.key_hash)
    }

    fn judged_at(&self) -> Option<Instant> {
        self.addresses.values().min().map(|at| *at + HANDOVER)
    }
}

impl Replica {
    /// These addresses are not on a working interface of this node any more. Told before the events that it
    /// causes.
    pub fn handle_departed(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Instant) {
        if self.ownership.is_owner() {
            for address in addresses {
                self.departed.addresses.entry(address).or_insert(now);
            }
        }
    }

    /// These addresses are (again): what was held back for them goes into the kernel again.
    pub fn handle_returned(&mut self, addresses: &[IpAddr]) {
        let back: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|address| self.departed.addresses.remove(address).is_some())
            .collect();
        for id in self.held_back(&back) {
            if let Some(mut slot) = self.table.get_mut(id)
                && self.departed.strays.contains(&slot.key_hash)
            {
                slot.set(Flags::INSTALLED | Flags::REPLACE);
            }
            self.want_kernel(id, false);
        }
    }

    /// An end that a departed address has caused: the entry is kept, the kernel has it no more.
    pub(super) fn hold_back(&mut self, id: SlotId) -> bool {
        let Some(mut slot) = self.table.get_mut(id) else { return false };
        // Nearly always nothing has left, and no entry is unpacked to be looked at.
        let held = self.ownership.is_owner()
            && !self.departed.addresses.is_empty()
            && slot.has(Flags::PRESENT)
            && self.departed.covers(&slot.entry());
        if held {
            slot.clear(Flags::INSTALLED | Flags::PENDING | Flags::READ_BACK | Flags::STRAY | Flags::REPLACE);
            self.departed.strays.remove(&slot.key_hash);
            self.counters.held_back += 1;
        }
        held
    }

    /// A packet that comes while the address is away is translated to another one by the kernel: the entry
    /// that is kept is the connection's, the kernel's a stray under its key. Told to the peer, it would take
    /// the good copy there.
    pub(super) fn keeps_from(&mut self, id: SlotId, found: &Entry) -> bool {
        if !self.ownership.is_owner() || self.departed.addresses.is_empty() {
            return false;
        }
        let Some(mut slot) = self.table.get_mut(id) else { return false };
        let kept = slot.has(Flags::PRESENT)
            && self.departed.covers(&slot.entry())
            && found.reply.dst != slot.entry().reply.dst;
        if kept {
            slot.clear(Flags::INSTALLED | Flags::PENDING | Flags::READ_BACK | Flags::REPLACE);
            self.departed.strays.insert(slot.key_hash);
        }
        kept
    }

    /// When that is judged next. A node that is not primary waits for whoever is, however long that takes.
    pub(super) fn next_departed(&self) -> Option<Instant> {
        self.departed.judged_at().filter(|_| self.standing().primary)
    }

    /// Entries without the kernel whose address left and did not come back, on a node that is still primary:
    /// ended.
    pub(super) fn judge_departed(&mut self, now: Instant) {
        if self.next_departed().is_none_or(|at| now < at) {
            return;
        }
        let late: Vec<IpAddr> = self
            .departed
            .addresses
            .iter()
            .filter(|(_, at)| now >= **at + HANDOVER)
            .map(|(address, _)| *address)
            .collect();
        self.departed.addresses.retain(|address, _| !late.contains(address));
        for id in self.held_back(&late) {
            let hash = self.table.get(id).map(|slot| slot.key_hash);
            let stray = hash.is_some_and(|hash| self.departed.strays.remove(&hash));
            self.end(id);
            if stray {
                // What the kernel has instead is what there is.
                self.want_kernel(id, true);
            }
            self.release(id);
        }
    }

    /// Entries held back for these addresses.
    fn held_back(&self, addresses: &[IpAddr]) -> Vec<SlotId> {
        if addresses.is_empty() || !self.ownership.is_owner() {
            return Vec::new();
        }
        let held = |id: &SlotId| {
            self.table.get(*id).is_some_and(|slot| {
                slot.has(Flags::PRESENT)
                    && !slot.has_any(Flags::INSTALLED | Flags::PENDING | Flags::ASKED)
                    && addresses.contains(&slot.entry().reply.dst)
            })
        };
        (0..self.table.end()).filter(held).collect()
    }
}
