//! The one table: what this node knows of each key, and where each key stands on its way to the peer and to the
//! kernel.
//!
//! A slot lives as long as anything is known of its key: in the table, owed to the peer, pending in the kernel, or
//! a stray. Called by the replica only. Pure storage: no decisions, no bytes, no clock.

use std::borrow::Cow;
use std::hint::black_box;

use bitflags::bitflags;
use hashbrown::HashTable;

use crate::compact::Compact;
use crate::digest::{BUCKETS, bucket_of};
use ctsync_ctnetlink::entry::{Entry, Key, Rare};

/// Keys whose slots are read together.
const TOUCHED: usize = 64;

/// A slot's place; stable while the slot lives.
pub type SlotId = u32;
const NONE: SlotId = SlotId::MAX;

bitflags! {
    /// Where a key stands.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Flags: u32 {
        /// The entry is in the table. Without it the slot's entry is the last one known.
        const PRESENT = 1 << 0;
        /// Differs from what was sent; queued for the stream.
        const DIRTY = 1 << 1;
        /// In the list of strays.
        const NOTED = 1 << 2;
        /// Queued for the kernel.
        const PENDING = 1 << 3;
        /// The kernel is asked before anything is decided.
        const READ_BACK = 1 << 4;
        /// The kernel holds an entry that this daemon installed, or found when it started.
        const MINE = 1 << 5;
        /// The kernel holds an entry of unknown origin that the table lacks or contradicts.
        const STRAY = 1 << 6;
        /// Owed to the owner that replaced this node.
        const OFFER = 1 << 7;
        /// Believed to be in the kernel.
        const INSTALLED = 1 << 8;
        /// Listed by the dump under way.
        const LISTED = 1 << 9;
        /// Waits in the queue towards the peer.
        const QUEUED_OUT = 1 << 10;
        /// Waits in the queue towards the kernel.
        const QUEUED_IN = 1 << 11;
        /// The kernel refused it for good; tried again when it changes.
        const FAILED = 1 << 12;
        /// Destroy what the kernel has before creating.
        const REPLACE = 1 << 13;
        /// Waits in the queue of renewals.
        const RENEW = 1 << 14;
        /// A reset took it out of the table; kept aside until the owner has sent everything again.
        const FORGOTTEN = 1 << 15;
        /// Counted among the destroys that wait for the channel.
        const DESTROY_DUE = 1 << 16;
        /// This kernel does not know its helper: installed without.
        const HELPLESS = 1 << 17;
        /// No rule of this kernel uses labels: installed without.
        const UNLABELLED = 1 << 18;
        /// In the list of entries with a helper, and of expectations.
        const WATCHED = 1 << 19;
        /// Waits for its master to be installed.
        const ORPHAN = 1 << 20;
        /// An expectation that the kernel holds under a backup's lease.
        const LEASED = 1 << 21;
        /// In the list of GRE entries of PPTP calls.
        const CALL = 1 << 22;
        /// Its window tracking is to come back.
        const TRACK = 1 << 23;
        /// Waits for room in the kernel's table.
        const NO_ROOM = 1 << 24;
        /// Its master has ended before this kernel could have it: installed without.
        const MASTERLESS = 1 << 25;
        /// Its kernel timer is to go back from the lease to its protocol's timeout.
        const TRIM = 1 << 26;
        /// The kernel's entry may be another connection than the table's: it was not given this birth.
        const REBORN = 1 << 27;
        /// The kernel's entry has what an update cannot take away. Packets did that, unless it is still so at the next sweep.
        const AHEAD = 1 << 28;
        /// A request about it is under way.
        const ASKED = 1 << 29;
        /// Something else is wanted of the kernel since it was asked.
        const OVERTAKEN = 1 << 30;
        /// Its reply tuple is not the one that was sent.
        const REWRITTEN = 1 << 31;
    }
}

/// What is known of one key.
#[derive(Debug)]
pub struct Slot {
    kept: Compact,
    /// Keyed hash of the key; its top bits are the bucket.
    pub key_hash: u64,
    /// Content hash that is counted in the group's sums, 0 for none: as sent on the owner, as held elsewhere.
    pub sent: u64,
    /// Where the key stands.
    pub flags: Flags,
    /// Birth stamp of the entry: changes when the tuple is destroyed and created again. A hint, never a reason to
    /// touch the kernel: a restarted daemon stamps anew.
    pub birth: u16,
    /// Birth stamp last sent.
    pub sent_birth: u16,
    /// When the entry came into the table, in seconds of the replica's life.
    pub since: u32,
    /// Why the kernel refused it.
    pub failure: Option<crate::reconcile::Failure>,
    /// Tries since the last success.
    pub tries: u8,
    /// The dump during which an event was read or a request sent for this key.
    pub touched: u32,
    /// The turn of the event socket in which a request was sent for this key.
    pub asked: u32,
    /// Neighbours in the bucket.
    next: SlotId,
    previous: SlotId,
}

