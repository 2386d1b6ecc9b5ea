//! Roles, claims, yields; the fence, whose cost is what is not yet installed.

use std::time::{Duration, Instant};

use super::{Peer, Persist, Replica, Role};
use crate::reconcile::Failure;
use crate::table::{Flags, SlotId};
use crate::wire::{Body, Claim, Incarnation};

/// The work between "you are primary" and "every known entry is installed".
pub(super) struct Fence {
    started: Instant,
    /// A peer still talks: its last changes are asked for, until this deadline.
    flush: Option<Flush>,
    flushed: Duration,
    pub(super) claimed: bool,
    pending_at_claim: usize,
    failed_before: usize,
    failures_before: [u64; Failure::ALL.len()],
}

struct Flush {
    to: Incarnation,
    token: u32,
    again: Instant,
    deadline: Instant,
    /// A peer that has not been heard at all by then, asked twice, is dead: a living one answers at once.
    unheard: Instant,
    asked: u32,
    /// The owner's last sequence number, once it has answered.
    until: Option<u64>,
}

/// Between two flush requests.
const FLUSH_AGAIN: Duration = Duration::from_millis(20);

impl Fence {
    pub(super) fn next_step(&self, now: Instant) -> Instant {
        self.flush.as_ref().map_or(now + FLUSH_AGAIN, |flush| {
            let times = [flush.again, flush.deadline, flush.unheard];
            // What is past waits for something else: a dump, or the peer's datagrams.
            times.into_iter().filter(|at| *at > now).min().unwrap_or(now + FLUSH_AGAIN)
        })
    }
}

/// What a takeover did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FenceReport {
    /// Entries in the table.
    pub held: usize,
    /// Entries that were not yet in the kernel when the group was claimed.
    pub pending: usize,
    /// Entries the kernel refused at the fence.
    pub failed: usize,
    /// Of these, and of what was installed without a part that this kernel does not take: how many for which reason.
    #[serde(serialize_with = "by_reason")]
    pub failures: Vec<(&'static str, u64)>,
    /// From hearing "primary" to the last entry installed.
    #[serde(rename = "microseconds", serialize_with = "microseconds")]
    pub took: Duration,
    /// Of these, waiting for a peer that still talked.
    #[serde(rename = "flush-microseconds", serialize_with = "microseconds")]
    pub flushed: Duration,
    /// The claim's epoch.
    pub epoch: u64,
}

