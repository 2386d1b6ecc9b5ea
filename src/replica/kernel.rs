//! Kernel events and dumps into the table; the table into kernel requests.

use std::time::{Duration, Instant};

use super::{PENDING_DESTROYS, Replica};
use crate::ctnetlink::codec::{Incoming, Install};
use crate::entry::{Entry, Key};
use crate::reconcile::{Decision, Failure, Op, Outcome, decide, note_answer, note_found};
use crate::table::{Flags, SlotId};

/// The background check of table against kernel (I1a, I1b), paced over its period.
pub(super) struct Sweep {
    cursor: SlotId,
    began: Instant,
    next_slice: Instant,
    /// When the last whole sweep ended.
    pub(super) completed: Option<Instant>,
}

/// Between two slices of a sweep, at least and at most; and slices in a period.
const SWEEP_TICK: Duration = Duration::from_millis(50);
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
const SWEEP_TICKS: u32 = 10_000;
/// Refused offers waiting to be told; past it the offer comes again and is refused again.
const REFUSALS: usize = 4096;
/// Strays listed before those that ended are looked for.
pub(super) const STRAYS: usize = 1024;
/// Most keys in one slice.
const SWEEP_SLICE: SlotId = 4096;

impl Sweep {
    pub(super) fn new(now: Instant) -> Sweep {
        Sweep { cursor: 0, began: now, next_slice: now + SWEEP_TICK, completed: None }
    }

    pub(super) fn next(&self, now: Instant) -> Instant {
        self.next_slice.max(now)
    }
}

/// One request for the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What to do.
    pub op: Op,
    /// With which entry.
    pub entry: &'a Entry,
    /// Timeout and window tracking, where the operation sets them.
    pub install: Install,
}

/// What an event or an answer says of a key.
enum Told {
    Created(Entry),
    Exists(Entry),
    Gone,
}

impl Replica {
    /// An event from the kernel, never an echo of our own requests.
    pub fn handle_event(&mut self, event: Incoming, now: Instant) {
        self.events_empty = false;
        let entry = match &event {
            Incoming::New(entry) | Incoming::Update(entry) | Incoming::Destroy(entry) => entry,
            Incoming::Answer { .. } => return,
        };
        let id = match self.slot_of(entry) {
            Some(id) => id,
            // During a dump even the end of an unknown entry is remembered: the dump may still list it (7).
            None if matches!(event, Incoming::Destroy(_)) && !self.dumping => return,
            None if !self.filter.accepts(entry) => {
                self.counters.ignored += 1;
                return;
            }
            None => self.slot_for(entry),
        };
        let told = match event {
            Incoming::New(entry) => Told::Created(entry),
            Incoming::Update(entry) => Told::Exists(entry),
            Incoming::Destroy(_) | Incoming::Answer { .. } => Told::Gone,
        };
        let (event_turn, dump_number, believes) = (self.event_turn, self.dump_number, self.believes());
        let Some(slot) = self.table.get_mut(id) else { return };
        slot.touched = dump_number;
        if slot.asked == event_turn {
            // Our request and this event have no common order: ask the kernel (8).
            self.want_kernel(id, true);
            return;
        }
        if matches!(told, Told::Created(_) | Told::Gone) {
            slot.flags -= Flags::MINE;
        }
        if believes {
            let pending = slot.flags.contains(Flags::PENDING) && !slot.flags.contains(Flags::READ_BACK);
            if pending && slot.flags.contains(Flags::PRESENT) && matches!(told, Told::Gone) {
                // It means the older connection; the pending install stands (13).
                slot.flags -= Flags::INSTALLED;
            } else {
                slot.flags -= Flags::PENDING;
                self.kernel_says(id, told);
            }
        } else if self.trusts_kernel() {
            self.kernel_says(id, told);
        } else {
            self.hear_as_backup(id, told);
        }
        self.note_equality(now);
        self.release(id);
    }

