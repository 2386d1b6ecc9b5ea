//! Kernel events and dumps into the table: what is believed, what is only noted.

use std::time::Instant;

use super::{Cache, Replica, Verb};
use crate::reconcile::note_found;
use crate::table::{Flags, SlotId, SlotMut, Table, is_present};
use ctsync_ctnetlink::codec::Incoming;
use ctsync_ctnetlink::entry::Entry;

/// Strays listed before those that ended are looked for.
pub(super) const STRAYS: usize = 1024;

/// What an event, a dump or an answer says of a key.
pub(super) enum Told {
    Created(Entry),
    /// By an event, which tells only what has changed.
    Updated(Entry),
    /// By a dump or an answer, which tell everything.
    Exists(Entry),
    Gone,
}

impl Replica {
    /// Events from the kernel in their order, never echoes of our own requests. None of them is left.
    pub fn handle_events(&mut self, events: &mut Vec<Incoming>, now: Instant) {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        hashes
            .extend(events.iter().map(|event| event.entry().map_or(0, |entry| self.key_hash(&entry.key()))));
        self.table.prefetch(&hashes);
        for (event, hash) in events.drain(..).zip(&hashes) {
            self.handle_hashed(event, *hash, now);
        }
        self.hashes = hashes;
    }

    /// One of them by itself.
    pub fn handle_event(&mut self, event: Incoming, now: Instant) {
        let hash = event.entry().map_or(0, |entry| self.key_hash(&entry.key()));
        self.handle_hashed(event, hash, now);
    }

    fn handle_hashed(&mut self, event: Incoming, hash: u64, now: Instant) {
        self.now = now;
        self.events_empty = false;
        let Some(entry) = event.entry() else { return };
        let id = match self.table.find(hash, &entry.key()) {
            Some(id) if !self.left_out(id, entry) || matches!(event, Incoming::Destroy(_)) => id,
            Some(_) => {
                self.counters.ignored += 1;
                return;
            }
            // During a dump even the end of an unknown entry is remembered: the dump may still list it (7).
            None if matches!(event, Incoming::Destroy(_)) && !self.dumping => return,
            None if !self.filter.accepts(entry) => {
                self.counters.ignored += 1;
                return;
            }
            None => self.table.insert(hash, entry.clone()),
        };
        let told = match event {
            Incoming::New(entry) => Told::Created(entry),
            Incoming::Update(entry) => Told::Updated(entry),
            Incoming::Destroy(_) | Incoming::Answer { .. } => Told::Gone,
        };
        let created = matches!(told, Told::Created(_));
        let (event_turn, dump_number, believes) = (self.event_turn, self.dump_number, self.believes());
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.newer_than = dump_number;
        if slot.asked_in == event_turn {
            // Our request and this event have no common order: ask the kernel (8).
            self.want_kernel(id, true);
            return;
        }
        if matches!(told, Told::Created(_) | Told::Gone) {
            slot.clear(Flags::MINE);
        }
        if created {
            // Another connection: the one kept aside has ended.
            slot.clear(Flags::FORGOTTEN);
        }
        if believes {
            let pending = slot.has(Flags::PENDING) && !slot.has(Flags::READ_BACK);
            if pending && slot.has(Flags::PRESENT) && matches!(told, Told::Gone) {
                // It means the older connection; the pending install stands (13).
                slot.clear(Flags::INSTALLED);
            } else {
                slot.clear(Flags::PENDING);
                self.kernel_says(id, told);
            }
        } else if self.trusts_kernel() {
            self.kernel_says(id, told);
        } else {
            self.hear_as_backup(id, told);
        }
        if created && self.group.owner {
            self.reread_master(id);
        }
        self.note_equality(now);
        self.release(id);
    }

    /// A reload's filter keeps the entry out, although its slot is still there.
    fn left_out(&self, id: SlotId, entry: &Entry) -> bool {
        let present = self.table.get(id).is_some_and(|slot| slot.has(Flags::PRESENT));
        !present && self.trusts_kernel() && !self.filter.accepts(entry)
    }

