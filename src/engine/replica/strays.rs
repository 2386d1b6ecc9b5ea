//! Strays: entries of unknown origin that the kernel has and the table lacks or contradicts. They are left to
//! their own timers, and what lives of them is taken into the table at a claim (11).
//!
//! Owned by the replica. The list grows with those that live, not with those that ever were. No clock.

use crate::table::{Flags, Lists, Queue, SlotId, Table};

/// Listed before those that ended are looked for.
const LISTED: usize = 1024;

/// The list.
#[derive(Debug)]
pub(super) struct Strays {
    listed: Queue,
    /// Length at which those that ended are looked for.
    limit: usize,
}

impl Strays {
    pub(super) fn new() -> Strays {
        Strays { listed: Queue::new(Lists::STRAYS), limit: LISTED }
    }

    /// The kernel has one under this key. Keys that are none any more, now and then: nothing of them is
    /// listed from now on.
    pub(super) fn note(&mut self, table: &mut Table, id: SlotId) -> Vec<SlotId> {
        let Some(mut slot) = table.get_mut(id) else { return Vec::new() };
        slot.set(Flags::STRAY);
        if !self.listed.push(table, id) || self.listed.len() < self.limit {
            return Vec::new();
        }
        let lives = |table: &Table, id| table.get(id).is_some_and(|slot| slot.has(Flags::STRAY));
        let ended = self.listed.drop_unless(table, lives);
        self.limit = (2 * self.listed.len()).max(LISTED);
        ended
    }

    /// All that were listed, those that ended among them.
    pub(super) fn take(&mut self, table: &mut Table) -> Vec<SlotId> {
        self.listed.take(table)
    }

    pub(super) fn check(&self, table: &Table) -> Result<(), String> {
        self.listed.check(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::filled;

    #[test]
    fn those_that_end_leave_the_list() {
        let (mut table, ids) = filled(LISTED + 1);
        let mut strays = Strays::new();
        for id in &ids[..LISTED - 1] {
            assert_eq!(strays.note(&mut table, *id), []);
            table.get_mut(*id).unwrap().clear(Flags::STRAY);
        }
        assert_eq!(strays.note(&mut table, ids[LISTED - 1]), ids[..LISTED - 1]);
        assert_eq!(strays.note(&mut table, ids[LISTED]), []);
        assert_eq!(strays.check(&table), Ok(()));
        assert_eq!(strays.take(&mut table), ids[LISTED - 1..]);
    }
}
