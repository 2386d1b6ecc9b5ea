//! The table into kernel requests, their answers back, and the sweep that keeps the two alike.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Replica;
use super::dumps::Purpose;
use super::events::{Report, note_time_left};
use crate::failure::Failure;
use crate::reconcile::{Decision, Op, Outcome, decide, note_answer, note_found};
use crate::table::{Flags, Slot, SlotId, is_present};
use crate::wire::Refusal;
use ctsync_ctnetlink::codec::Install;
use ctsync_ctnetlink::entry::Entry;

/// Between two slices of a sweep, at least and at most; and slices in a period.
const SWEEP_TICK: Duration = Duration::from_millis(50);
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
const SWEEP_TICKS: u32 = 10_000;
/// Most keys in one slice.
const SWEEP_SLICE: SlotId = 4096;

/// The background check of table against kernel (I1a, I1b), paced over its period.
pub(super) struct Sweep {
    cursor: SlotId,
    began: Instant,
    next_slice: Instant,
    /// When the last whole sweep ended.
    pub(super) completed: Option<Instant>,
}

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

impl Replica {
    /// The sweep. An owner compares its table with a dump; a backup walks its table, paced, and sets each
    /// entry and its lease again, which also tells whether the kernel still has it. Refused entries get
    /// another try.
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
            if self.ownership.is_owner() {
                self.dumps.want(Purpose::Whole);
            } else {
                self.sweep.completed = Some(now);
            }
            self.sweep.cursor = 0;
            self.sweep.began = now;
        }
    }

    fn sweep_key(&mut self, id: SlotId) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if slot.has(Flags::AHEAD) {
            slot.clear(Flags::AHEAD);
            slot.set(Flags::REBORN);
        }
        if !slot.has(Flags::PRESENT) || slot.has(Flags::PENDING) {
            return;
        }
        if self.ownership.is_owner() && !slot.has(Flags::INSTALLED) && self.departed.covers(&slot.entry()) {
            // It waits for its address, or for who takes over.
            return;
        }
        if !slot.has(Flags::INSTALLED) || slot.failure().is_some() {
            self.want_kernel(id, false);
        } else if !self.ownership.is_owner() && !self.ownership.is_abandoned() {
            self.want_renewal(id);
        }
    }

    /// Keys and renewals waiting for the kernel.
    pub fn waiting(&self) -> usize {
        self.work.keys() + self.work.renewals()
    }

    /// A batch of up to `limit` requests for the kernel, in order. Every batch that is not empty must be
    /// followed by its answers ([`Replica::handle_answer`]) and then [`Replica::handle_answers_end`].
    ///
    /// The next one may be asked for before, if the kernel is given them in this order. Meanwhile datagrams
    /// may go out, and come in unless this node owns the group, and nothing else may happen.
    pub fn poll_requests(&mut self, limit: usize, mut send: impl FnMut(Request<'_>)) -> usize {
        if !self.dumps.known() {
            // What the kernel holds is not known yet.
            return 0;
        }
        self.order_for_room();
        self.table.prefetch_slots(self.work.pending().take(limit));
        let mut waiting = self.work.keys();
        while self.work.batched() < limit && waiting > 0 {
            waiting -= 1;
            let Some(id) = self.work.pop(&mut self.table) else { break };
            self.request(id, 0, &mut send);
        }
        let mut renewals = self.work.renewals();
        while self.work.batched() < limit && renewals > 0 {
            renewals -= 1;
            let Some(id) = self.work.pop_renewal(&mut self.table) else { break };
            self.request_renewal(id, &mut send);
        }
        let count = self.work.send_batch();
        if count == 0 && !self.work.is_under_way() {
            // Nothing was to be asked: no answer will close the fence.
            self.step_fence(self.life.now());
        }
        count
    }

    /// A request goes out with this batch.
    pub(super) fn note_asked(&mut self, id: SlotId, op: Op) {
        self.counters.requests += 1;
        self.work.note_asked(&mut self.table, id, op);
    }

    /// A new lease, unless this node owns the group: then timers are the packets' affair. Be-liberal in any
    /// case: another node's packets have moved the windows on. A backup sets the rest of the entry, too:
    /// somebody may have changed it, and the kernel tells nobody who does not ask (I1b).
    fn request_renewal(&mut self, id: SlotId, send: &mut impl FnMut(Request<'_>)) {
        let (turn, dump, owner) = (self.dumps.turns.now(), self.dumps.number(), self.ownership.is_owner());
        let (lease, primary) = (self.settings.lease, self.standing().primary);
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if slot.has(Flags::ASKED) {
            self.work.renew(&mut self.table, id);
            return;
        }
        let track = owner && slot.has(Flags::TRACK);
        slot.clear(Flags::TRACK);
        if !slot.has(Flags::PRESENT | Flags::INSTALLED) || slot.has(Flags::PENDING) {
            self.release(id);
            return;
        }
        slot.asked_in = turn;
        slot.newer_than = dump;
        if track {
            self.counters.tracked += 1;
            send(Request { op: Op::Track, entry: &slot.entry(), install: Install::whole(lease) });
            self.note_asked(id, Op::Track);
            return;
        }
        let trimmed = self.trimmed(id);
        let Some(mut slot) = self.table.get_mut(id) else { return };
        let expected = slot.is_expectation();
        let timeout = match (owner, expected) {
            (false, _) => {
                slot.put(Flags::LEASED, expected);
                Some(outlives(slot.timeout(), lease))
            }
            (true, false) => None,
            (true, true) => {
                slot.clear(Flags::LEASED);
                slot.timeout()
            }
        };
        let op = if owner || primary || expected { Op::Renew } else { Op::Update };
        let install = Install { timeout: trimmed.or(timeout), ..install_of(&slot, lease) };
        send(Request { op, entry: &slot.entry(), install });
        self.note_asked(id, op);
    }

    /// `generation` counts the children for whose sake it is asked.
    pub(super) fn request(&mut self, id: SlotId, generation: u8, send: &mut impl FnMut(Request<'_>)) {
        let standing = self.standing();
        let (turn, dump) = (self.dumps.turns.now(), self.dumps.number());
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if !slot.has(Flags::PENDING) {
            self.release(id);
            return;
        }
        if slot.has(Flags::ASKED) {
            // What is asked next depends on the answer.
            self.work.postpone(&mut self.table, id);
            return;
        }
        if !standing.owner && !standing.primary && ends_here(&slot, &self.filter.local) {
            // Somebody looks at this router through the active one: here it is a connection of the router's
            // own, which has its tuples. Nothing could carry it on.
            slot.clear(Flags::PENDING);
            self.release(id);
            return;
        }
        let decision =
            if self.departed.replaces(&slot) { Decision::Ask(Op::Destroy) } else { decide(&slot, standing) };
        let op = match decision {
            Decision::Ask(op) => op,
            Decision::Rest => {
                slot.clear(Flags::PENDING);
                if slot.has(Flags::FORGOTTEN) {
                    // The kernel may have something else: to be asked if this one comes back.
                    slot.set(Flags::STRAY);
                }
                self.release(id);
                return;
            }
            Decision::Stray => {
                slot.clear(Flags::PENDING);
                self.note_stray(id);
                return;
            }
        };
        if self.waits_for_room(id, op) {
            return;
        }
        if op == Op::Destroy && self.is_foreseen_asked(id) {
            // The kernel will forget it: the answer would be about what was.
            self.work.postpone(&mut self.table, id);
            return;
        }
        let Some(slot) = self.table.get_mut(id) else { return };
        if op == Op::Create && slot.master_key().is_some() {
            self.request_master_first(id, generation, send);
        }
        let lease = self.settings.lease;
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.asked_in = turn;
        slot.newer_than = dump;
        let install = install_of(&slot, lease);
        send(Request { op, entry: &slot.entry(), install });
        let replaced = op == Op::Destroy && slot.has(Flags::PRESENT);
        if replaced {
            // In one batch: a daemon that dies between the two would have removed the only copy.
            send(Request { op: Op::Create, entry: &slot.entry(), install });
        }
        self.note_asked(id, op);
        if replaced {
            self.note_asked(id, Op::Create);
            self.foresee_again(id, send);
        }
    }

    /// The kernel's answer to request number `at` of the oldest batch: 0, or an errno.
    pub fn handle_answer(&mut self, at: usize, errno: i32) {
        let Some((id, op)) = self.work.answered(&mut self.table, at) else { return };
        if op == Op::Get {
            if errno != 0 {
                self.read_back(id, Report::Gone);
            }
            return;
        }
        if op == Op::Create && errno == 0 {
            self.note_installed(id);
        }
        let touches = matches!(op, Op::Update | Op::Renew | Op::Track);
        if self.ownership.is_owner() && touches && errno == nix::errno::Errno::ENOENT as i32 {
            // The entry has just ended, and the event of that is still to be read. The kernel is asked
            // whether it has: creating the entry again would bring back a connection that is over.
            self.want_kernel(id, true);
            return;
        }
        let Some(mut slot) = self.table.get_mut(id) else { return };
        // The peer has told of it since: the answer is about what was, and its turn comes again.
        let overtaken = slot.has(Flags::OVERTAKEN);
        let reborn = slot.flags() & Flags::REBORN;
        let outcome = note_answer(&mut slot, op, errno);
        if overtaken {
            slot.set(reborn);
        }
        match outcome {
            Outcome::Without(failure) => {
                self.count_failure(failure);
                self.want_kernel(id, false);
            }
            Outcome::Settled => {
                if let Some(mut slot) = self.table.get_mut(id).filter(|_| !overtaken) {
                    slot.clear(Flags::PENDING);
                }
            }
            Outcome::Failed(_) if overtaken => slot.tries = 0,
            Outcome::Again => self.want_kernel(id, false),
            Outcome::Failed(failure)
                if self.ownership.is_owner()
                    && !matches!(failure, Failure::NoMaster | Failure::TableFull) =>
            {
                // An owner's table is its kernel: what cannot be installed is not there (an offer, mostly).
                slot.tries = 0;
                self.count_failure(failure);
                self.refuse(id);
            }
            Outcome::Failed(failure) => {
                slot.clear(Flags::PENDING);
                slot.tries = 0;
                slot.set_failure(Some(failure));
                if failure == Failure::NoMaster && self.wait_for_master(id) {
                    return;
                }
                self.count_failure(failure);
                // A full table is full for a while: refused, the entry would be lost on the peer, too (I7).
                if self.ownership.is_owner() && failure != Failure::TableFull {
                    self.refuse(id);
                }
            }
        }
    }

    pub(super) fn count_failure(&mut self, failure: Failure) {
        if let Some(counter) = self.counters.failures.get_mut(failure as usize) {
            *counter += 1;
        }
    }

    /// The kernel will not hold this entry: it leaves the table, and whoever offered it is told so.
    pub(super) fn refuse(&mut self, id: SlotId) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.clear(Flags::PENDING | Flags::READ_BACK);
        if slot.has(Flags::PRESENT) {
            self.out.unsent.refuse(slot.key_hash, slot.birth, Refusal::Impossible);
            self.end(id);
        }
    }

    /// The entry that a get of the batch asked for.
    pub fn handle_read_back(&mut self, at: usize, entry: Entry) {
        if let Some((id, Op::Get)) = self.work.answered(&mut self.table, at) {
            self.read_back(id, Report::Exists(entry));
        }
    }

    fn read_back(&mut self, id: SlotId, report: Report) {
        let trusted = self.trusts_kernel();
        let (primary, owner) = (self.standing().primary, self.ownership.is_owner());
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.clear(Flags::READ_BACK);
        let present = slot.has(Flags::PRESENT);
        match &report {
            Report::Gone if owner && present && slot.tries > 0 => {
                // It exists, said the create, and it does not, says the get: another connection has its reply
                // tuple.
                slot.tries = 0;
                self.count_failure(Failure::NatClash);
                self.refuse(id);
            }
            _ if trusted => {
                slot.clear(Flags::PENDING | Flags::REPLACE);
                self.take_answer(id, report);
            }
            Report::Gone => {
                slot.clear(Flags::INSTALLED | Flags::MINE | Flags::STRAY | Flags::REPLACE | Flags::PENDING);
                if present {
                    self.want_kernel(id, false);
                }
            }
            Report::Created(entry) | Report::Updated(entry) | Report::Exists(entry) => {
                slot.clear(Flags::PENDING);
                note_found(&mut slot, entry);
                if primary {
                    // Adopted at the claim (12).
                    self.note_stray(id);
                } else if present {
                    self.want_kernel(id, false);
                } else {
                    slot.set_entry(entry.clone());
                    if slot.has(Flags::MINE) {
                        self.want_kernel(id, false);
                    } else {
                        self.note_stray(id);
                    }
                }
            }
        }
    }

    /// What was asked for is mostly as it was known: that is no change.
    fn take_answer(&mut self, id: SlotId, report: Report) {
        if let Report::Exists(entry) = &report
            && is_present(&self.table, id)
            && self.same_content(id, entry)
        {
            if let Some(mut slot) = self.table.get_mut(id) {
                slot.set(Flags::INSTALLED);
                slot.clear(Flags::STRAY);
                note_time_left(&mut slot, entry);
            }
            self.clear_failure(id);
            let content = self.content_hash(id);
            if self.table.get(id).is_some_and(|slot| slot.sent != content) {
                self.changed(id);
            }
            return;
        }
        self.kernel_says(id, report);
    }

    /// All answers of the oldest batch are in. A request without one was done: only failures answer.
    pub fn handle_answers_end(&mut self, answered: &[bool], now: Instant) {
        self.life.at(now);
        for at in 0..self.work.oldest() {
            if !answered.get(at).copied().unwrap_or(false) {
                self.handle_answer(at, 0);
            }
        }
        for id in self.work.end_batch(&mut self.table) {
            self.release(id);
        }
        self.call_orphans();
        self.following.settle(now);
        if !self.work.is_under_way() {
            self.step_takeover(now);
        }
    }
}

/// Under its lease, without what this kernel does not take of it.
fn install_of(slot: &Slot, lease: u32) -> Install {
    Install {
        helper: !slot.has(Flags::HELPLESS),
        labels: !slot.has(Flags::UNLABELLED),
        master: !slot.has(Flags::MASTERLESS),
        ..Install::whole(outlives(slot.timeout(), lease))
    }
}

/// The lease: a backup hears no packet, so its copy must outlive the owner's timer; the first packet after a
/// takeover resets it to the protocol's own.
pub(super) fn outlives(timeout: Option<u32>, lease: u32) -> u32 {
    timeout.unwrap_or(0).max(lease)
}

/// Not in this kernel, and the responder is this node itself.
fn ends_here(slot: &Slot, local: &HashSet<IpAddr>) -> bool {
    slot.has(Flags::PRESENT)
        && !slot.has_any(Flags::INSTALLED | Flags::READ_BACK)
        && local.contains(&slot.entry().reply.src)
}
