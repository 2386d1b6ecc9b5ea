//! Helpers and what they bring: masters go before their children, a child waits for its master, and entries
//! that a helper watches are read again, because no event tells when NAT begins to adjust their sequence
//! numbers. PPTP's calls are taken over under the keys that a kernel meets which has not seen them being set
//! up.

use std::time::{Duration, Instant};

use super::requests::outlives;
use super::{Cache, Changes, Replica, Request};
use crate::failure::Failure;
use crate::reconcile::Op;
use crate::table::{Flags, Lists, Queue, Slot, SlotId, Table, is_present};
use ctsync_ctnetlink::codec::Install;
use ctsync_ctnetlink::entry::Entry;

/// Between two slices of reading again.
const TICK: Duration = Duration::from_millis(50);
/// Slices in which every watched entry is read once, if they are few.
const SLICES: usize = 5;
/// Most reads in a slice: many watched entries are read less often.
const SLICE: usize = 256;
/// Children waiting for their masters; past it the sweep tries them again.
const ORPHANS: usize = 65536;
/// Entries in a list before those that ended are looked for.
const PRUNE: usize = 1024;
/// Expectations created again in the batch that replaces their master; helpers foresee fewer.
const FORESEEN: usize = 16;
/// How long the master of an entry is waited for, before something else is tried.
const PATIENCE: Duration = Duration::from_secs(3);
/// Generations of masters: a call that H.323's gatekeeper announced has three.
const GENERATIONS: u8 = 4;

/// What related entries need.
pub(super) struct Related {
    /// Entries with a helper, and expectations.
    watched: Queue,
    next_slice: Instant,
    /// Children whose masters this kernel lacks, and since when.
    orphans: Queue<Instant>,
    /// GRE entries of PPTP calls.
    calls: Queue,
    /// Length of the lists at which those that ended are taken out.
    prune_at: usize,
    /// A master was installed since the orphans were looked at.
    master_came: bool,
}

impl Related {
    pub(super) fn new(now: Instant) -> Related {
        Related {
            watched: Queue::new(Lists::WATCHED),
            next_slice: now,
            orphans: Queue::new(Lists::ORPHANS),
            calls: Queue::new(Lists::CALLS),
            prune_at: PRUNE,
            master_came: false,
        }
    }

    pub(super) fn check(&self, table: &Table) -> Result<(), String> {
        self.watched.check(table)?;
        self.orphans.check(table)?;
        self.calls.check(table)
    }
}

impl Replica {
    /// When the next slice is due: only the owner's kernel changes by itself, but orphans wait everywhere.
    pub(super) fn next_reread(&self) -> Option<Instant> {
        let busy =
            self.ownership.is_owner() && !self.related.watched.is_empty() || !self.related.orphans.is_empty();
        busy.then_some(self.related.next_slice)
    }

    /// The table took an entry: is it one to watch?
    pub(super) fn watch(&mut self, id: SlotId) {
        let Some(slot) = self.table.get(id) else { return };
        let (watched, call) = (slot.has_helper(), slot.master_key().is_some() && slot.entry().is_call());
        if watched {
            self.related.watched.push(&mut self.table, id);
        }
        if call {
            self.related.calls.push(&mut self.table, id);
        }
        if self.related.watched.len() + self.related.calls.len() >= self.related.prune_at {
            self.prune_related();
        }
    }

    /// The lists grow with the entries that live, not with those that ever were.
    fn prune_related(&mut self) {
        let calls = self.related.calls.drop_unless(&mut self.table, is_present);
        let watched = self.related.watched.drop_unless(&mut self.table, is_present);
        for id in calls.into_iter().chain(watched) {
            self.release(id);
        }
        self.related.prune_at = PRUNE + 2 * (self.related.watched.len() + self.related.calls.len());
    }

    /// A claim: this kernel has not seen the PPTP calls being set up, and will meet their packets under other
    /// keys.
    pub(super) fn take_calls_over(&mut self) {
        for id in self.related.calls.take(&mut self.table) {
            let Some(slot) = self.table.get(id) else { continue };
            let met = slot.entry().without_keymap().filter(|_| slot.has(Flags::PRESENT));
            self.release(id);
            for met in met.into_iter().flatten() {
                self.install_as_met(met);
            }
        }
    }

