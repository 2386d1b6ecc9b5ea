//! Window tracking comes back (`window-tracking`): after a takeover, for TCP entries that have been seen to
//! carry packets both ways, never for silent ones.
//!
//! An installed entry is be-liberal, since ctnetlink carries no window edges. The kernel learns them from the
//! packets that it then sees: when it has noted an acknowledgement of either side (MAXACK_SET,
//! `tcp_in_window`), both edges are known.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Replica;
use super::dumps::Purpose;
use crate::table::{Flags, Lists, Queue, SlotId, Table};
use ctsync_ctnetlink::entry::{Entry, TcpInfo};

/// When the kernel's table is looked at after a claim; later the sweeps do it.
const LOOKS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(30)];
/// Between two slices, and most entries in one.
const TICK: Duration = Duration::from_millis(50);
const SLICE: usize = 256;
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;

/// What is to be tracked again.
pub(super) struct Windows {
    looks: VecDeque<Instant>,
    found: Queue,
    next_slice: Option<Instant>,
}

impl Windows {
    pub(super) const fn new() -> Windows {
        Windows { looks: VecDeque::new(), found: Queue::new(Lists::WINDOWS), next_slice: None }
    }

    pub(super) fn check(&self, table: &Table) -> Result<(), String> {
        self.found.check(table)
    }
}

impl Replica {
    pub(super) fn next_window_step(&self) -> Option<Instant> {
        let slice = self.windows.next_slice.filter(|_| !self.windows.found.is_empty());
        let look = self.windows.looks.front().copied();
        slice.into_iter().chain(look).min()
    }

    /// A claim: connections of another node's begin to pass here.
    pub(super) fn plan_window_tracking(&mut self, now: Instant) {
        self.forget_windows();
        if self.settings.tunables.track_windows {
            self.windows.looks = LOOKS.iter().map(|after| now + *after).collect();
        }
    }

    /// The owner's kernel shows an entry.
    pub(super) fn judge_window(&mut self, id: SlotId, entry: &Entry) {
        let Some(tcp) =
            entry.tcp.filter(|_| self.settings.tunables.track_windows && self.ownership.is_owner())
        else {
            return;
        };
        let liberal = (tcp.flags_orig | tcp.flags_reply) & TcpInfo::BE_LIBERAL != 0;
        let seen = tcp.flags_orig & tcp.flags_reply & TcpInfo::MAXACK_SET != 0;
        let due = self.table.get(id).is_some_and(|slot| slot.has(Flags::TRACK));
        if liberal && seen && tcp.state == ESTABLISHED && !due && self.windows.found.push(&mut self.table, id)
        {
            self.windows.next_slice.get_or_insert(self.life.now());
        }
    }

    /// Looks and slices whose time has come.
    pub(super) fn step_windows(&mut self, now: Instant) {
        if !self.ownership.is_owner() {
            self.forget_windows();
            return;
        }
        if self.windows.looks.front().is_some_and(|at| now >= *at) {
            self.windows.looks.pop_front();
            self.dumps.want(Purpose::Whole);
        }
        if self.windows.next_slice.is_some_and(|at| now >= at) {
            self.windows.next_slice = Some(now + TICK);
            for _ in 0..self.windows.found.len().min(SLICE) {
                let Some(id) = self.windows.found.pop(&mut self.table) else { break };
                match self.table.get_mut(id) {
                    Some(mut slot) if slot.has(Flags::PRESENT) => {
                        slot.set(Flags::TRACK);
                        self.want_renewal(id);
                    }
                    _ => self.release(id),
                }
            }
        }
    }

    fn forget_windows(&mut self) {
        for id in self.windows.found.take(&mut self.table) {
            self.release(id);
        }
        self.windows = Windows::new();
    }
}
