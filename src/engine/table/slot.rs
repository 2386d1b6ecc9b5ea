//! A slot: what is known of one key, its flags, and the numbers that count them.
//!
//! Flags, the reason of a refusal and the lists that a slot is in change here only, and what counts them
//! changes with them: the numbers cannot drift. Storage: no decisions.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

use bitflags::bitflags;
use ctsync_ctnetlink::entry::{Entry, Key, Rare};

use super::SlotId;
use crate::compact::Compact;
use crate::failure::Failure;

bitflags! {
    /// Where a key stands.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Flags: u32 {
        /// The entry is in the table. Without it the slot's entry is the last one known.
        const PRESENT = 1 << 0;
        /// Differs from what was sent; queued for the stream.
        const DIRTY = 1 << 1;
        /// Something is wanted of the kernel.
        const PENDING = 1 << 2;
        /// The kernel is asked before anything is decided.
        const READ_BACK = 1 << 3;
        /// The kernel holds an entry that this daemon installed, or found when it started.
        const MINE = 1 << 4;
        /// The kernel holds an entry of unknown origin that the table lacks or contradicts.
        const STRAY = 1 << 5;
        /// Owed to the owner that replaced this node.
        const OFFER = 1 << 6;
        /// Believed to be in the kernel.
        const INSTALLED = 1 << 7;
        /// Destroy what the kernel has before creating.
        const REPLACE = 1 << 8;
        /// A reset took it out of the table; kept aside until the owner has sent everything again.
        const FORGOTTEN = 1 << 9;
        /// Counted among the destroys that wait for the channel.
        const DESTROY_DUE = 1 << 10;
        /// This kernel does not know its helper: installed without.
        const HELPLESS = 1 << 11;
        /// No rule of this kernel uses labels: installed without.
        const UNLABELLED = 1 << 12;
        /// Its master has ended before this kernel could have it: installed without.
        const MASTERLESS = 1 << 13;
        /// An expectation that the kernel holds under a backup's lease.
        const LEASED = 1 << 14;
        /// Its next renewal gives it its window tracking back.
        const TRACK = 1 << 15;
        /// Its next renewal sets its kernel timer from the lease to its protocol's timeout.
        const TRIM = 1 << 16;
        /// The kernel's entry may be another connection than the table's: it was not given this birth.
        const REBORN = 1 << 17;
        /// The kernel's entry has what an update cannot take away. Packets did that, unless it is still so at
        /// the next sweep.
        const AHEAD = 1 << 18;
        /// A request about it is under way.
        const ASKED = 1 << 19;
        /// Something else is wanted of the kernel since it was asked.
        const OVERTAKEN = 1 << 20;
        /// Its reply tuple is not the one that was sent.
        const REWRITTEN = 1 << 21;
        /// Any of these: the slot is still needed.
        const HOLDING = Self::PRESENT.bits() | Self::DIRTY.bits() | Self::PENDING.bits() | Self::READ_BACK.bits()
            | Self::STRAY.bits() | Self::FORGOTTEN.bits() | Self::ASKED.bits();
    }
}

bitflags! {
    /// The lists that a slot may be in. Each is one [`super::Queue`]'s, which alone sets and clears it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct Lists: u16 {
        /// Towards the peer.
        const OUT = 1 << 0;
        /// Towards the kernel.
        const IN = 1 << 1;
        /// For a new lease.
        const RENEWALS = 1 << 2;
        /// Kernel entries of unknown origin.
        const STRAYS = 1 << 3;
        /// Entries with a helper, and expectations.
        const WATCHED = 1 << 4;
        /// Children that wait for their masters.
        const ORPHANS = 1 << 5;
        /// GRE entries of PPTP calls.
        const CALLS = 1 << 6;
        /// TCP entries whose window tracking can come back.
        const WINDOWS = 1 << 7;
        /// Those that wait for room in the kernel's table.
        const NO_ROOM = 1 << 8;
    }
}

/// How many slots have what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Entries in the table ([`Flags::PRESENT`]).
    pub present: usize,
    /// Of these, expectations.
    pub expected: usize,
    /// Entries that the kernel refuses.
    pub failed: usize,
    /// Entries owed ([`Flags::OFFER`]).
    pub offers: usize,
    /// Ends that wait for the channel ([`Flags::DESTROY_DUE`]).
    pub destroys_due: usize,
}

impl Counts {
    /// The numbers that this slot is in.
    fn of(slot: &Slot) -> [bool; 5] {
        [
            slot.has(Flags::PRESENT),
            slot.has(Flags::PRESENT) && slot.is_expectation(),
            slot.failure.is_some(),
            slot.has(Flags::OFFER),
            slot.has(Flags::DESTROY_DUE),
        ]
    }

    fn numbers(&mut self) -> [&mut usize; 5] {
        let Counts { present, expected, failed, offers, destroys_due } = self;
        [present, expected, failed, offers, destroys_due]
    }

    pub(super) fn add(&mut self, slot: &Slot) {
        for (number, counted) in self.numbers().into_iter().zip(Counts::of(slot)) {
            *number += usize::from(counted);
        }
    }

    pub(super) fn take(&mut self, slot: &Slot) {
        for (number, counted) in self.numbers().into_iter().zip(Counts::of(slot)) {
            *number -= usize::from(counted);
        }
    }
}

