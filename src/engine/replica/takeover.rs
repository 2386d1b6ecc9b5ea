//! Roles, claims, yields: when this node takes the group over, and what becomes of its table then.

use std::collections::VecDeque;
use std::time::Instant;

use super::fence::{Claimed, Closing, FenceReport, Opening, Step};
use super::peers::Peer;
use super::{Kept, Replica, Role};
use crate::table::{Flags, SlotId};
use crate::wire::{Body, Claim, Incarnation, Stood};

/// What takeovers leave.
#[derive(Default)]
pub(super) struct Takeovers {
    /// Finished ones, to be reported.
    reports: VecDeque<FenceReport>,
    /// The number of the last flush that was asked for.
    flushes: u32,
}

impl Takeovers {
    /// The number of the next flush; never 0, which is nobody's.
    fn next_flush(&mut self) -> u32 {
        self.flushes = self.flushes.wrapping_add(1).max(1);
        self.flushes
    }
}

impl Replica {
    /// VRRP, a script or the operator tells this node its role.
    ///
    /// The caller has read the channel and the event socket empty before: what was received counts.
    pub fn handle_role(&mut self, role: Role, now: Instant) {
        // Told is more than supposed: it is news, even if it is the same role.
        let told_before = !std::mem::take(&mut self.group.supposed);
        let was = self.take_role(role, now) == Role::Primary && told_before;
        let is = role == Role::Primary;
        if is && !was {
            self.ownership.want();
            self.begin_fence(now);
        } else if is && self.ownership.is_owner() && !self.ownership.is_closing() {
            self.report_nothing_to_do();
        }
        self.step_takeover(now);
    }

    /// Nobody tells the role, and the virtual addresses show it: as [`Replica::handle_role`], but that
    /// nothing is claimed from a living primary.
    pub fn suppose_role(&mut self, role: Role, now: Instant) {
        self.group.supposed = true;
        self.ownership.drop_wish();
        self.take_role(role, now);
        self.step_takeover(now);
    }

    /// The role before.
    fn take_role(&mut self, role: Role, now: Instant) -> Role {
        self.life.at(now);
        let before = std::mem::replace(&mut self.group.role, role);
        if role != Role::Primary {
            self.ownership.stand_down();
            if before == Role::Primary && !self.ownership.is_owner() {
                // A primary left conflicts alone; a backup puts the kernel right again (12).
                self.reconcile_all();
            }
        }
        if role != before {
            self.alive_now(now);
        }
        before
    }

    fn begin_fence(&mut self, now: Instant) {
        if self.ownership.is_owner() {
            self.report_nothing_to_do();
            return;
        }
        let owner = self.peers.highest_owner().filter(|owner| self.talks(owner, now)).map(|p| p.incarnation);
        let (token, wait) = (self.takeovers.next_flush(), self.settings.flush_wait);
        self.ownership.open(Opening::new(owner, token, wait, now));
    }

    fn report_nothing_to_do(&mut self) {
        let (held, epoch) = (self.table.counts().present, self.group.claim.epoch);
        self.takeovers.reports.push_back(FenceReport::nothing_to_do(held, epoch));
    }

    /// Silent for longer than an alive and some: waiting for it would be waiting for nothing.
    fn talks(&self, peer: &Peer, now: Instant) -> bool {
        peer.lives() && now < peer.heard + self.settings.tunables.alive * 5 / 4
    }

    /// The owner answered a flush with its last sequence number.
    pub(super) fn answer_flush(&mut self, run: Incarnation, token: u32, last: u64) {
        if let Some(opening) = self.ownership.opening_mut() {
            opening.answered(run, token, last);
        }
    }

    /// Whatever of a takeover can happen now: when a role is told, at the end of a turn, and after a batch.
    /// Not after a datagram or an event: others may wait that are to be read in the old role (9), or a role
    /// that makes the claim a mistake.
    pub(super) fn step_takeover(&mut self, now: Instant) {
        if !self.may_claim(now) {
            self.step_fence(now);
            return;
        }
        if !self.ownership.is_fencing() {
            // Claims follow the level of the role, not its edge (14).
            self.begin_fence(now);
        }
        if self.flushing(now) {
            return;
        }
        self.claim(now);
        self.step_fence(now);
    }

