//! What waits for the kernel: keys to be put right, leases to be renewed, and the batches of requests that
//! are under way.
//!
//! Owned by the replica; anybody may want something of the kernel, `requests` takes it out, in this order,
//! and tells the answers. What is asked for a key is `reconcile`'s affair. No clock.

use std::collections::VecDeque;

use crate::reconcile::Op;
use crate::table::{Flags, Lists, Queue, SlotId, Table};

/// Work for the kernel.
#[derive(Debug)]
pub(super) struct Work {
    pending: Queue,
    /// Entries whose lease and window tracking are to be renewed, when nothing is pending.
    renewals: Queue,
    /// A yield's renewals are not through yet.
    refreshing: bool,
    /// The requests of the batch that is being put together.
    batch: Vec<(SlotId, Op)>,
    /// Batches whose answers are not all in yet, oldest first.
    under_way: VecDeque<Vec<(SlotId, Op)>>,
}

impl Work {
    pub(super) fn new() -> Work {
        Work {
            pending: Queue::new(Lists::IN),
            renewals: Queue::new(Lists::RENEWALS),
            refreshing: false,
            batch: Vec::new(),
            under_way: VecDeque::new(),
        }
    }

    /// Queue a key; with `read_back` the kernel is asked before anything is decided. What it is being asked
    /// now is overtaken.
    pub(super) fn want(&mut self, table: &mut Table, id: SlotId, read_back: bool) {
        let Some(mut slot) = table.get_mut(id) else { return };
        slot.set_failure(None);
        slot.set(Flags::PENDING);
        if slot.has(Flags::ASKED) {
            slot.set(Flags::OVERTAKEN);
        }
        if read_back {
            slot.set(Flags::READ_BACK);
        }
        self.pending.push(table, id);
    }

    /// A key whose turn cannot come now goes to the end of the queue.
    pub(super) fn postpone(&mut self, table: &mut Table, id: SlotId) {
        self.pending.push(table, id);
    }

    /// Queue an installed entry for a new lease and be-liberal, behind everything that is pending.
    pub(super) fn renew(&mut self, table: &mut Table, id: SlotId) {
        self.renewals.push(table, id);
    }

    /// The next key.
    pub(super) fn pop(&mut self, table: &mut Table) -> Option<SlotId> {
        self.pending.pop(table)
    }

    /// The next renewal, when nothing is pending.
    pub(super) fn pop_renewal(&mut self, table: &mut Table) -> Option<SlotId> {
        if self.pending.is_empty() { self.renewals.pop(table) } else { None }
    }

    /// Keys in the order of these ranks.
    pub(super) fn order_by<Rank: Ord>(&mut self, rank: impl Fn(SlotId) -> Rank) {
        self.pending.order_by(rank);
    }

    /// Keys that wait, in their order.
    pub(super) fn pending(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.pending.iter()
    }

    /// How many keys wait.
    pub(super) fn keys(&self) -> usize {
        self.pending.len()
    }

    /// How many renewals wait.
    pub(super) fn renewals(&self) -> usize {
        self.renewals.len()
    }

    /// Whether a key waits.
    pub(super) fn holds(&self, table: &Table, id: SlotId) -> bool {
        self.pending.contains(table, id)
    }

    /// All entries of the table have been queued for renewal, or need none.
    pub(super) fn begin_refresh(&mut self) {
        self.refreshing = !self.renewals.is_empty();
    }

    /// Keys, answers or a yield's renewals are still to come.
    pub(super) fn is_busy(&self) -> bool {
        !self.pending.is_empty() || !self.under_way.is_empty() || self.refreshing
    }

    /// Answers are to come.
    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// A request goes out with this batch.
    pub(super) fn note_asked(&mut self, table: &mut Table, id: SlotId, op: Op) {
        self.batch.push((id, op));
        if let Some(mut slot) = table.get_mut(id) {
            slot.set(Flags::ASKED);
        }
    }

    /// Requests of the batch that is being put together.
    pub(super) fn batched(&self) -> usize {
        self.batch.len()
    }

    /// The batch goes out: so many requests.
    pub(super) fn send_batch(&mut self) -> usize {
        let count = self.batch.len();
        if count > 0 {
            self.under_way.push_back(std::mem::take(&mut self.batch));
        }
        count
    }

    /// Requests of the oldest batch.
    pub(super) fn oldest(&self) -> usize {
        self.under_way.front().map_or(0, Vec::len)
    }