    /// The kernel's word is the truth: this node owns the group, or is primary with no living owner (15).
    fn believes(&self) -> bool {
        self.group.owner || (self.standing().primary && !self.peer_owns() && !self.starting)
    }

    /// Also while a starting daemon has heard of no owner: all it knows is its kernel.
    fn trusts_kernel(&self) -> bool {
        self.believes() || (self.starting && !self.peer_owns())
    }

    /// An entry of a group owned elsewhere: never announced, never trusted (I3).
    fn hear_as_backup(&mut self, id: SlotId, told: Told) {
        let Some(slot) = self.table.get_mut(id) else { return };
        let present = slot.flags.contains(Flags::PRESENT);
        match told {
            Told::Gone => {
                slot.flags -= Flags::STRAY | Flags::INSTALLED;
                if present {
                    self.want_kernel(id, false);
                }
            }
            Told::Created(entry) | Told::Exists(entry) if present => {
                note_found(slot, &entry);
                self.want_kernel(id, true);
            }
            Told::Created(entry) | Told::Exists(entry) => {
                slot.flags |= Flags::INSTALLED;
                slot.entry = entry;
                if slot.flags.contains(Flags::MINE) {
                    self.want_kernel(id, false);
                } else {
                    self.note_stray(id);
                }
            }
        }
    }

    /// A kernel entry of unknown origin: left to its own timer, taken into the table at a claim (11).
    fn note_stray(&mut self, id: SlotId) {
        let Some(slot) = self.table.get_mut(id) else { return };
        slot.flags |= Flags::STRAY;
        if !slot.flags.contains(Flags::NOTED) {
            slot.flags |= Flags::NOTED;
            self.strays.push(id);
            if self.strays.len() >= self.strays_limit {
                self.forget_ended_strays();
            }
        }
    }

    /// The list of strays grows with those that live, not with those that ever were.
    fn forget_ended_strays(&mut self) {
        let (live, ended): (Vec<SlotId>, Vec<SlotId>) = std::mem::take(&mut self.strays)
            .into_iter()
            .partition(|id| self.table.get(*id).is_some_and(|slot| slot.flags.contains(Flags::STRAY)));
        for id in ended {
            if let Some(slot) = self.table.get_mut(id) {
                slot.flags -= Flags::NOTED;
            }
            self.release(id);
        }
        self.strays_limit = (2 * live.len()).max(STRAYS);
        self.strays = live;
    }

    /// The table takes the kernel's word.
    fn kernel_says(&mut self, id: SlotId, told: Told) {
        let owner = self.group.owner;
        let Some(slot) = self.table.get_mut(id) else { return };
        let present = slot.flags.contains(Flags::PRESENT);
        match told {
            Told::Created(entry) => {
                slot.entry = entry;
                self.births = self.births.wrapping_add(1);
                slot.birth = self.births;
                slot.flags |= Flags::INSTALLED;
            }
            Told::Exists(entry) => {
                if present {
                    slot.entry.merge(entry);
                } else {
                    slot.entry = entry;
                    self.births = self.births.wrapping_add(1);
                    slot.birth = self.births;
                }
                slot.flags |= Flags::INSTALLED;
            }
            Told::Gone => {
                slot.flags -= Flags::INSTALLED | Flags::STRAY | Flags::REPLACE;
                self.set_present(id, false);
                if present && owner {
                    self.counters.internal.destroyed += 1;
                }
                self.changed(id);
                return;
            }
        }
        slot.flags -= Flags::STRAY | Flags::REPLACE;
        self.clear_failure(id);
        self.set_present(id, true);
        if owner {
            self.counters.internal.note(present);
        }
        self.changed(id);
    }

    /// The table changed by the kernel's word: announce it if the group is owned here, else count it at once.
    fn changed(&mut self, id: SlotId) {
        if self.group.owner {
            self.mark_dirty(id);
        } else {
            self.group.root_ok = false;
            self.count_as_held(id);
        }
    }