/// What is known of one key.
#[derive(Debug)]
pub struct Slot {
    pub(super) kept: Compact,
    /// Keyed hash of the key; its top bits are the bucket.
    pub key_hash: u64,
    /// Content hash that is counted in the group's sums, 0 for none: as sent on the owner, as held elsewhere.
    pub sent: u64,
    /// Where the key stands.
    flags: Flags,
    /// The lists it is in.
    pub(super) lists: Lists,
    /// Birth stamp of the entry: changes when the tuple is destroyed and created again. A hint, never a
    /// reason to touch the kernel: a restarted daemon stamps anew.
    pub birth: u16,
    /// Birth stamp last sent.
    pub sent_birth: u16,
    /// When the entry came into the table, in seconds of the replica's life.
    pub since: u32,
    /// Why the kernel refused it for good; it is tried again when it changes.
    failure: Option<Failure>,
    /// Tries since the last success.
    pub tries: u8,
    /// The dump that listed it, or that an event or a request of ours is newer than.
    pub newer_than: u32,
    /// The turn of the event socket in which a request was sent for this key.
    pub asked_in: u32,
    /// Neighbours in the bucket.
    pub(super) next: SlotId,
    pub(super) previous: SlotId,
}

impl Slot {
    pub(super) fn new(key_hash: u64, entry: Entry) -> Slot {
        Slot {
            kept: Compact::from(entry),
            key_hash,
            sent: 0,
            flags: Flags::empty(),
            lists: Lists::empty(),
            birth: 0,
            sent_birth: 0,
            since: 0,
            failure: None,
            tries: 0,
            newer_than: 0,
            asked_in: 0,
            next: super::NONE,
            previous: super::NONE,
        }
    }

    /// Whether it has all of these flags.
    pub fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// Whether it has any of these flags.
    pub fn has_any(&self, flags: Flags) -> bool {
        self.flags.intersects(flags)
    }

    /// Whether any number counts it.
    pub(super) fn is_counted(&self) -> bool {
        self.flags.intersects(COUNTED) || self.failure.is_some()
    }

    /// Where the key stands.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Why the kernel refused it for good.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// The entry; its timeout is the owner's when last heard.
    pub fn entry(&self) -> Cow<'_, Entry> {
        self.kept.get()
    }

    /// [`Entry::key`].
    pub fn key(&self) -> Key {
        self.kept.key()
    }

    /// [`Entry::timeout`].
    pub fn timeout(&self) -> Option<u32> {
        self.kept.timeout()
    }

    /// Whether the entry stands for an expectation.
    pub fn is_expectation(&self) -> bool {
        self.kept.wide().is_some_and(|entry| entry.expectation().is_some())
    }

    /// Whether a helper watches its packets.
    pub fn has_helper(&self) -> bool {
        self.kept.wide().is_some_and(|entry| entry.helper().is_some())
    }

    /// What only few entries have.
    pub fn rare(&self) -> Option<&Rare> {
        self.kept.wide().and_then(|entry| entry.rare.as_deref())
    }

    /// [`Entry::master_key`].
    pub fn master_key(&self) -> Option<Key> {
        self.kept.wide().and_then(Entry::master_key)
    }
}

/// A slot to be changed, with the numbers that count it.
#[derive(Debug)]
pub struct SlotMut<'a> {
    pub(super) slot: &'a mut Slot,
    pub(super) counts: &'a mut Counts,
}

/// Flags that are counted.
const COUNTED: Flags = Flags::PRESENT.union(Flags::OFFER).union(Flags::DESTROY_DUE);

impl SlotMut<'_> {
    /// These flags, too.
    pub fn set(&mut self, flags: Flags) {
        self.become_flags(self.slot.flags | flags);
    }

    /// These flags no more.
    pub fn clear(&mut self, flags: Flags) {
        self.become_flags(self.slot.flags - flags);
    }

    /// These flags, or not.
    pub fn put(&mut self, flags: Flags, on: bool) {
        if on {
            self.set(flags);
        } else {
            self.clear(flags);
        }
    }

    fn become_flags(&mut self, flags: Flags) {
        let changed = (self.slot.flags ^ flags) & COUNTED;
        self.slot.flags = flags;
        // Nearly always none has.
        if !changed.is_empty() {
            self.count(changed);
        }
    }

    /// These counted flags have just been set, or cleared.
    fn count(&mut self, changed: Flags) {
        let flags = self.slot.flags;
        let step = |number: &mut usize, flag: Flags| match (changed.contains(flag), flags.contains(flag)) {
            (false, _) => {}
            (true, true) => *number += 1,
            (true, false) => *number -= 1,
        };
        step(&mut self.counts.present, Flags::PRESENT);
        step(&mut self.counts.offers, Flags::OFFER);
        step(&mut self.counts.destroys_due, Flags::DESTROY_DUE);
        if changed.contains(Flags::PRESENT) && self.slot.is_expectation() {
            step(&mut self.counts.expected, Flags::PRESENT);
        }
    }

    /// The kernel refuses it for good, or does no more.
    pub fn set_failure(&mut self, failure: Option<Failure>) {
        if self.slot.failure == failure {
            return;
        }
        self.counts.failed -= usize::from(self.slot.failure.is_some());
        self.slot.failure = failure;
        self.counts.failed += usize::from(failure.is_some());
    }

    /// Another entry of the same key.
    pub fn set_entry(&mut self, entry: Entry) {
        self.slot.kept.set(entry);
    }

    /// The entry changes; its key does not.
    pub fn change_entry(&mut self, change: impl FnOnce(&mut Entry)) {
        self.slot.kept.change(change);
    }
}

impl Deref for SlotMut<'_> {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        self.slot
    }
}

impl DerefMut for SlotMut<'_> {
    fn deref_mut(&mut self) -> &mut Slot {
        self.slot
    }
}