    /// Request number `at` of the oldest batch, which is answered now.
    pub(super) fn answered(&self, table: &mut Table, at: usize) -> Option<(SlotId, Op)> {
        let (id, op) = self.under_way.front().and_then(|batch| batch.get(at)).copied()?;
        if let Some(mut slot) = table.get_mut(id) {
            slot.clear(Flags::ASKED);
        }
        Some((id, op))
    }

    /// All answers of the oldest batch are in. The keys that it was about.
    pub(super) fn end_batch(&mut self, table: &mut Table) -> Vec<SlotId> {
        let keys: Vec<SlotId> =
            self.under_way.pop_front().unwrap_or_default().into_iter().map(|(id, _)| id).collect();
        for id in &keys {
            let Some(mut slot) = table.get_mut(*id) else { continue };
            slot.clear(Flags::ASKED | Flags::OVERTAKEN);
            if slot.has(Flags::PENDING) && !self.pending.contains(table, *id) {
                // Its answer was lost or could not be read.
                self.want(table, *id, false);
            }
        }
        self.refreshing &= !self.renewals.is_empty();
        keys
    }

    /// Whether a request about this key is under way.
    pub(super) fn asks(&self, id: SlotId) -> bool {
        self.under_way.iter().flatten().any(|(under_way, _)| *under_way == id)
    }

    pub(super) fn check(&self, table: &Table) -> Result<(), String> {
        self.pending.check(table)?;
        self.renewals.check(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::filled;

    #[test]
    fn a_key_waits_once_and_keys_go_before_renewals() {
        let (mut table, ids) = filled(3);
        let mut work = Work::new();
        work.renew(&mut table, ids[2]);
        work.want(&mut table, ids[0], false);
        work.want(&mut table, ids[0], true);
        work.want(&mut table, ids[1], false);
        assert_eq!((work.keys(), work.renewals()), (2, 1));
        assert!(table.get(ids[0]).unwrap().has(Flags::READ_BACK), "asked before anything is decided");
        assert_eq!(work.pop_renewal(&mut table), None);
        assert_eq!([work.pop(&mut table), work.pop(&mut table)], [Some(ids[0]), Some(ids[1])]);
        assert_eq!((work.pop(&mut table), work.pop_renewal(&mut table)), (None, Some(ids[2])));
        assert_eq!(work.check(&table), Ok(()));
    }

    #[test]
    fn what_is_wanted_while_it_is_asked_for_overtakes_the_answer() {
        let (mut table, ids) = filled(1);
        let mut work = Work::new();
        work.want(&mut table, ids[0], false);
        let id = work.pop(&mut table).unwrap();
        work.note_asked(&mut table, id, Op::Create);
        assert_eq!((work.send_batch(), work.asks(id)), (1, true));
        work.want(&mut table, id, false);
        assert!(table.get(id).unwrap().has(Flags::OVERTAKEN));
        assert_eq!(work.answered(&mut table, 0), Some((id, Op::Create)));
        assert_eq!((work.answered(&mut table, 1), work.end_batch(&mut table)), (None, vec![id]));
        assert!(!table.get(id).unwrap().has_any(Flags::ASKED | Flags::OVERTAKEN) && work.holds(&table, id));
    }

    #[test]
    fn an_answer_that_never_came_is_asked_for_again() {
        let (mut table, ids) = filled(2);
        let mut work = Work::new();
        for id in &ids {
            work.want(&mut table, *id, false);
            work.pop(&mut table);
            work.note_asked(&mut table, *id, Op::Update);
        }
        work.send_batch();
        table.get_mut(ids[0]).unwrap().clear(Flags::PENDING);
        assert_eq!(work.end_batch(&mut table), ids);
        assert_eq!((work.keys(), work.holds(&table, ids[1])), (1, true), "the other one is settled");
    }

    #[test]
    fn a_yield_is_through_when_its_renewals_are() {
        let (mut table, ids) = filled(1);
        let mut work = Work::new();
        work.begin_refresh();
        assert!(!work.is_busy(), "nothing is to be renewed");
        work.renew(&mut table, ids[0]);
        assert!(!work.is_busy(), "that is a sweep's");
        work.begin_refresh();
        assert!(work.is_busy());
        let id = work.pop_renewal(&mut table).unwrap();
        work.note_asked(&mut table, id, Op::Renew);
        work.send_batch();
        assert!(work.is_busy() && work.is_under_way());
        work.end_batch(&mut table);
        assert!(!work.is_busy());
    }
}