    /// Queue a key for the peer; once, however often it changes.
    pub(super) fn mark_dirty(&mut self, id: SlotId) {
        let Some(slot) = self.table.get_mut(id) else { return };
        let destroy = !slot.flags.contains(Flags::PRESENT);
        if destroy && slot.sent == 0 {
            // It came and went before it was sent.
            slot.flags -= Flags::DIRTY;
            return;
        }
        if destroy && self.pending_destroys >= PENDING_DESTROYS {
            slot.flags -= Flags::DIRTY;
            self.counters.dropped_destroys += 1;
            self.empty_datagram_due = true;
            self.count_as(id, 0);
            return;
        }
        if destroy {
            self.pending_destroys += 1;
        }
        slot.flags |= Flags::DIRTY;
        if !slot.flags.contains(Flags::QUEUED_OUT) {
            slot.flags |= Flags::QUEUED_OUT;
            self.dirty.push_back(id);
        }
    }

    /// The event socket has been read empty: requests sent from now on are ordered against later events.
    pub fn handle_events_empty(&mut self) {
        self.events_empty = true;
        self.event_turn = self.event_turn.wrapping_add(1).max(1);
    }

    /// The kernel dropped events.
    pub fn handle_overrun(&mut self) {
        self.events_empty = false;
        self.dump_due = true;
        self.counters.overruns += 1;
    }

