//! The one table: what this node knows of each key, and where each key stands on its way to the peer and to
//! the kernel.
//!
//! A slot lives as long as anything is known of its key: in the table, owed to the peer, pending in the
//! kernel, or a stray. `slot` says what is known of it, `queue` lists slots. Called by the replica only. Pure
//! storage: no decisions, no bytes, no clock.

mod queue;
mod slot;

use std::hint::black_box;

use ctsync_ctnetlink::entry::{Entry, Key};
use hashbrown::HashTable;

use crate::digest::{BUCKETS, bucket_of};

pub(crate) use queue::Queue;
pub(crate) use slot::Lists;
pub use slot::{Counts, Flags, Slot, SlotMut};

/// Keys whose slots are read together.
const TOGETHER: usize = 64;

/// A slot's place; stable while the slot lives.
pub type SlotId = u32;
const NONE: SlotId = SlotId::MAX;

/// Whether an entry is in the table.
pub(crate) fn is_present(table: &Table, id: SlotId) -> bool {
    table.get(id).is_some_and(|slot| slot.has(Flags::PRESENT))
}

/// All slots of a node.
pub struct Table {
    slots: Vec<Option<Slot>>,
    free: Vec<SlotId>,
    index: HashTable<SlotId>,
    /// Keys that an empty index of this size would take.
    room: usize,
    heads: Vec<SlotId>,
    counts: Counts,
    /// The last birth stamp.
    births: u16,
}

impl Table {
    /// An empty one. A birth stamp only has to differ from the last one of its key: any start does.
    pub fn new(births: u16) -> Table {
        let (slots, free, index) = (Vec::new(), Vec::new(), HashTable::new());
        Table { slots, free, index, room: 0, heads: vec![NONE; BUCKETS], counts: Counts::default(), births }
    }

    /// How many slots have what.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A birth stamp that the last ones did not have.
    pub fn next_birth(&mut self) -> u16 {
        self.births = self.births.wrapping_add(1);
        self.births
    }

    /// The numbers, counted anew: always [`Table::counts`].
    pub(crate) fn recount(&self) -> Counts {
        let mut counts = Counts::default();
        self.iter().for_each(|(_, slot)| counts.add(slot));
        counts
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The slot of a key.
    pub fn find(&self, key_hash: u64, key: &Key) -> Option<SlotId> {
        let same = |id: &SlotId| {
            self.get(*id).is_some_and(|slot| slot.key_hash == key_hash && slot.kept.key() == *key)
        };
        self.index.find(key_hash, same).copied()
    }

    /// Read what changes of these keys will need. Several reads wait for the memory together; each change by
    /// itself would wait for its own.
    pub fn prefetch(&self, hashes: &[u64]) {
        for some in hashes.chunks(TOGETHER) {
            let mut ids = [NONE; TOGETHER];
            for (id, hash) in ids.iter_mut().zip(some) {
                // Nearly always the right one, and not worth a look into its slot here.
                *id = self.index.find(*hash, |_| true).copied().unwrap_or(NONE);
            }
            self.prefetch_slots(ids.into_iter());
            let mut neighbours = [NONE; 2 * TOGETHER];
            for ((pair, id), hash) in neighbours.chunks_exact_mut(2).zip(ids).zip(some) {
                // What comes goes before the first of its bucket; what goes leaves two that have to know.
                let head = || self.heads.get(usize::from(bucket_of(*hash))).copied().unwrap_or(NONE);
                let around = self.get(id).map_or_else(|| [head(), NONE], |slot| [slot.next, slot.previous]);
                pair.copy_from_slice(&around);
            }
            self.prefetch_slots(neighbours.into_iter());
        }
    }

    /// As [`Table::prefetch`], of slots alone.
    pub fn prefetch_slots(&self, ids: impl Iterator<Item = SlotId>) {
        for slot in ids.filter_map(|id| self.get(id)) {
            // It begins and ends on lines of its own.
            black_box((slot.timeout(), slot.key_hash, slot.flags()));
        }
    }

    /// The slot of a key hash, for messages that name keys by hash.
    pub fn find_hash(&self, key_hash: u64) -> Option<SlotId> {
        let same = |id: &SlotId| self.get(*id).is_some_and(|slot| slot.key_hash == key_hash);
        self.index.find(key_hash, same).copied()
    }

    /// A slot in use.
    pub fn get(&self, id: SlotId) -> Option<&Slot> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// A slot in use, to be changed.
    pub fn get_mut(&mut self, id: SlotId) -> Option<SlotMut<'_>> {
        let slot = self.slots.get_mut(id as usize)?.as_mut()?;
        Some(SlotMut { slot, counts: &mut self.counts })
    }

