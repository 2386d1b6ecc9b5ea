//! Lists of slots: each holds a slot at most once, and marks those that it holds.
//!
//! A mark is set and cleared with the push and the pop, so that a slot always knows whether a list still
//! names it, and [`super::Table::release`] need not know which lists there are. Each list has an owner
//! elsewhere in the engine.

use std::collections::VecDeque;

use super::slot::Lists;
use super::{SlotId, Table};

/// A list of slots, first in, first out, with something kept beside each of them.
#[derive(Debug)]
pub(crate) struct Queue<Beside = ()> {
    mark: Lists,
    slots: VecDeque<(SlotId, Beside)>,
}

impl<Beside> Queue<Beside> {
    /// The empty list of this mark; no other has it.
    pub(crate) const fn new(mark: Lists) -> Queue<Beside> {
        Queue { mark, slots: VecDeque::new() }
    }

    /// At the end, unless it is in the list already or there is no such slot. Whether it was put there.
    pub(crate) fn push_with(&mut self, table: &mut Table, id: SlotId, beside: Beside) -> bool {
        let Some(mut slot) = table.get_mut(id).filter(|slot| !slot.lists.contains(self.mark)) else {
            return false;
        };
        slot.lists |= self.mark;
        self.slots.push_back((id, beside));
        true
    }

    /// The first one, which is not in the list any more.
    pub(crate) fn pop_with(&mut self, table: &mut Table) -> Option<(SlotId, Beside)> {
        let (id, beside) = self.slots.pop_front()?;
        self.unmark(table, id);
        Some((id, beside))
    }

    /// All of them; the list is empty then.
    pub(crate) fn take_with(&mut self, table: &mut Table) -> Vec<(SlotId, Beside)> {
        let all: Vec<(SlotId, Beside)> = std::mem::take(&mut self.slots).into();
        for (id, _) in &all {
            self.unmark(table, *id);
        }
        all
    }

    fn unmark(&self, table: &mut Table, id: SlotId) {
        if let Some(mut slot) = table.get_mut(id) {
            slot.lists -= self.mark;
        }
    }

    /// Whether a slot is in it.
    pub(crate) fn contains(&self, table: &Table, id: SlotId) -> bool {
        table.get(id).is_some_and(|slot| slot.lists.contains(self.mark))
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slots in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.slots.iter().map(|(id, _)| *id)
    }

    /// What is kept beside each of them.
    pub(crate) fn besides(&mut self) -> impl Iterator<Item = &mut Beside> + '_ {
        self.slots.iter_mut().map(|(_, beside)| beside)
    }

    /// The slot at a place of the list.
    pub(crate) fn at(&self, place: usize) -> Option<SlotId> {
        self.slots.get(place).map(|(id, _)| *id)
    }

    /// In the order of these ranks; what has the same rank stays in its order.
    pub(crate) fn order_by<Rank: Ord>(&mut self, rank: impl Fn(SlotId) -> Rank) {
        self.slots.make_contiguous().sort_by_key(|(id, _)| rank(*id));
    }

    /// List and marks agree: each slot that is listed lives and says so, and no other one does.
    pub(crate) fn check(&self, table: &Table) -> Result<(), String> {
        let marked = table.iter().filter(|(_, slot)| slot.lists.contains(self.mark)).count();
        if marked != self.slots.len() || self.iter().any(|id| !self.contains(table, id)) {
            return Err(format!("{:?}: {} listed, {marked} marked", self.mark, self.slots.len()));
        }
        Ok(())
    }
}

impl Queue {
    /// [`Queue::push_with`].
    pub(crate) fn push(&mut self, table: &mut Table, id: SlotId) -> bool {
        self.push_with(table, id, ())
    }

    /// [`Queue::pop_with`].
    pub(crate) fn pop(&mut self, table: &mut Table) -> Option<SlotId> {
        self.pop_with(table).map(|(id, ())| id)
    }

    /// [`Queue::take_with`].
    pub(crate) fn take(&mut self, table: &mut Table) -> Vec<SlotId> {
        self.take_with(table).into_iter().map(|(id, ())| id).collect()
    }

    /// Those that `keeps` says no to leave the list; they are returned.
    pub(crate) fn drop_unless(
        &mut self,
        table: &mut Table,
        keeps: impl Fn(&Table, SlotId) -> bool,
    ) -> Vec<SlotId> {
        let (kept, dropped): (Vec<SlotId>, Vec<SlotId>) =
            std::mem::take(&mut self.slots).into_iter().map(|(id, ())| id).partition(|id| keeps(table, *id));
        self.slots = kept.into_iter().map(|id| (id, ())).collect();
        for id in &dropped {
            self.unmark(table, *id);
        }
        dropped
    }
}