    fn install_as_met(&mut self, entry: Entry) {
        let id = self.slot_for(&entry);
        let birth = self.table.next_birth();
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if slot.has(Flags::PRESENT) {
            return;
        }
        slot.set_entry(entry);
        slot.birth = birth;
        self.set_present(id, true);
        self.mark_dirty(id);
        self.want_kernel(id, false);
    }

    /// A slice of reading again; an owner's expectations are given back their own timers instead.
    pub(super) fn reread(&mut self, now: Instant) {
        if self.next_reread().is_none_or(|at| now < at) {
            return;
        }
        self.related.next_slice = now + TICK;
        self.give_orphans_up(now);
        if !self.ownership.is_owner() {
            return;
        }
        for _ in 0..self.related.watched.len().div_ceil(SLICES).min(SLICE) {
            let Some(id) = self.related.watched.pop(&mut self.table) else { break };
            if !is_present(&self.table, id) {
                self.release(id);
                continue;
            }
            self.related.watched.push(&mut self.table, id);
            let Some(slot) = self.table.get(id) else { continue };
            // What waits for its install is not there to be read.
            let settled = slot.has(Flags::INSTALLED) && !slot.has(Flags::PENDING);
            if !slot.is_expectation() {
                if settled {
                    self.want_kernel(id, true);
                }
            } else if slot.has(Flags::LEASED) {
                self.want_renewal(id);
            }
        }
    }

    /// An expectation came up: its helper may just have changed its master's packets.
    pub(super) fn reread_master(&mut self, id: SlotId) {
        if self.table.get(id).is_none_or(|slot| !slot.is_expectation()) {
            return;
        }
        let Some(master) = self.master_of(id) else { return };
        if self.table.get(master).is_some_and(|slot| slot.has(Flags::INSTALLED)) {
            self.want_kernel(master, true);
        }
    }

    /// The slot of an entry's master.
    pub(super) fn master_of(&mut self, id: SlotId) -> Option<SlotId> {
        let key = self.table.get(id)?.master_key()?;
        let hash = self.hashing.key(&key);
        self.table.find(hash, &key)
    }