    /// A new slot, not yet in the table's contents (no flags).
    pub fn insert(&mut self, key_hash: u64, entry: Entry) -> SlotId {
        self.make_room(1);
        let slot = Slot::new(key_hash, entry);
        let id = if let Some(id) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(id as usize) {
                *place = Some(slot);
            }
            id
        } else {
            self.slots.push(Some(slot));
            SlotId::try_from(self.slots.len() - 1).unwrap_or(NONE)
        };
        self.link(id);
        id
    }

    /// Forget a key of which nothing is known any more. `dump` is the one under way: what is newer than that
    /// is remembered until it is complete.
    pub fn release(&mut self, id: SlotId, dump: Option<u32>) {
        let forgettable = self.get(id).is_some_and(|slot| {
            let held = slot.has_any(Flags::HOLDING) || !slot.lists.is_empty() || slot.sent != 0;
            !held && dump.is_none_or(|dump| slot.newer_than != dump)
        });
        if forgettable {
            self.remove(id);
        }
    }

    /// Forget a key.
    fn remove(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(id as usize).and_then(Option::take) else { return };
        if slot.is_counted() {
            self.counts.take(&slot);
        }
        if let Ok(found) = self.index.find_entry(slot.key_hash, |at| *at == id) {
            found.remove();
        }
        let bucket = usize::from(bucket_of(slot.key_hash));
        if let Some(mut before) = self.get_mut(slot.previous) {
            before.next = slot.next;
        } else if let Some(head) = self.heads.get_mut(bucket) {
            *head = slot.next;
        }
        if let Some(mut after) = self.get_mut(slot.next) {
            after.previous = slot.previous;
        }
        self.free.push(id);
    }

    /// Every key gets the hash that `hash` gives it.
    pub fn rehash(&mut self, mut hash: impl FnMut(&Key) -> u64) {
        self.index.clear();
        self.heads.fill(NONE);
        for id in 0..self.end() {
            let Some(mut slot) = self.get_mut(id) else { continue };
            slot.key_hash = hash(&slot.key());
            self.link(id);
        }
    }

    /// Room for so many more keys, without growing step by step.
    ///
    /// The index grows in the order of the slots. By itself it would do so in its own, with a cache miss for
    /// each slot.
    pub fn make_room(&mut self, more: usize) {
        let keys = self.index.len() + more;
        if keys <= self.index.capacity() {
            return;
        }
        // What removed keys leave behind takes room, too: with few left it is enough to begin anew.
        let room = if keys <= self.room / 2 { self.room } else { keys.max(self.room + 1) };
        // The old one goes first: two of them are never held.
        self.index = HashTable::new();
        self.index = HashTable::with_capacity(room);
        self.room = self.index.capacity();
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let id = SlotId::try_from(at).unwrap_or(NONE);
            self.index.insert_unique(slot.key_hash, id, |_| 0);
        }
    }

    /// Put a slot whose hash is known into its bucket and into the index.
    fn link(&mut self, id: SlotId) {
        let Some(mut slot) = self.get_mut(id) else { return };
        let key_hash = slot.key_hash;
        slot.previous = NONE;
        let head = self.heads.get_mut(usize::from(bucket_of(key_hash)));
        let next = head.map_or(NONE, |head| std::mem::replace(head, id));
        if let Some(mut slot) = self.get_mut(id) {
            slot.next = next;
        }
        if let Some(mut after) = self.get_mut(next) {
            after.previous = id;
        }
        let slots = &self.slots;
        let hash_of =
            |id: &SlotId| slots.get(*id as usize).and_then(Option::as_ref).map_or(0, |slot| slot.key_hash);
        self.index.insert_unique(key_hash, id, hash_of);
    }

    /// The slots of a bucket.
    pub fn bucket(&self, bucket: u16) -> impl Iterator<Item = (SlotId, &Slot)> + '_ {
        let mut at = self.heads.get(usize::from(bucket)).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let slot = self.get(at)?;
            let id = at;
            at = slot.next;
            Some((id, slot))
        })
    }

    /// All slots.
    pub fn iter(&self) -> impl Iterator<Item = (SlotId, &Slot)> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(at, slot)| slot.as_ref().map(|slot| (SlotId::try_from(at).unwrap_or(NONE), slot)))
    }

    /// One past the highest slot id ever used: bounds a paced walk over all slots.
    pub fn end(&self) -> SlotId {
        SlotId::try_from(self.slots.len()).unwrap_or(NONE)
    }
}

#[cfg(test)]
pub(crate) mod tests;
