//! Kernel events and dumps into the table: what is believed, what is only noted.

use std::time::Instant;

use super::dumps::Purpose;
use super::hashing::Hashed;
use super::{Cache, Replica, Verb};
use crate::reconcile::note_found;
use crate::table::{Flags, SlotId, SlotMut, is_present};
use ctsync_ctnetlink::codec::Event;
use ctsync_ctnetlink::entry::Entry;

/// What an event, a dump or an answer says of a key.
pub(super) enum Report {
    Created(Entry),
    /// By an event, which tells only what has changed.
    Updated(Entry),
    /// By a dump or an answer, which tell everything.
    Exists(Entry),
    Gone,
}

impl Replica {
    /// Events from the kernel in their order, never echoes of our own requests. None of them is left.
    pub fn handle_events(&mut self, events: &mut Vec<Event>, now: Instant) {
        let keys = events.iter().map(|event| Hashed::of(event.entry()));
        let hashes = self.hashing.batch(keys);
        self.table.prefetch(&hashes);
        for (event, hash) in events.drain(..).zip(&hashes) {
            self.handle_hashed(event, *hash, now);
        }
        self.hashing.give_back(hashes);
    }

    /// One of them by itself.
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        let hash = self.hashing.key(&event.entry().key());
        self.handle_hashed(event, hash, now);
    }

    fn handle_hashed(&mut self, event: Event, hash: u64, now: Instant) {
        self.life.at(now);
        self.dumps.turns.note_waiting();
        let entry = event.entry();
        let id = match self.table.find(hash, &entry.key()) {
            Some(id) if !self.left_out(id, entry) || matches!(event, Event::Destroy(_)) => id,
            Some(_) => {
                self.counters.ignored += 1;
                return;
            }
            // During a dump even the end of an unknown entry is remembered: the dump may still list it (7).
            None if matches!(event, Event::Destroy(_)) && self.dumps.under_way().is_none() => return,
            None if !self.filter.accepts(entry) => {
                self.counters.ignored += 1;
                return;
            }
            None => self.table.insert(hash, entry.clone()),
        };
        let report = match event {
            Event::New(entry) => Report::Created(entry),
            Event::Update(entry) => Report::Updated(entry),
            Event::Destroy(_) => Report::Gone,
        };
        let created = matches!(report, Report::Created(_));
        let (turn, dump, believes) = (self.dumps.turns.now(), self.dumps.number(), self.believes());
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.newer_than = dump;
        if slot.asked_in == turn {
            // Our request and this event have no common order: ask the kernel (8).
            self.want_kernel(id, true);
            return;
        }
        if matches!(report, Report::Created(_) | Report::Gone) {
            slot.clear(Flags::MINE);
        }
        if created {
            // Another connection: the one kept aside has ended.
            slot.clear(Flags::FORGOTTEN);
        }
        if believes {
            let pending = slot.has(Flags::PENDING) && !slot.has(Flags::READ_BACK);
            if pending && slot.has(Flags::PRESENT) && matches!(report, Report::Gone) {
                // It means the older connection; the pending install stands (13).
                slot.clear(Flags::INSTALLED);
            } else {
                slot.clear(Flags::PENDING);
                self.kernel_says(id, report);
            }
        } else if self.trusts_kernel() {
            self.kernel_says(id, report);
        } else {
            self.hear_as_backup(id, report);
        }
        if created && self.ownership.is_owner() {
            self.reread_master(id);
        }
        self.following.settle(now);
        self.release(id);
    }

    /// A reload's filter keeps the entry out, although its slot is still there.
    fn left_out(&self, id: SlotId, entry: &Entry) -> bool {
        let present = is_present(&self.table, id);
        !present && self.trusts_kernel() && !self.filter.accepts(entry)
    }

    /// The kernel's word is the truth: this node owns the group, or is primary with no living owner (15).
    pub(super) fn believes(&self) -> bool {
        self.ownership.is_owner()
            || (self.standing().primary && !self.peers.own() && !self.ownership.is_starting())
    }

    /// Also while a starting daemon has heard of no owner, or none is expected any more: all it knows is its
    /// kernel.
    pub(super) fn trusts_kernel(&self) -> bool {
        self.believes()
            || ((self.ownership.is_starting() || self.ownership.is_abandoned()) && !self.peers.own())
    }

    /// An entry of a group owned elsewhere: never announced, never trusted (I3).
    fn hear_as_backup(&mut self, id: SlotId, report: Report) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        let present = slot.has(Flags::PRESENT);
        let created = matches!(report, Report::Created(_));
        match report {
            Report::Gone => {
                slot.clear(Flags::STRAY | Flags::INSTALLED);
                if present {
                    self.want_kernel(id, false);
                }
            }
            Report::Created(entry) | Report::Updated(entry) | Report::Exists(entry) if present => {
                note_found(&mut slot, &entry);
                slot.put(Flags::REBORN, created || slot.has(Flags::REBORN));
                self.want_kernel(id, true);
            }
            Report::Created(entry) | Report::Updated(entry) | Report::Exists(entry) => {
                slot.set(Flags::INSTALLED);
                slot.set_entry(entry);
                if slot.has(Flags::MINE) {
                    self.want_kernel(id, false);
                } else {
                    self.note_stray(id);
                }
            }
        }
    }

    /// A kernel entry of unknown origin: left to its own timer, taken into the table at a claim (11).
    pub(super) fn note_stray(&mut self, id: SlotId) {
        for ended in self.strays.note(&mut self.table, id) {
            self.release(ended);
        }
    }

    /// The table takes the kernel's word.
    pub(super) fn kernel_says(&mut self, id: SlotId, report: Report) {
        if let Report::Created(found) | Report::Updated(found) | Report::Exists(found) = &report
            && self.keeps_from(id, found)
        {
            return;
        }
        let owner = self.ownership.is_owner();
        let present = is_present(&self.table, id);
        let born = matches!(report, Report::Created(_)) || (!present && !matches!(report, Report::Gone));
        let birth = born.then(|| self.table.next_birth());
        let Some(mut slot) = self.table.get_mut(id) else { return };
        let mut rewritten = false;
        match report {
            Report::Created(entry) => {
                slot.set_entry(entry);
                slot.set(Flags::INSTALLED);
            }
            Report::Updated(entry) if present => {
                slot.change_entry(|mine| {
                    rewritten = mine.reply != entry.reply;
                    mine.merge(entry);
                });
                slot.set(Flags::INSTALLED);
            }
            Report::Updated(entry) | Report::Exists(entry) => {
                if present {
                    slot.change_entry(|mine| {
                        rewritten = mine.reply != entry.reply;
                        mine.replace(entry);
                    });
                } else {
                    slot.set_entry(entry);
                }
                slot.set(Flags::INSTALLED);
            }
            Report::Gone => {
                if !self.hold_back(id) {
                    self.end(id);
                }
                return;
            }
        }
        slot.clear(Flags::STRAY | Flags::REPLACE);
        slot.birth = birth.unwrap_or(slot.birth);
        if rewritten {
            slot.set(Flags::REWRITTEN);
        }
        self.clear_failure(id);
        self.set_present(id, true);
        self.watch(id);
        if owner {
            self.changes(Cache::Internal, id).note(present);
            self.note_change(id, Cache::Internal, if present { Verb::Update } else { Verb::New });
        }
        self.changed(id);
    }

    /// The entry has ended here.
    pub(super) fn end(&mut self, id: SlotId) {
        let owner = self.ownership.is_owner();
        let Some(mut slot) = self.table.get_mut(id) else { return };
        let present = slot.has(Flags::PRESENT);
        slot.clear(Flags::INSTALLED | Flags::STRAY | Flags::REPLACE);
        self.set_present(id, false);
        if present && owner {
            self.changes(Cache::Internal, id).destroyed += 1;
            self.note_change(id, Cache::Internal, Verb::Destroy);
        }
        self.changed(id);
    }

    /// The table changed by the kernel's word: announce it if the group is owned here, else count it at once.
    pub(super) fn changed(&mut self, id: SlotId) {
        if self.ownership.is_owner() {
            self.mark_dirty(id);
        } else {
            self.following.differ();
            self.count_as_held(id);
        }
    }

    /// Queue a key for the peer; once, however often it changes.
    pub(super) fn mark_dirty(&mut self, id: SlotId) {
        let full = self.table.counts().destroys_due >= self.settings.pending_destroys;
        let Some(mut slot) = self.table.get_mut(id) else { return };
        let destroy = !slot.has(Flags::PRESENT);
        if !destroy {
            slot.clear(Flags::DESTROY_DUE);
        }
        if destroy && slot.sent == 0 {
            // It came and went before it was sent.
            slot.clear(Flags::DIRTY);
            return;
        }
        let due = slot.has(Flags::DESTROY_DUE);
        if destroy && !due && full {
            slot.clear(Flags::DIRTY);
            self.ends.push(self.out.sender.next(), slot.key_hash, slot.sent_birth);
            self.counters.dropped_destroys += 1;
            // A destroy that waits is queued: a datagram follows, and its root tells that this one is gone
            // (1).
            self.count_as(id, 0);
            return;
        }
        slot.put(Flags::DESTROY_DUE, destroy);
        slot.set(Flags::DIRTY);
        self.out.unsent.push(&mut self.table, id, self.life.now());
    }

    /// The event socket has been read empty: requests sent from now on are ordered against later events.
    pub fn handle_events_empty(&mut self) {
        self.dumps.turns.note_empty();
    }

    /// Events wait that have not been read.
    pub fn handle_events_waiting(&mut self) {
        self.dumps.turns.note_waiting();
    }

    /// Another group's replica has had the kernel remove an entry. No event tells of it: a daemon does not
    /// hear its own requests.
    pub fn handle_removed(&mut self, entry: Entry, now: Instant) {
        let turns = self.dumps.turns;
        self.handle_event(Event::Destroy(entry), now);
        self.dumps.turns = turns;
    }

    /// The kernel dropped events.
    pub fn handle_overrun(&mut self) {
        self.dumps.turns.note_waiting();
        self.dumps.want(Purpose::Whole);
        self.counters.overruns += 1;
    }

    /// A dump is due and may start: its events have been read (6). The caller asks the kernel for all
    /// entries.
    pub fn poll_dump(&mut self) -> bool {
        self.dumps.turns.all_read() && self.dumps.begin()
    }

    /// One entry of the dump.
    pub fn handle_dump_entry(&mut self, entry: Entry) {
        let Some(dump) = self.dumps.under_way() else { return };
        let (hash, found) = self.look_up(&entry);
        if found.is_none() && !self.filter.accepts(&entry) {
            return;
        }
        let id = found.unwrap_or_else(|| self.table.insert(hash, entry.clone()));
        if self.left_out(id, &entry) {
            return;
        }
        self.judge_window(id, &entry);
        let trusted = self.trusts_kernel();
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if std::mem::replace(&mut slot.newer_than, dump) == dump {
            // An event was read or a request sent since the dump began: that is newer (7). But the request
            // may have met an entry whose event an overrun has swallowed, and changed only a part of it: what
            // differs is asked for.
            let held = slot.has(Flags::PRESENT | Flags::INSTALLED);
            if held && !self.same_content(id, &entry) {
                self.want_kernel(id, true);
            }
            return;
        }
        // What the first dump shows was there before this run: ours to remove, unless no daemon ran here
        // before.
        let inherited =
            found.is_none() && !self.dumps.known() && !self.worth.fresh() && !self.ownership.is_owner();
        let (present, pending) = (slot.has(Flags::PRESENT), slot.has(Flags::PENDING));
        slot.put(Flags::MINE, slot.has(Flags::MINE) || inherited);
        if trusted && pending {
            return;
        }
        note_found(&mut slot, &entry);
        let as_wanted = present && self.same_content(id, &entry);
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if as_wanted {
            if trusted {
                note_time_left(&mut slot, &entry);
            }
        } else if trusted {
            slot.clear(Flags::REPLACE);
            self.kernel_says(id, Report::Exists(entry));
        } else if present {
            slot.set(Flags::REBORN);
            self.want_kernel(id, false);
        } else if slot.has(Flags::MINE) {
            slot.set_entry(entry);
            self.want_kernel(id, false);
        } else if self.dumps.late() {
            // A dump due at the yield is judged as the owner's: what it finds is offered (9).
            self.kernel_says(id, Report::Exists(entry));
            self.owe(id);
        } else {
            slot.set_entry(entry);
            self.note_stray(id);
        }
    }

    pub(super) fn same_content(&mut self, id: SlotId, entry: &Entry) -> bool {
        let mine = self.content_hash(id);
        self.hashing.content(entry) == mine
    }

    /// The dump is complete. With `ok` false it failed and is due again.
    pub fn handle_dump_end(&mut self, ok: bool, now: Instant) {
        let first = !self.dumps.known();
        if !self.dumps.end(ok) {
            return;
        }
        let dump = self.dumps.number();
        let trusted = self.trusts_kernel();
        let mut absent = Vec::new();
        for id in 0..self.table.end() {
            let Some(slot) = self.table.get_mut(id) else { continue };
            if ok && slot.newer_than != dump && slot.has(Flags::INSTALLED) {
                absent.push(id);
            } else {
                // Slots that only remembered that they were heard of.
                self.release(id);
            }
        }
        for id in absent {
            if trusted {
                // A dump may miss an entry when the kernel's hash is resized: ask before believing.
                self.want_kernel(id, true);
            } else if let Some(mut slot) = self.table.get_mut(id) {
                slot.clear(Flags::INSTALLED | Flags::MINE | Flags::STRAY);
                if slot.has(Flags::PRESENT) {
                    self.want_kernel(id, false);
                }
                self.release(id);
            }
        }
        if ok {
            self.counters.dumps += 1;
            if first {
                self.peers.listen(now);
            }
            if self.ownership.is_owner() {
                self.sweep.completed = Some(now);
            }
        }
        self.end_start(now);
    }

    /// Whether a dump is under way.
    pub fn dumping(&self) -> bool {
        self.dumps.under_way().is_some()
    }
}

/// A dump or an answer tells what is left of a timer, an event what it was set to: the longest is the
/// protocol's. What is left of a lease says nothing.
pub(super) fn note_time_left(slot: &mut SlotMut<'_>, found: &Entry) {
    if !slot.has_any(Flags::LEASED | Flags::MINE) {
        let longest = slot.timeout().max(found.timeout);
        if longest != slot.timeout() {
            slot.change_entry(|entry| entry.timeout = longest);
        }
    }
}
