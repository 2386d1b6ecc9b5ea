//! Readiness, and the gate in front of an election: a node that is not ready is not elected while a better
//! one is there.

use std::time::{Duration, Instant};

use super::{Replica, Role};

/// Whether a takeover now would carry every connection on; if not, why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// This node owns the group.
    Owner,
    /// In step with a living owner, everything installed.
    Ready,
    /// No peer is heard: nobody could do better.
    Alone,
    /// The kernel table has not been read completely.
    Dumping,
    /// Waiting to hear whether a peer lives, and whether it owns the group.
    Starting,
    /// No living node owns the group.
    NoOwner,
    /// The stream has a gap, or has not been taken up.
    Behind,
    /// The digest differs from the owner's.
    Differs,
    /// Entries wait for the kernel.
    Installing,
    /// Entries are owed to the owner.
    Offering,
}

impl Readiness {
    /// A failover to this node would lose nothing it could have: nobody can do better.
    pub fn is_ready(self) -> bool {
        matches!(self, Readiness::Owner | Readiness::Ready | Readiness::Alone)
    }

    /// This node holds what the group's owner holds, or is the owner.
    pub fn in_step(self) -> bool {
        matches!(self, Readiness::Owner | Readiness::Ready)
    }

    /// A few words for people.
    pub fn word(self) -> &'static str {
        match self {
            Readiness::Owner => "owner",
            Readiness::Ready => "ready",
            Readiness::Alone => "alone: no peer is heard",
            Readiness::Dumping => "not ready: reading the kernel table",
            Readiness::Starting => "not ready: starting",
            Readiness::NoOwner => "not ready: no living node owns the group",
            Readiness::Behind => "not ready: behind the owner's stream",
            Readiness::Differs => "not ready: the digest differs, repair under way",
            Readiness::Installing => "not ready: entries wait for the kernel",
            Readiness::Offering => "not ready: entries are owed to the new owner",
        }
    }
}

/// The gate in front of an election: lowers a node that is not ready, never one that is primary or alone.
pub(super) struct Gate {
    open: bool,
    progress: (usize, usize, u64),
    progressed: Instant,
    ready: Instant,
    /// When it was last in step with an owner, or the owner itself.
    in_step: Option<Instant>,
    was_ready: bool,
    check: Instant,
}

/// Between two looks at progress.
const GATE_TICK: Duration = Duration::from_millis(100);
/// ... while there is nothing to wait for.
const GATE_REST: Duration = Duration::from_secs(1);
/// Nobody has been heard since the start: so long the election is told to prefer others, if there are any.
const START_GRACE: Duration = Duration::from_secs(10);
/// An open gate outlasts this much of being behind.
const GATE_GRACE: Duration = Duration::from_secs(2);

impl Gate {
    pub(super) fn new(now: Instant) -> Gate {
        Gate {
            open: false,
            progress: (0, 0, 0),
            progressed: now,
            ready: now,
            in_step: None,
            was_ready: false,
            check: now,
        }
    }

    pub(super) fn next(&self) -> Instant {
        self.check
    }

    /// It was in step with another stream.
    pub(super) fn forget_step(&mut self) {
        self.in_step = None;
    }
}

impl Replica {
    /// Whether this node could take over without loss.
    pub fn readiness(&self, now: Instant) -> Readiness {
        if self.ownership.is_owner() {
            return Readiness::Owner;
        }
        if !self.dumps.known() || self.dumps.must() {
            return Readiness::Dumping;
        }
        if self.peer_lost(now) {
            return Readiness::Alone;
        }
        if !self.peers.own() {
            return if self.ownership.is_starting() || !self.peers.speak() {
                Readiness::Starting
            } else {
                Readiness::NoOwner
            };
        }
        let backlog = self.peers.get(self.group.claim.node).is_some_and(|owner| owner.owner && !owner.ready);
        if self.following.expected().is_none() || self.following.has_gap() || backlog {
            return Readiness::Behind;
        }
        if !self.following.is_equal() || self.ownership.is_starting() {
            return Readiness::Differs;
        }
        if self.offers() > 0 || self.dumps.late() {
            return Readiness::Offering;
        }
        if self.settings.tunables.hot && self.work.is_busy() {
            return Readiness::Installing;
        }
        Readiness::Ready
    }

    /// Whether this node holds what its owner holds, or did a moment ago: a datagram that was lost and is
    /// being sent again is no more missing than one on its way.
    pub(super) fn in_step(&self, now: Instant) -> bool {
        let readiness = self.readiness(now);
        let brief = matches!(readiness, Readiness::Behind | Readiness::Installing | Readiness::Differs);
        let lately = self.gate.in_step.is_some_and(|at| now < at + self.settings.tunables.lost_after);
        readiness.in_step() || (brief && lately)
    }

    /// Look at readiness and progress; what the election may see is [`Replica::gate_open`].
    pub(super) fn judge_gate(&mut self, now: Instant) {
        let readiness = self.readiness(now);
        self.gate.check = now + if readiness.is_ready() { GATE_REST } else { GATE_TICK };
        let progress = (self.table.counts().present, self.work.keys(), self.counters.requests);
        if progress != self.gate.progress || readiness.is_ready() {
            self.gate.progress = progress;
            self.gate.progressed = now;
        }
        // A peer that was heard a moment ago may only be slow: with nobody else there, a lowered priority is
        // elected, too.
        let just_lost = readiness == Readiness::Alone
            && !self.gate.open
            && self.peers.all().any(|peer| now < peer.heard + self.settings.tunables.lost_after + GATE_GRACE);
        // At a boot the channel may come up later than VRRP does: a peer that lives would be heard in a
        // moment.
        let nobody_yet = readiness == Readiness::Alone
            && !self.gate.open
            && self.peers.is_empty()
            && now < self.peers.listening() + START_GRACE;
        // No living owner is nobody's fault: an election must go on, among those that have most of what it
        // had.
        let fit = (readiness.is_ready() && !just_lost && !nobody_yet)
            || (readiness == Readiness::NoOwner && self.ahead().next().is_none())
            || self.group.role == Role::Primary
            || now >= self.gate.progressed + self.settings.tunables.gate_limit;
        if readiness.is_ready() {
            self.gate.ready = now;
        }
        if readiness.in_step() {
            self.gate.in_step = Some(now);
        }
        if std::mem::replace(&mut self.gate.was_ready, readiness.is_ready()) != readiness.is_ready() {
            // The peer's status and its operator want to know at once.
            self.alive_now(now);
        }
        // Under churn a backup is behind for moments: that does not close an open gate.
        let brief = matches!(readiness, Readiness::Behind | Readiness::Installing | Readiness::Differs)
            && now < self.gate.ready + GATE_GRACE;
        self.gate.open = fit || (self.gate.open && brief);
    }

    /// Whether this node may be elected. Only ever false on a node that is not primary and not alone.
    pub fn gate_open(&self) -> bool {
        self.gate.open
    }
}