fn by_reason<S: serde::Serializer>(
    failures: &[(&'static str, u64)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(failures.iter().copied())
}

fn microseconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
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
            // Who owns it already wants nothing: kept, it would be taken from the next owner.
            self.group.want = !self.group.owner;
            self.begin_fence(now);
        } else if is && self.group.owner && self.fence.is_none() {
            self.report_nothing_to_do();
        }
        self.step_takeover(now);
    }

    /// Nobody tells the role, and the virtual addresses show it: as [`Replica::handle_role`], but that nothing is claimed
    /// from a living primary.
    pub fn suppose_role(&mut self, role: Role, now: Instant) {
        self.group.supposed = true;
        self.group.want = false;
        if self.fence.as_ref().is_some_and(|fence| !fence.claimed) {
            self.fence = None;
        }
        self.take_role(role, now);
        self.step_takeover(now);
    }

    /// The role before.
    fn take_role(&mut self, role: Role, now: Instant) -> Role {
        self.now = now;
        let before = std::mem::replace(&mut self.group.role, role);
        if role != Role::Primary {
            self.group.want = false;
            self.fence = None;
            if before == Role::Primary && !self.group.owner {
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
        if self.group.owner {
            self.report_nothing_to_do();
            return;
        }
        let owner =
            self.peers.values().find(|peer| peer.owner && self.talks(peer, now)).map(|p| p.incarnation);
        self.flush_counter = self.flush_counter.wrapping_add(1).max(1);
        let token = self.flush_counter;
        self.fence = Some(Fence {
            started: now,
            flush: owner.map(|to| Flush {
                to,
                token,
                again: now,
                deadline: now + self.settings.flush_wait,
                unheard: now + self.settings.flush_wait / 4,
                asked: 0,
                until: None,
            }),
            flushed: Duration::ZERO,
            claimed: false,
            pending_at_claim: 0,
            failed_before: self.table.counts().failed,
            failures_before: self.counters.failures,
        });
    }

    fn report_nothing_to_do(&mut self) {
        self.reports.push_back(FenceReport {
            held: self.table.counts().present,
            pending: 0,
            failed: 0,
            failures: Vec::new(),
            took: Duration::ZERO,
            flushed: Duration::ZERO,
            epoch: self.group.claim.epoch,
        });
    }

    /// Silent for longer than an alive and some: waiting for it would be waiting for nothing.
    fn talks(&self, peer: &Peer, now: Instant) -> bool {
        !peer.lost && now < peer.heard + self.settings.alive * 5 / 4
    }

    /// The owner answered a flush with its last sequence number.
    pub(super) fn answer_flush(&mut self, token: u32, last: u64) {
        if let Some(Fence { flush: Some(flush), .. }) = &mut self.fence
            && token == flush.token
        {
            flush.until = Some(last);
        }
    }

    /// Whatever of a takeover can happen now. Called after every input.
    pub fn step_takeover(&mut self, now: Instant) {
        if !self.may_claim(now) {
            self.step_fence(now);
            return;
        }
        if self.fence.is_none() {
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
        let level = self.peer_lost(now) || (self.peer_heard() && !(self.peer_owns() && self.peer_primary()));
        self.group.role == Role::Primary
            && !self.group.owner
            && !self.starting
            && self.dumped
            // A dump that is due is finished first; all events are read in the old role (9).
            && !self.must_dump()
            && self.events_empty
            && (self.group.want || level)
    }

    /// Whether the fence still waits for a talking peer's last changes.
    fn flushing(&mut self, now: Instant) -> bool {
        let expected = self.group.receiver.expected();
        let Some(fence) = &mut self.fence else { return false };
        let started = fence.started;
        let Some(flush) = &mut fence.flush else { return false };
        let heard = self.peers.values().any(|peer| peer.incarnation == flush.to && peer.heard > started);
        if now >= flush.unheard && flush.asked >= 2 && !heard {
            return false;
        }
        let arrived = flush.until.is_some_and(|until| expected.is_some_and(|next| next > until));
        if arrived || now >= flush.deadline {
            return false;
        }
        if flush.until.is_none() && now >= flush.again {
            flush.again = now + FLUSH_AGAIN;
            flush.asked += 1;
            let (to, token) = (flush.to, flush.token);
            self.queue_body(&Body::Flush { to, token });
        }
        true
    }

    fn claim(&mut self, now: Instant) {
        self.give_refill_up();
        // A look under way has judged a part of the kernel in the old role: once more, after the fence.
        self.deaf |= self.may_lack();
        self.look_due = false;
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
        for at in 0..self.pending.len() {
            let Some(id) = self.pending.at(at) else { break };
            let Some(mut slot) = self.table.get_mut(id) else { continue };
            if slot.has(Flags::PENDING) {
                let install = slot.has(Flags::PRESENT) && !slot.has(Flags::INSTALLED);
                let destroy = !slot.has(Flags::PRESENT);
                // Pending destroys are dropped and their keys read back; installs stand (13).
                slot.put(Flags::READ_BACK, destroy || (!install && slot.has(Flags::READ_BACK)));
            }
        }
        if !self.settings.hot {
            self.queue_what_is_not_installed();
        }
        self.group.claim = Claim { epoch: self.group.claim.epoch + 1, node: self.settings.node };
        self.group.claim_incarnation = Some(self.settings.incarnation);
        self.group.owner = true;
        self.group.want = false;
        self.group.root_ok = false;
        self.group.receiver.reset();
        self.starting = false;
        self.was_owner = false;
        self.let_in();
        self.be_patient_again(now);
        self.take_calls_over();
        self.plan_window_tracking(now);
        self.jobs.clear();
        self.repair = Default::default();
        self.nacked = Default::default();
        self.counters.claims += 1;
        self.alive_now(now);
        let (pending, failed) = (self.pending.len(), self.table.counts().failed);
        if let Some(fence) = &mut self.fence {
            fence.claimed = true;
            if fence.flush.is_some() {
                fence.flushed = now.saturating_duration_since(fence.started);
            }
            fence.pending_at_claim = pending;
            fence.failed_before = failed;
            fence.failures_before = self.counters.failures;
        }
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

    fn step_fence(&mut self, now: Instant) {
        let done = self.fence.as_ref().is_some_and(|fence| fence.claimed) && self.pending.is_empty();
        if !done {
            return;
        }
        let Some(fence) = self.fence.take() else { return };
        self.truth = true;
        self.begin_trim(now);
        let since =
            self.counters.failures.iter().zip(fence.failures_before).map(|(now, before)| now - before);
        let failures = Failure::ALL.iter().map(|reason| reason.word()).zip(since);
        self.reports.push_back(FenceReport {
            held: self.table.counts().present,
            pending: fence.pending_at_claim,
            failed: self.table.counts().failed.saturating_sub(fence.failed_before),
            failures: failures.filter(|(_, count)| *count > 0).collect(),
            took: now.saturating_duration_since(fence.started),
            flushed: fence.flushed,
            epoch: self.group.claim.epoch,
        });
    }

    /// A finished takeover to report, once.
    pub fn poll_fence_report(&mut self) -> Option<FenceReport> {
        self.reports.pop_front()
    }

    /// Whether a takeover is under way.
    pub fn fencing(&self) -> bool {
        self.fence.is_some()
    }

    /// Another node's claim is higher: everything here is owed to it, and becomes its copy (17).
    pub(super) fn yield_to(&mut self, claim: Claim, now: Instant) {
        self.counters.yields += 1;
        self.owe_all();
        self.group.claim = claim;
        self.group.claim_incarnation = None;
        self.group.owner = false;
        self.group.want = false;
        self.fence = None;
        self.departed.forget();
        self.stop_trim();
        self.jobs.clear();
        self.resend.clear();
        self.refused.clear();
        self.group.receiver.reset();
        self.fall_out_of_step();
        self.survived = false;
        self.truth = false;
        self.was_owner = false;
        // What packets made here while it was owned is offered, too.
        self.look_due |= self.deaf;
        // A dump due now is judged as the owner's (9).
        self.late = self.resyncing();
        // From now on the sums count what is held, not what was sent: they differ in what was never sent.
        self.waits.clear();
        for id in self.dirty.take(&mut self.table) {
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

    /// What a former owner's kernel holds becomes a copy of the new owner's: ours to remove with it. Of any other backup's only
    /// what it installed is (11).
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
        self.refreshing = !self.renewals.is_empty();
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
        if self.starting
            && self.dumped
            && (self.peer_lost(now) || (self.peer_heard() && !self.peer_owns()) || self.group.root_ok)
        {
            self.starting = false;
        }
    }

    /// What `/run` should hold (19).
    pub fn persist(&self) -> Persist {
        Persist {
            truth: self.truth && (!self.group.owner || self.fence.is_none()),
            was_owner: self.group.owner || self.late || self.offers() > 0 || self.was_owner,
            settled: !self.fresh,
            role: (self.group.role != Role::Unknown && !self.group.supposed).then_some(self.group.role),
        }
    }
}
