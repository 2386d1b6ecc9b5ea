//! A kernel table that is nearly full: destroys go first, then assured entries; the others wait until there
//! is room, or until this node owns the group and they are wanted whatever it costs.

use super::Replica;
use crate::failure::Failure;
use crate::reconcile::Op;
use crate::table::{Flags, Lists, Queue, SlotId, Table, is_present};

/// Above this share of `nf_conntrack_max` entries that are not assured wait, in percent.
const NEARLY_FULL: u64 = 90;

/// Whether a table of so many entries, of at most `max` (0: no limit), has little room left.
pub fn nearly_full(in_use: u32, max: u32) -> bool {
    max > 0 && u64::from(in_use) * 100 >= u64::from(max) * NEARLY_FULL
}

/// What waits for room.
pub(super) struct Fullness {
    nearly: bool,
    /// The queue is put in order before it goes on.
    order_due: bool,
    waiting: Queue,
}

impl Fullness {
    pub(super) const fn new() -> Fullness {
        Fullness { nearly: false, order_due: false, waiting: Queue::new(Lists::NO_ROOM) }
    }

    pub(super) fn check(&self, table: &Table) -> Result<(), String> {
        self.waiting.check(table)
    }
}

impl Replica {
    /// The kernel's table holds so many entries of at most `max` (0: no limit).
    pub fn handle_fill(&mut self, in_use: u32, max: u32) {
        let nearly = nearly_full(in_use, max);
        self.fullness.nearly = nearly;
        self.fullness.order_due = nearly;
        if nearly {
            for id in self.fullness.waiting.drop_unless(&mut self.table, is_present) {
                self.release(id);
            }
        } else {
            self.let_in();
        }
    }

    /// There is room, or there must be.
    pub(super) fn let_in(&mut self) {
        for id in self.fullness.waiting.take(&mut self.table) {
            let Some(slot) = self.table.get(id) else { continue };
            if slot.has(Flags::PRESENT) && !slot.has(Flags::INSTALLED) {
                self.want_kernel(id, false);
            } else {
                self.release(id);
            }
        }
    }

    /// Destroys first, then assured entries, then the rest.
    pub(super) fn order_for_room(&mut self) {
        if !std::mem::take(&mut self.fullness.order_due) {
            return;
        }
        let table = &self.table;
        let rank = |id| match table.get(id) {
            Some(slot) if slot.has(Flags::PRESENT) && slot.entry().assured() => 1,
            Some(slot) if slot.has(Flags::PRESENT) => 2,
            _ => 0,
        };
        self.work.order_by(rank);
    }

    /// Whether this key has to wait instead of asking the kernel; noted and counted then.
    pub(super) fn waits_for_room(&mut self, id: SlotId, op: Op) -> bool {
        if !self.fullness.nearly || op != Op::Create || self.ownership.is_owner() {
            return false;
        }
        let Some(mut slot) = self.table.get_mut(id) else { return false };
        // Expectations have a table of their own.
        if slot.is_expectation() || slot.entry().assured() {
            return false;
        }
        slot.clear(Flags::PENDING);
        if slot.failure().is_none() {
            slot.set_failure(Some(Failure::TableFull));
        }
        if self.fullness.waiting.push(&mut self.table, id) {
            self.count_failure(Failure::TableFull);
        }
        true
    }
}