    /// A dump is due and may start: its events have been read (6). The caller asks the kernel for all entries.
    pub fn poll_dump(&mut self) -> bool {
        let start = self.dump_due && self.events_empty && !self.dumping;
        if start {
            self.dump_due = false;
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
        let found = self.slot_of(&entry);
        if found.is_none() && !self.filter.accepts(&entry) {
            return;
        }
        let id = found.unwrap_or_else(|| self.slot_for(&entry));
        let (dump_number, trusted) = (self.dump_number, self.trusts_kernel());
        let Some(slot) = self.table.get_mut(id) else { return };
        slot.flags |= Flags::LISTED;
        if slot.touched == dump_number {
            // An event was read or a request sent since the dump began: that is newer (7).
            return;
        }
        // What the dump shows first was there before this run: ours to remove, unless no daemon ran here before.
        let inherited = found.is_none() && !self.fresh && !self.group.owner;
        let (present, pending) = (slot.flags.contains(Flags::PRESENT), slot.flags.contains(Flags::PENDING));
        slot.flags.set(Flags::MINE, slot.flags.contains(Flags::MINE) || inherited);
        if trusted && pending {
            return;
        }
        note_found(slot, &entry);
        let as_wanted = present && self.same_content(id, &entry);
        let Some(slot) = self.table.get_mut(id) else { return };
        if as_wanted {
            if trusted {
                slot.entry.timeout = entry.timeout;
            }
        } else if trusted {
            slot.flags -= Flags::REPLACE;
            self.kernel_says(id, Told::Exists(entry));
        } else if present {
            self.want_kernel(id, false);
        } else if slot.flags.contains(Flags::MINE) {
            slot.entry = entry;
            self.want_kernel(id, false);
        } else if self.late {
            // A dump due at the yield is judged as the owner's: what it finds is offered (9).
            self.kernel_says(id, Told::Exists(entry));
            self.owe(id);
        } else {
            slot.entry = entry;
            self.note_stray(id);
        }
    }

    fn same_content(&mut self, id: SlotId, entry: &Entry) -> bool {
        let mine = self.content_hash(id);
        self.scratch.clear();
        crate::wire::packed::emit_canonical(&mut self.scratch, entry);
        self.digester.hash(&self.scratch) == mine
    }

    /// The dump is complete. With `ok` false it failed and is due again.
    pub fn handle_dump_end(&mut self, ok: bool, now: Instant) {
        if !std::mem::take(&mut self.dumping) {
            return;
        }
        self.dump_due |= !ok;
        let dump_number = self.dump_number;
        let trusted = self.trusts_kernel();
        let mut absent = Vec::new();
        for id in 0..self.table.end() {
            let Some(slot) = self.table.get_mut(id) else { continue };
            let listed = slot.flags.contains(Flags::LISTED);
            slot.flags -= Flags::LISTED;
            if ok && !listed && slot.touched != dump_number && slot.flags.contains(Flags::INSTALLED) {
                absent.push(id);
            } else {
                // Slots that only remembered that an event was read.
                self.release(id);
            }
        }
        for id in absent {
            if trusted {
                // A dump may miss an entry when the kernel's hash is resized: ask before believing.
                self.want_kernel(id, true);
            } else if let Some(slot) = self.table.get_mut(id) {
                slot.flags -= Flags::INSTALLED | Flags::MINE | Flags::STRAY;
                if slot.flags.contains(Flags::PRESENT) {
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
            self.late &= self.dump_due;
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

    /// The sweep. An owner compares its table with a dump; a backup walks its table, paced, renewing each entry's
    /// lease, which also tells whether the kernel still has it. Refused entries get another try.
    pub(super) fn run_sweep(&mut self, now: Instant) {
        if now < self.sweep.next_slice {
            return;
        }
        let end = self.table.end();
        // A small table needs no fine slices: an idle pair should sleep.
        let ticks = (end / 64).clamp(1, SWEEP_TICKS);
        self.sweep.next_slice = now + (self.settings.sweep / ticks).clamp(SWEEP_TICK, SWEEP_PAUSE);
        let period = self.settings.sweep.as_millis().max(1);
        let elapsed = now.saturating_duration_since(self.sweep.began).as_millis().min(period);
        // Where the walk should be by now; capped so that a clock jump does not make it one burst.
        let due = SlotId::try_from(u128::from(end) * elapsed / period).unwrap_or(end);
        let target = due.min(self.sweep.cursor.saturating_add(SWEEP_SLICE));
        while self.sweep.cursor < target {
            self.sweep_key(self.sweep.cursor);
            self.sweep.cursor += 1;
        }
        if elapsed == period && self.sweep.cursor >= end {
            if self.group.owner {
                self.dump_due = true;
            } else {
                self.sweep.completed = Some(now);
            }
            self.sweep.cursor = 0;
            self.sweep.began = now;
        }
    }

    fn sweep_key(&mut self, id: SlotId) {
        let Some(slot) = self.table.get(id) else { return };
        let flags = slot.flags;
        if !flags.contains(Flags::PRESENT) || flags.contains(Flags::PENDING) {
            return;
        }
        if !flags.contains(Flags::INSTALLED) || flags.contains(Flags::FAILED) {
            self.want_kernel(id, false);
        } else if !self.group.owner {
            self.want_renewal(id);
        }
    }

    /// Keys and renewals waiting for the kernel.
    pub fn waiting(&self) -> usize {
        self.pending.len() + self.renewals.len()
    }

    /// Up to `limit` requests for the kernel, in order. Every call must be followed by one
    /// [`Replica::handle_answer`] per request and then [`Replica::handle_answers_end`].
    pub fn poll_requests(&mut self, limit: usize, mut send: impl FnMut(Request<'_>)) -> usize {
        debug_assert!(self.in_flight.is_empty());
        if !self.dumped {
            // What the kernel holds is not known yet.
            return 0;
        }
        let mut waiting = self.pending.len();
        while self.in_flight.len() < limit && waiting > 0 {
            waiting -= 1;
            let Some(id) = self.pending.pop_front() else { break };
            self.request(id, &mut send);
        }
        while self.in_flight.len() < limit && self.pending.is_empty() {
            let Some(id) = self.renewals.pop_front() else { break };
            self.request_renewal(id, &mut send);
        }
        self.in_flight.len()
    }

    /// A new lease, unless this node owns the group: then timers are the packets' affair. Be-liberal in any case:
    /// another node's packets have moved the windows on.
    fn request_renewal(&mut self, id: SlotId, send: &mut impl FnMut(Request<'_>)) {
        let (event_turn, dump_number, owner) = (self.event_turn, self.dump_number, self.group.owner);
        let lease = self.settings.lease;
        let Some(slot) = self.table.get_mut(id) else { return };
        slot.flags -= Flags::RENEW;
        if !slot.flags.contains(Flags::PRESENT | Flags::INSTALLED) || slot.flags.contains(Flags::PENDING) {
            self.release(id);
            return;
        }
        slot.asked = event_turn;
        slot.touched = dump_number;
        let timeout = (!owner).then(|| outlives(&slot.entry, lease));
        send(Request { op: Op::Renew, entry: &slot.entry, install: Install { timeout, be_liberal: true } });
        self.counters.requests += 1;
        self.in_flight.push((id, Op::Renew));
    }

    fn request(&mut self, id: SlotId, send: &mut impl FnMut(Request<'_>)) {
        let standing = self.standing();
        let (event_turn, dump_number) = (self.event_turn, self.dump_number);
        let Some(slot) = self.table.get_mut(id) else { return };
        slot.flags -= Flags::QUEUED_IN;
        if !slot.flags.contains(Flags::PENDING) {
            self.release(id);
            return;
        }
        let op = match decide(slot, standing) {
            Decision::Ask(op) => op,
            Decision::Rest => {
                slot.flags -= Flags::PENDING;
                self.release(id);
                return;
            }
            Decision::Stray => {
                slot.flags -= Flags::PENDING;
                self.note_stray(id);
                return;
            }
        };
        if op == Op::Create
            && let Some(master) = slot.entry.master.clone()
        {
            self.request_master_first(&master, id, send);
        }
        let lease = self.settings.lease;
        let Some(slot) = self.table.get_mut(id) else { return };
        slot.asked = event_turn;
        slot.touched = dump_number;
        let install = Install { timeout: Some(outlives(&slot.entry, lease)), be_liberal: true };
        send(Request { op, entry: &slot.entry, install });
        self.counters.requests += 1;
        self.in_flight.push((id, op));
    }

    /// A related entry's master, when it still waits in the queue, goes just before it.
    fn request_master_first(
        &mut self,
        master: &crate::entry::Tuple,
        id: SlotId,
        send: &mut impl FnMut(Request<'_>),
    ) {
        let zone = self.table.get(id).map_or(0, |slot| slot.entry.zone);
        let key = Key { orig: *master, zone };
        let hash = self.key_hash(&key);
        let Some(master) = self.table.find(hash, &key) else { return };
        let waits = self.table.get(master).is_some_and(|slot| {
            slot.flags.contains(Flags::PRESENT | Flags::QUEUED_IN)
                && !slot.flags.contains(Flags::INSTALLED)
                && slot.entry.master.is_none()
        });
        if waits {
            self.request(master, send);
            // Its place in the queue stays and finds nothing to do later.
            if let Some(slot) = self.table.get_mut(master) {
                slot.flags |= Flags::QUEUED_IN;
            }
        }
    }

    /// The kernel's answer to request number `at` of the batch: 0, or an errno.
    pub fn handle_answer(&mut self, at: usize, errno: i32) {
        let Some(&(id, op)) = self.in_flight.get(at) else { return };
        if op == Op::Get {
            if errno != 0 {
                self.read_back(id, Told::Gone);
            }
            return;
        }
        let Some(slot) = self.table.get_mut(id) else { return };
        let failed_before = slot.flags.contains(Flags::FAILED);
        match note_answer(slot, op, errno) {
            Outcome::Settled => {
                if failed_before {
                    self.failed -= 1;
                }
                if let Some(slot) = self.table.get_mut(id) {
                    slot.flags -= Flags::PENDING;
                }
            }
            Outcome::Again => self.want_kernel(id, false),
            Outcome::Failed(failure) if self.group.owner => {
                // An owner's table is its kernel: what cannot be installed is not there (an offer, mostly).
                slot.tries = 0;
                self.count_failure(failure);
                self.refuse(id);
            }
            Outcome::Failed(failure) => {
                slot.flags -= Flags::PENDING;
                slot.tries = 0;
                slot.failure = Some(failure);
                slot.flags |= Flags::FAILED;
                if !failed_before {
                    self.failed += 1;
                }
                self.count_failure(failure);
            }
        }
    }

    fn count_failure(&mut self, failure: Failure) {
        if let Some(counter) = self.counters.failures.get_mut(failure as usize) {
            *counter += 1;
        }
    }

    /// The kernel will not hold this entry: it leaves the table, and whoever offered it is told so, by a destroy of
    /// just this birth.
    fn refuse(&mut self, id: SlotId) {
        let Some(slot) = self.table.get_mut(id) else { return };
        slot.flags -= Flags::PENDING | Flags::READ_BACK;
        if slot.flags.contains(Flags::PRESENT) {
            if self.refused.len() < REFUSALS {
                self.refused.push_back((slot.key_hash, slot.birth));
            }
            self.kernel_says(id, Told::Gone);
        }
    }

    /// The entry that a get of the batch asked for.
    pub fn handle_read_back(&mut self, at: usize, entry: Entry) {
        if let Some(&(id, Op::Get)) = self.in_flight.get(at) {
            self.read_back(id, Told::Exists(entry));
        }
    }

    fn read_back(&mut self, id: SlotId, told: Told) {
        let trusted = self.trusts_kernel();
        let (primary, owner) = (self.standing().primary, self.group.owner);
        let Some(slot) = self.table.get_mut(id) else { return };
        slot.flags -= Flags::READ_BACK;
        let present = slot.flags.contains(Flags::PRESENT);
        match &told {
            Told::Gone if owner && present && slot.tries > 0 => {
                // It exists, said the create, and it does not, says the get: another connection has its reply tuple.
                slot.tries = 0;
                self.count_failure(Failure::NatClash);
                self.refuse(id);
            }
            _ if trusted => {
                slot.flags -= Flags::PENDING | Flags::REPLACE;
                self.kernel_says(id, told);
            }
            Told::Gone => {
                slot.flags -= Flags::INSTALLED | Flags::MINE | Flags::STRAY | Flags::REPLACE | Flags::PENDING;
                if present {
                    self.want_kernel(id, false);
                }
            }
            Told::Created(entry) | Told::Exists(entry) => {
                slot.flags -= Flags::PENDING;
                note_found(slot, entry);
                if primary {
                    // Adopted at the claim (12).
                    self.note_stray(id);
                } else if present {
                    self.want_kernel(id, false);
                } else {
                    slot.entry = entry.clone();
                    if slot.flags.contains(Flags::MINE) {
                        self.want_kernel(id, false);
                    } else {
                        self.note_stray(id);
                    }
                }
            }
        }
    }

    /// All answers of the batch are in. A request without one was done: only failures answer.
    pub fn handle_answers_end(&mut self, answered: &[bool], now: Instant) {
        for at in 0..self.in_flight.len() {
            if !answered.get(at).copied().unwrap_or(false) {
                self.handle_answer(at, 0);
            }
        }
        for (id, _) in std::mem::take(&mut self.in_flight) {
            self.release(id);
        }
        self.refreshing &= !self.renewals.is_empty();
        self.note_equality(now);
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

/// The lease: a backup hears no packet, so its copy must outlive the owner's timer; the first packet after a
/// takeover resets it to the protocol's own.
fn outlives(entry: &Entry, lease: u32) -> u32 {
    entry.timeout.unwrap_or(0).max(lease)
}