impl Slot {
    /// The entry; its timeout is the owner's when last heard.
    pub fn entry(&self) -> Cow<'_, Entry> {
        self.kept.get()
    }

    /// Another entry of the same key.
    pub fn set_entry(&mut self, entry: Entry) {
        self.kept.set(entry);
    }

    /// The entry changes.
    pub fn change_entry(&mut self, change: impl FnOnce(&mut Entry)) {
        self.kept.change(change);
    }

    /// [`Entry::key`].
    pub fn key(&self) -> Key {
        self.kept.key()
    }

    /// [`Entry::timeout`].
    pub fn timeout(&self) -> Option<u32> {
        self.kept.timeout()
    }

    /// Whether the entry stands for an expectation.
    pub fn is_expectation(&self) -> bool {
        self.kept.wide().is_some_and(|entry| entry.expectation().is_some())
    }

    /// Whether a helper watches its packets.
    pub fn has_helper(&self) -> bool {
        self.kept.wide().is_some_and(|entry| entry.helper().is_some())
    }

    /// What only few entries have.
    pub fn rare(&self) -> Option<&Rare> {
        self.kept.wide().and_then(|entry| entry.rare.as_deref())
    }

    /// [`Entry::master_key`].
    pub fn master_key(&self) -> Option<Key> {
        self.kept.wide().and_then(Entry::master_key)
    }
}

/// All slots of a node.
pub struct Table {
    slots: Vec<Option<Slot>>,
    free: Vec<SlotId>,
    index: HashTable<SlotId>,
    /// Keys that an empty index of this size would take.
    room: usize,
    heads: Vec<SlotId>,
}

impl Default for Table {
    fn default() -> Table {
        let (slots, free, index) = (Vec::new(), Vec::new(), HashTable::new());
        Table { slots, free, index, room: 0, heads: vec![NONE; BUCKETS] }
    }
}

impl Table {
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

    /// Read what changes of these keys will need. Several reads wait for the memory together; each change by itself would wait for
    /// its own.
    pub fn touch(&self, hashes: &[u64]) {
        for some in hashes.chunks(TOUCHED) {
            let mut ids = [NONE; TOUCHED];
            for (id, hash) in ids.iter_mut().zip(some) {
                // Nearly always the right one, and not worth a look into its slot here.
                *id = self.index.find(*hash, |_| true).copied().unwrap_or(NONE);
            }
            self.touch_slots(ids.into_iter());
            let mut neighbours = [NONE; 2 * TOUCHED];
            for ((pair, id), hash) in neighbours.chunks_exact_mut(2).zip(ids).zip(some) {
                // What comes goes before the first of its bucket; what goes leaves two that have to know.
                let head = || self.heads.get(usize::from(bucket_of(*hash))).copied().unwrap_or(NONE);
                let around = self.get(id).map_or_else(|| [head(), NONE], |slot| [slot.next, slot.previous]);
                pair.copy_from_slice(&around);
            }
            self.touch_slots(neighbours.into_iter());
        }
    }