    fn may_claim(&self, now: Instant) -> bool {
        let level = self.peer_lost(now) || (self.peers.speak() && !self.peers.own_as_primary());
        self.group.role == Role::Primary
            && !self.ownership.is_owner()
            && !self.ownership.is_starting()
            && self.dumps.known()
            // A dump that is due is finished first; all events are read in the old role (9).
            && !self.dumps.must()
            && self.dumps.turns.all_read()
            && (self.ownership.wants() || level)
    }

    /// Whether the fence still waits for a talking peer's last changes.
    fn flushing(&mut self, now: Instant) -> bool {
        let (expected, peers) = (self.following.expected(), &self.peers);
        let heard = |run| peers.all().filter(|peer| peer.incarnation == run).map(|peer| peer.heard).max();
        let Some(opening) = self.ownership.opening_mut() else { return false };
        match opening.step(expected, heard, now) {
            Step::Claim => false,
            Step::Wait => true,
            Step::Ask(to, token) => {
                self.queue_body(&Body::Flush { to, token });
                true
            }
        }
    }

    fn claim(&mut self, now: Instant) {
        let ahead = self.ahead().map(|peer| peer.incarnation).collect();
        self.group.stood = self.place();
        self.ends.change_stream();
        self.ends.take_up(self.out.sender.next());
        self.give_refill_up();
        self.dumps.look_after_the_fence();
        for id in self.strays.take(&mut self.table) {
            // What is in the kernel counts from now on (11).
            if let Some(slot) = self.table.get_mut(id) {
                if slot.has(Flags::STRAY) {
                    self.want_kernel(id, true);
                } else {
                    self.release(id);
                }
            }
        }
        for id in self.work.pending() {
            let Some(mut slot) = self.table.get_mut(id) else { continue };
            if slot.has(Flags::PENDING) {
                let install = slot.has(Flags::PRESENT) && !slot.has(Flags::INSTALLED);
                let destroy = !slot.has(Flags::PRESENT);
                // Pending destroys are dropped and their keys read back; installs stand (13).
                slot.put(Flags::READ_BACK, destroy || (!install && slot.has(Flags::READ_BACK)));
            }
        }
        if !self.settings.tunables.hot {
            self.queue_what_is_not_installed();
        }
        // Above all that was ever heard of, not only above what was followed (N4).
        let epoch = self.group.epoch.max(self.group.claim.epoch) + 1;
        self.group.claim_as(Claim { epoch, node: self.settings.node }, self.settings.incarnation);
        if self.worth.fresh() || self.group.lineage == 0 {
            self.group.lineage = self.settings.incarnation.folded();
        }
        let opening = self.ownership.become_owner();
        self.following.stop();
        self.worth.forget_last_run();
        self.let_in();
        self.be_patient_again(now);
        self.take_calls_over();
        self.plan_window_tracking(now);
        self.out.answers.forget_repairs();
        self.following.repair = Default::default();
        self.counters.claims += 1;
        self.alive_now(now);
        if let Some(opening) = opening {
            let (pending, failed) = (self.work.keys(), self.table.counts().failed);
            let (failures, taken) = (self.counters.failures, self.counters.taken);
            let at = Claimed { pending, failed, failures, taken, ahead, wait: self.settings.flush_wait };
            self.ownership.begin_closing(opening.close(at, now));
        }
    }

    /// Living peers that have more of the last owner's stream than this node.
    pub(super) fn ahead(&self) -> impl Iterator<Item = &Peer> {
        self.peers.ahead(self.group.claim, self.following.expected(), self.following.is_equal())
    }

    /// This node's place in the stream that it follows, if it has all that came before (N1).
    fn place(&self) -> Option<Stood> {
        let next = self.following.expected().filter(|_| self.following.is_equal())?;
        Some(Stood { claim: self.group.claim, run: self.group.claim_incarnation?, next })
    }

    /// Whether a run that was ahead is not waited for any more: it follows this claim and owes nothing, or
    /// has gone.
    fn has_settled(&self, run: Incarnation) -> bool {
        let mut peers = self.peers.living().filter(|peer| peer.incarnation == run);
        peers.all(|peer| peer.claim == self.group.claim && peer.next > 0 && !peer.owes)
    }

    pub(super) fn queue_what_is_not_installed(&mut self) {
        for id in 0..self.table.end() {
            let wanted = self
                .table
                .get(id)
                .is_some_and(|slot| slot.has(Flags::PRESENT) && !slot.has(Flags::INSTALLED));
            if wanted {
                self.want_kernel(id, false);
            }
        }
    }