    /// A child's master, when it still waits in the queue, goes just before it.
    pub(super) fn request_master_first(
        &mut self,
        id: SlotId,
        generation: u8,
        send: &mut impl FnMut(Request<'_>),
    ) {
        let Some(master) = self.master_of(id).filter(|_| generation < GENERATIONS) else { return };
        let waits = self
            .table
            .get(master)
            .is_some_and(|slot| slot.has(Flags::PRESENT) && !slot.has_any(Flags::INSTALLED | Flags::ASKED));
        if waits && self.work.holds(&self.table, master) {
            self.request(master, generation + 1, send);
            // Its place in the queue stays and finds nothing to do later: an answer that leaves something to
            // do asks again.
            if let Some(mut slot) = self.table.get_mut(master) {
                slot.clear(Flags::PENDING);
            }
        }
    }

    /// The kernel is being asked about what this entry's helper foresaw.
    pub(super) fn is_foreseen_asked(&self, id: SlotId) -> bool {
        let may = self.work.is_under_way() && self.related.watched.contains(&self.table, id);
        let Some(slot) = self.table.get(id).filter(|_| may) else { return false };
        let master = Some(slot.key());
        let children = self.related.watched.iter().filter_map(|id| self.table.get(id));
        children.filter(|slot| slot.has(Flags::ASKED)).any(|slot| slot.master_key() == master)
    }

    /// A master is replaced: the kernel forgets what its helper foresaw (`nf_ct_remove_expectations`), which
    /// is created again in the same batch, as the master is: a daemon that dies in between would have removed
    /// the only copies.
    pub(super) fn foresee_again(&mut self, id: SlotId, send: &mut impl FnMut(Request<'_>)) {
        if !self.related.watched.contains(&self.table, id) {
            return;
        }
        let Some(slot) = self.table.get(id) else { return };
        let master = Some(slot.key());
        let (turn, dump, lease) = (self.dumps.turns.now(), self.dumps.number(), self.settings.lease);
        let mut sent = 0;
        for at in 0..self.related.watched.len() {
            let Some(id) = self.related.watched.at(at) else { break };
            let Some(mut slot) = self.table.get_mut(id) else { continue };
            let child = slot.is_expectation() && slot.master_key() == master;
            if !child || !slot.has(Flags::PRESENT | Flags::INSTALLED) {
                continue;
            }
            slot.clear(Flags::INSTALLED);
            if sent == FORESEEN {
                self.want_kernel(id, false);
                continue;
            }
            sent += 1;
            slot.asked_in = turn;
            slot.newer_than = dump;
            let install = Install::whole(outlives(slot.timeout(), lease));
            send(Request { op: Op::Create, entry: &slot.entry(), install });
            self.note_asked(id, Op::Create);
        }
    }

    /// The kernel lacks the master of this entry: it waits. False: there is no room to wait.
    pub(super) fn wait_for_master(&mut self, id: SlotId) -> bool {
        if self.related.orphans.len() >= ORPHANS {
            // Some may have ended meanwhile.
            self.related.master_came = true;
        }
        if self.related.orphans.len() < ORPHANS {
            self.related.orphans.push_with(&mut self.table, id, self.life.now());
        }
        self.related.orphans.contains(&self.table, id)
    }

    /// An entry was installed: children may have waited for it.
    pub(super) fn note_installed(&mut self, id: SlotId) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.put(Flags::LEASED, slot.is_expectation());
        self.related.master_came |= slot.has_helper();
    }

    /// After a batch: children whose masters are there now are tried again.
    pub(super) fn call_orphans(&mut self) {
        if !std::mem::take(&mut self.related.master_came) {
            return;
        }
        for (id, since) in self.related.orphans.take_with(&mut self.table) {
            let master = self.master_of(id).and_then(|master| self.table.get(master));
            let there = master.is_some_and(|slot| slot.has(Flags::INSTALLED));
            let Some(slot) = self.table.get(id) else { continue };
            let wanted = slot.has(Flags::PRESENT) && !slot.has(Flags::INSTALLED);
            if wanted && !there {
                self.related.orphans.push_with(&mut self.table, id, since);
            } else if wanted {
                self.want_kernel(id, false);
            } else {
                self.release(id);
            }
        }
    }

    /// A claim: whatever waits may be offered its master from now on.
    pub(super) fn be_patient_again(&mut self, now: Instant) {
        self.related.orphans.besides().for_each(|since| *since = now);
    }

    /// Masters that do not come. A connection whose master has ended everywhere lives without it. What a
    /// helper foresees cannot; an owner's table is its kernel, so it is not there; a backup waits on.
    fn give_orphans_up(&mut self, now: Instant) {
        for (id, since) in self.related.orphans.take_with(&mut self.table) {
            if now < since + PATIENCE {
                self.related.orphans.push_with(&mut self.table, id, since);
                continue;
            }
            let master = self.master_of(id).and_then(|master| self.table.get(master));
            let ended = !master.is_some_and(|slot| slot.has(Flags::PRESENT));
            // A master without room waits itself.
            let comes = !ended && !master.is_some_and(|slot| slot.has(Flags::INSTALLED));
            let Some(mut slot) = self.table.get_mut(id) else { continue };
            let missing = slot.has(Flags::PRESENT) && !slot.has(Flags::INSTALLED);
            if missing && ended && !slot.is_expectation() {
                slot.set(Flags::MASTERLESS);
                self.count_failure(Failure::NoMaster);
                self.want_kernel(id, false);
            } else if missing && (comes || !self.ownership.is_owner()) {
                self.related.orphans.push_with(&mut self.table, id, now);
            } else {
                self.clear_failure(id);
                if missing {
                    self.count_failure(Failure::NoMaster);
                    self.refuse(id);
                }
                self.release(id);
            }
        }
    }

    /// Children that wait for their masters.
    pub(super) fn orphans(&self) -> usize {
        self.related.orphans.len()
    }

    /// The numbers that an entry's changes are counted in.
    pub(super) fn changes(&mut self, cache: Cache, id: SlotId) -> &mut Changes {
        let expected = self.table.get(id).is_some_and(Slot::is_expectation);
        match (cache, expected) {
            (Cache::Internal, false) => &mut self.counters.internal,
            (Cache::External, false) => &mut self.counters.external,
            (Cache::Internal, true) => &mut self.counters.internal_expected,
            (Cache::External, true) => &mut self.counters.external_expected,
        }
    }
}