    /// As [`Table::touch`], of slots alone.
    pub fn touch_slots(&self, ids: impl Iterator<Item = SlotId>) {
        for slot in ids.filter_map(|id| self.get(id)) {
            // It begins and ends on lines of its own.
            black_box((slot.kept.timeout(), slot.key_hash, slot.flags));
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

    /// A slot in use.
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    /// A new slot, not yet in the table's contents (no flags).
    pub fn insert(&mut self, key_hash: u64, entry: Entry) -> SlotId {
        self.make_room(1);
        let slot = Slot {
            kept: Compact::from(entry),
            key_hash,
            sent: 0,
            flags: Flags::empty(),
            birth: 0,
            sent_birth: 0,
            since: 0,
            failure: None,
            tries: 0,
            touched: 0,
            asked: 0,
            next: NONE,
            previous: NONE,
        };
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

    /// Forget a key.
    pub fn remove(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(id as usize).and_then(Option::take) else { return };
        if let Ok(found) = self.index.find_entry(slot.key_hash, |at| *at == id) {
            found.remove();
        }
        let bucket = usize::from(bucket_of(slot.key_hash));
        if let Some(before) = self.get_mut(slot.previous) {
            before.next = slot.next;
        } else if let Some(head) = self.heads.get_mut(bucket) {
            *head = slot.next;
        }
        if let Some(after) = self.get_mut(slot.next) {
            after.previous = slot.previous;
        }
        self.free.push(id);
    }

    /// Every key gets the hash that `hash` gives it.
    pub fn rehash(&mut self, mut hash: impl FnMut(&Key) -> u64) {
        self.index.clear();
        self.heads.fill(NONE);
        for id in 0..self.end() {
            let Some(slot) = self.get_mut(id) else { continue };
            slot.key_hash = hash(&slot.kept.key());
            self.link(id);
        }
    }

    /// Room for so many more keys, without growing step by step.
    ///
    /// The index grows in the order of the slots. By itself it would do so in its own, with a cache miss for each slot.
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
        let Some(slot) = self.get_mut(id) else { return };
        let key_hash = slot.key_hash;
        slot.previous = NONE;
        let head = self.heads.get_mut(usize::from(bucket_of(key_hash)));
        let next = head.map_or(NONE, |head| std::mem::replace(head, id));
        if let Some(slot) = self.get_mut(id) {
            slot.next = next;
        }
        if let Some(after) = self.get_mut(next) {
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
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digester;
    use ctsync_ctnetlink::entry::{L4, Status, Tuple, proto};

    /// Of each zone; more are of further zones.
    const KEYS: u32 = 400;

    fn entry(number: u32) -> Entry {
        let [zone, port] = [number / KEYS, number % KEYS].map(|part| u16::try_from(part).unwrap());
        let src = Tuple {
            src: "10.0.1.100".parse().unwrap(),
            dst: "10.0.0.100".parse().unwrap(),
            proto: proto::UDP,
            l4: L4::Ports { src: port, dst: 53 },
        };
        Entry {
            orig: src,
            reply: src.inverse(),
            zone,
            status: Status::Confirmed,
            timeout: Some(30),
            mark: None,
            tcp: None,
            master: None,
            rare: None,
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Remove(usize),
        MakeRoom(usize),
        Rehash(u128),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..2 * KEYS).prop_map(Step::Insert),
            4 => any::<usize>().prop_map(Step::Remove),
            1 => (0..2000_usize).prop_map(Step::MakeRoom),
            1 => any::<u128>().prop_map(Step::Rehash),
        ]
    }

    /// The table holds just what the model does, wherever one looks.
    fn assert_alike(table: &Table, model: &BTreeMap<u32, SlotId>, digester: Digester) {
        let mut scratch = Vec::new();
        assert_eq!(table.len(), model.len());
        let all: BTreeSet<SlotId> = table.iter().map(|(id, _)| id).collect();
        assert_eq!(all, model.values().copied().collect());
        let mut by_bucket: BTreeMap<u16, BTreeSet<SlotId>> = BTreeMap::new();
        for (number, id) in model {
            let key = entry(*number).key();
            let hash = digester.hash_key(&mut scratch, &key);
            assert_eq!((table.find(hash, &key), table.find_hash(hash)), (Some(*id), Some(*id)));
            assert_eq!(*table.get(*id).unwrap().entry(), entry(*number));
            assert!(*id < table.end());
            by_bucket.entry(bucket_of(hash)).or_default().insert(*id);
        }
        for (bucket, ids) in by_bucket {
            assert_eq!(table.bucket(bucket).map(|(id, _)| id).collect::<BTreeSet<_>>(), ids);
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_by_key_and_by_bucket(steps in prop::collection::vec(step(), 1..400)) {
            let (mut table, mut model, mut scratch) = (Table::default(), BTreeMap::new(), Vec::new());
            let mut digester = Digester::new(7);
            for step in steps {
                match step {
                    Step::Insert(number) => {
                        let key = entry(number).key();
                        let hash = digester.hash_key(&mut scratch, &key);
                        table.touch(&[hash, hash.wrapping_add(1)]);
                        prop_assert_eq!(table.find(hash, &key), model.get(&number).copied());
                        model.entry(number).or_insert_with(|| table.insert(hash, entry(number)));
                    }
                    Step::Remove(at) => {
                        if let Some((&number, &id)) = model.iter().nth(at % model.len().max(1)) {
                            table.remove(id);
                            model.remove(&number);
                        }
                    }
                    Step::MakeRoom(more) => table.make_room(more),
                    Step::Rehash(seed) => {
                        digester = Digester::new(seed);
                        table.rehash(|key| digester.hash_key(&mut scratch, key));
                    }
                }
            }
            assert_alike(&table, &model, digester);
        }
    }

    #[test]
    fn a_large_one_keeps_all_and_uses_what_is_free() {
        let (mut table, mut scratch) = (Table::default(), Vec::new());
        let digester = Digester::new(7);
        let count = 130_000;
        let mut model = BTreeMap::new();
        for number in 0..count {
            let hash = digester.hash_key(&mut scratch, &entry(number).key());
            model.insert(number, table.insert(hash, entry(number)));
        }
        assert_eq!(table.end(), count);
        for number in (0..count).step_by(3) {
            table.remove(model.remove(&number).unwrap());
        }
        let hash = digester.hash_key(&mut scratch, &entry(0).key());
        model.insert(0, table.insert(hash, entry(0)));
        assert_eq!(table.end(), count);
        assert_alike(&table, &model, digester);
    }
}