    pub(super) fn step_fence(&mut self, now: Instant) {
        if let Some(closing) = self.ownership.closing_mut() {
            closing.note_taken(self.counters.taken, now);
        }
        let waits =
            |closing: &Closing| self.work.keys() > 0 || closing.waits(|run| self.has_settled(run), now);
        if self.ownership.closing().is_some_and(waits) {
            return;
        }
        let Some(closing) = self.ownership.close() else { return };
        self.worth.fenced();
        self.begin_trim(now);
        let (counts, epoch) = (self.table.counts(), self.group.claim.epoch);
        let (failures, taken) = (self.counters.failures, self.counters.taken);
        let report = closing.report(counts.present, counts.failed, failures, taken, epoch, now);
        self.takeovers.reports.push_back(report);
    }

    /// A finished takeover to report, once.
    pub fn poll_fence_report(&mut self) -> Option<FenceReport> {
        self.takeovers.reports.pop_front()
    }

    /// Whether a takeover is under way.
    pub fn fencing(&self) -> bool {
        self.ownership.is_fencing()
    }

    /// Another node's claim is higher: everything here is owed to it, and becomes its copy (17).
    pub(super) fn yield_to(&mut self, claim: Claim, run: Incarnation, now: Instant) {
        self.counters.yields += 1;
        self.owe_all();
        self.group.claim_as(claim, run);
        self.group.stood = None;
        self.ends.change_stream();
        self.ownership.follow();
        self.departed.forget();
        self.stop_trim();
        self.out.answers.forget();
        self.begin_following();
        self.worth.overruled();
        self.worth.forget_last_run();
        self.dumps.judge_as_the_owner();
        // From now on the sums count what is held, not what was sent: they differ in what was never sent.
        for id in self.out.unsent.give_up(&mut self.table) {
            if let Some(mut slot) = self.table.get_mut(id) {
                slot.clear(Flags::DIRTY | Flags::DESTROY_DUE);
                self.count_as_held(id);
                self.release(id);
            }
        }
        self.call_all_mine();
        self.reconcile_all();
        self.alive_now(now);
    }

    /// What a former owner's kernel holds becomes a copy of the new owner's: ours to remove with it. Of any
    /// other backup's only what it installed is (11).
    fn call_all_mine(&mut self) {
        for id in 0..self.table.end() {
            if let Some(mut slot) = self.table.get_mut(id)
                && slot.has(Flags::PRESENT)
            {
                slot.set(Flags::MINE);
            }
        }
    }

    /// Every entry gets its lease and be-liberal: from now on another node's packets move it on.
    pub(super) fn reconcile_all(&mut self) {
        for id in 0..self.table.end() {
            self.reconcile_as_backup(id);
        }
        self.work.begin_refresh();
    }

    fn reconcile_as_backup(&mut self, id: SlotId) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if slot.has(Flags::FORGOTTEN) {
            return;
        }
        let stray = slot.has(Flags::STRAY);
        if slot.has(Flags::PRESENT | Flags::INSTALLED) && !stray {
            self.want_renewal(id);
        } else if slot.has_any(Flags::PRESENT | Flags::MINE) {
            slot.clear(Flags::STRAY);
            self.want_kernel(id, stray);
        }
    }

    /// Starting ends when the digests equal a living owner's, when no peer lives, or when none owns (15).
    pub(super) fn end_start(&mut self, now: Instant) {
        let nobody_owns = self.peers.all_speak(self.settings.tunables.lost_after, now) && !self.peers.own();
        let known = self.peer_lost(now) || nobody_owns || self.following.is_equal();
        if self.dumps.known() && known {
            self.ownership.end_start();
        }
    }

    /// What `/run` should hold (19).
    pub fn persist(&self) -> Kept {
        Kept {
            truth: self.worth.is_truth() && !self.ownership.is_closing(),
            claim: self.group.highest,
            lineage: self.group.lineage,
            peers: u8::try_from(self.peers.count_living()).unwrap_or(u8::MAX),
            was_owner: self.ownership.is_owner()
                || self.dumps.late()
                || self.offers() > 0
                || self.worth.was_owner(),
            settled: !self.worth.fresh(),
            role: (self.group.role != Role::Unknown && !self.group.supposed).then_some(self.group.role),
        }
    }
}