    /// The kernel's word is the truth: this node owns the group, or is primary with no living owner (15).
    pub(super) fn believes(&self) -> bool {
        self.group.owner || (self.standing().primary && !self.peer_owns() && !self.starting)
    }

    /// Also while a starting daemon has heard of no owner, or none is expected any more: all it knows is its kernel.
    pub(super) fn trusts_kernel(&self) -> bool {
        self.believes() || ((self.starting || self.abandoned) && !self.peer_owns())
    }

    /// An entry of a group owned elsewhere: never announced, never trusted (I3).
    fn hear_as_backup(&mut self, id: SlotId, told: Told) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        let present = slot.has(Flags::PRESENT);
        let created = matches!(told, Told::Created(_));
        match told {
            Told::Gone => {
                slot.clear(Flags::STRAY | Flags::INSTALLED);
                if present {
                    self.want_kernel(id, false);
                }
            }
            Told::Created(entry) | Told::Updated(entry) | Told::Exists(entry) if present => {
                note_found(&mut slot, &entry);
                slot.put(Flags::REBORN, created || slot.has(Flags::REBORN));
                self.want_kernel(id, true);
            }
            Told::Created(entry) | Told::Updated(entry) | Told::Exists(entry) => {
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
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.set(Flags::STRAY);
        if self.strays.push(&mut self.table, id) && self.strays.len() >= self.strays_limit {
            self.forget_ended_strays();
        }
    }

    /// The list of strays grows with those that live, not with those that ever were.
    fn forget_ended_strays(&mut self) {
        let live = |table: &Table, id| table.get(id).is_some_and(|slot| slot.has(Flags::STRAY));
        for id in self.strays.drop_unless(&mut self.table, live) {
            self.release(id);
        }
        self.strays_limit = (2 * self.strays.len()).max(STRAYS);
    }

    /// The table takes the kernel's word.
    pub(super) fn kernel_says(&mut self, id: SlotId, told: Told) {
        if let Told::Created(found) | Told::Updated(found) | Told::Exists(found) = &told
            && self.keeps_from(id, found)
        {
            return;
        }
        let owner = self.group.owner;
        let present = is_present(&self.table, id);
        let born = matches!(told, Told::Created(_)) || (!present && !matches!(told, Told::Gone));
        let birth = born.then(|| self.table.next_birth());
        let Some(mut slot) = self.table.get_mut(id) else { return };
        let mut rewritten = false;
        match told {
            Told::Created(entry) => {
                slot.set_entry(entry);
                slot.set(Flags::INSTALLED);
            }
            Told::Updated(entry) if present => {
                slot.change_entry(|mine| {
                    rewritten = mine.reply != entry.reply;
                    mine.merge(entry);
                });
                slot.set(Flags::INSTALLED);
            }
            Told::Updated(entry) | Told::Exists(entry) => {
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
            Told::Gone => {
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
        let owner = self.group.owner;
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
        if self.group.owner {
            self.mark_dirty(id);
        } else {
            self.group.root_ok = false;
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
            self.counters.dropped_destroys += 1;
            // A destroy that waits is queued: a datagram follows, and its root tells that this one is gone (1).
            self.count_as(id, 0);
            return;
        }
        slot.put(Flags::DESTROY_DUE, destroy);
        slot.set(Flags::DIRTY);
        if self.dirty.push(&mut self.table, id) {
            self.waits.queued(self.now);
        }
    }

    /// The event socket has been read empty: requests sent from now on are ordered against later events.
    pub fn handle_events_empty(&mut self) {
        self.events_empty = true;
        self.event_turn = self.event_turn.wrapping_add(1).max(1);
    }

    /// Events wait that have not been read.
    pub fn handle_events_waiting(&mut self) {
        self.events_empty = false;
    }

    /// Another group's replica has had the kernel remove an entry. No event tells of it: a daemon does not hear its own
    /// requests.
    pub fn handle_removed(&mut self, entry: Entry, now: Instant) {
        let events_empty = self.events_empty;
        self.handle_event(Incoming::Destroy(entry), now);
        self.events_empty = events_empty;
    }

    /// The kernel dropped events.
    pub fn handle_overrun(&mut self) {
        self.events_empty = false;
        self.dump_due = true;
        self.counters.overruns += 1;
    }

    /// A dump is due and may start: its events have been read (6). The caller asks the kernel for all entries.
    pub fn poll_dump(&mut self) -> bool {
        let start = (self.dump_due || self.look_due) && self.events_empty && !self.dumping;
        if start {
            self.looking = !self.dump_due;
            self.dump_due = false;
            self.look_due = false;
            self.dumping = true;
            self.dump_number = self.dump_number.wrapping_add(1).max(1);
        }
        start
    }

    /// One entry of the dump.
    pub fn handle_dump_entry(&mut self, entry: Entry) {
        if !self.dumping {
            return;
        }
        let (hash, found) = self.look_up(&entry);
        if found.is_none() && !self.filter.accepts(&entry) {
            return;
        }
        let id = found.unwrap_or_else(|| self.table.insert(hash, entry.clone()));
        if self.left_out(id, &entry) {
            return;
        }
        self.judge_window(id, &entry);
        let (dump_number, trusted) = (self.dump_number, self.trusts_kernel());
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if std::mem::replace(&mut slot.newer_than, dump_number) == dump_number {
            // An event was read or a request sent since the dump began: that is newer (7). But the request may have met
            // an entry whose event an overrun has swallowed, and changed only a part of it: what differs is asked for.
            let held = slot.has(Flags::PRESENT | Flags::INSTALLED);
            if held && !self.same_content(id, &entry) {
                self.want_kernel(id, true);
            }
            return;
        }
        // What the first dump shows was there before this run: ours to remove, unless no daemon ran here before.
        let inherited = found.is_none() && !self.dumped && !self.fresh && !self.group.owner;
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
            self.kernel_says(id, Told::Exists(entry));
        } else if present {
            slot.set(Flags::REBORN);
            self.want_kernel(id, false);
        } else if slot.has(Flags::MINE) {
            slot.set_entry(entry);
            self.want_kernel(id, false);
        } else if self.late {
            // A dump due at the yield is judged as the owner's: what it finds is offered (9).
            self.kernel_says(id, Told::Exists(entry));
            self.owe(id);
        } else {
            slot.set_entry(entry);
            self.note_stray(id);
        }
    }

    pub(super) fn same_content(&mut self, id: SlotId, entry: &Entry) -> bool {
        let mine = self.content_hash(id);
        self.content_of(entry) == mine
    }

    /// The dump is complete. With `ok` false it failed and is due again.
    pub fn handle_dump_end(&mut self, ok: bool, now: Instant) {
        if !std::mem::take(&mut self.dumping) {
            return;
        }
        if !ok {
            // A look that failed is still only a look.
            let due = if self.looking { &mut self.look_due } else { &mut self.dump_due };
            *due = true;
        }
        let dump_number = self.dump_number;
        let trusted = self.trusts_kernel();
        let mut absent = Vec::new();
        for id in 0..self.table.end() {
            let Some(slot) = self.table.get_mut(id) else { continue };
            if ok && slot.newer_than != dump_number && slot.has(Flags::INSTALLED) {
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
            if !self.dumped {
                self.dumped = true;
                self.listening = now;
            }
            self.late &= self.dump_due || self.look_due;
            if self.group.owner {
                self.sweep.completed = Some(now);
            }
        }
        self.end_start(now);
    }

    /// Whether a dump is under way.
    pub fn dumping(&self) -> bool {
        self.dumping
    }

    /// Remember since when the digests have been equal.
    pub(super) fn note_equality(&mut self, now: Instant) {
        if !self.group.root_ok {
            self.group.root_ok_since = None;
        } else if self.group.root_ok_since.is_none() {
            self.group.root_ok_since = Some(now);
        }
    }
}

/// A dump or an answer tells what is left of a timer, an event what it was set to: the longest is the protocol's. What is left
/// of a lease says nothing.
pub(super) fn note_time_left(slot: &mut SlotMut<'_>, found: &Entry) {
    if !slot.has_any(Flags::LEASED | Flags::MINE) {
        let longest = slot.timeout().max(found.timeout);
        if longest != slot.timeout() {
            slot.change_entry(|entry| entry.timeout = longest);
        }
    }
}
