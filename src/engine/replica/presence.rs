//! What this node says of itself in its alives, beside its table: its seat, its kernel, and when the kernel's
//! part goes along.
//!
//! Filled by the daemon, read by `outgoing` for each alive and by `view`. Decides nothing by it.

use crate::facts::{Build, KernelSettings, Seat};
use crate::wire::KernelTold;

use super::Replica;

/// The kernel's part goes into every alive in which it has changed, and into one of so many.
const KERNEL_EACH: u32 = 4;

/// What this node says of itself.
pub(super) struct Presence {
    /// Its failover group by mechanism and name.
    pub(super) mechanism_group: String,
    pub(super) seat: Seat,
    kernel: KernelSettings,
    told: Option<KernelTold>,
    /// Alives since it went along.
    since: u32,
}

impl Presence {
    pub(super) fn new(mechanism_group: String, kernel: KernelSettings) -> Presence {
        Presence { mechanism_group, seat: Seat::default(), kernel, told: None, since: 0 }
    }

    /// The kernel as it is now, for peers and for the verdict here.
    pub(super) fn kernel(&self, refused: usize, bound: u32) -> KernelTold {
        let refused = u32::try_from(refused).unwrap_or(u32::MAX);
        KernelTold { settings: self.kernel, refused, bound, build: Build::this() }
    }

    /// The kernel's part of the next alive, if it is due.
    fn due(&mut self, kernel: KernelTold) -> Option<KernelTold> {
        self.since += 1;
        if self.told == Some(kernel) && self.since < KERNEL_EACH {
            return None;
        }
        self.since = 0;
        self.told = Some(kernel);
        Some(kernel)
    }

    /// Somebody new listens: the next alive has all of it.
    pub(super) fn tell_all(&mut self) {
        self.told = None;
    }
}

impl Replica {
    /// What this node's kernel is set to now.
    pub fn set_kernel(&mut self, kernel: KernelSettings) {
        self.presence.kernel = kernel;
    }

    /// How the role is known and where the virtual addresses are; peers hear of a change at once.
    pub fn set_seat(&mut self, seat: Seat, now: std::time::Instant) {
        if std::mem::replace(&mut self.presence.seat, seat) != seat {
            self.alive_now(now);
        }
    }

    /// What the next alive says of the kernel.
    pub(super) fn kernel_for_alive(&mut self) -> Option<KernelTold> {
        let kernel = self.own_kernel();
        self.presence.due(kernel)
    }

    pub(super) fn own_kernel(&self) -> KernelTold {
        self.presence.kernel(self.table.counts().failed, self.bound.found())
    }
}
