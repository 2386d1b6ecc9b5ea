//! The table against a map, and what its slots count.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::digest::Digester;
use ctsync_ctnetlink::entry::{L4, Status, Tuple, proto};

/// Of each zone; more are of further zones.
const KEYS: u32 = 400;

pub(crate) fn entry(number: u32) -> Entry {
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

/// A table with so many entries, and their places.
pub(crate) fn filled(count: usize) -> (Table, Vec<SlotId>) {
    let (mut table, mut scratch) = (Table::new(0), Vec::new());
    let digester = Digester::new(7);
    let insert = |number| {
        let entry = entry(u32::try_from(number).unwrap());
        let hash = digester.hash_key(&mut scratch, &entry.key());
        table.insert(hash, entry)
    };
    let ids = (0..count).map(insert).collect();
    (table, ids)
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
    assert_eq!(table.counts(), table.recount());
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
        let (mut table, mut model, mut scratch) = (Table::new(0), BTreeMap::new(), Vec::new());
        let mut digester = Digester::new(7);
        for step in steps {
            match step {
                Step::Insert(number) => {
                    let key = entry(number).key();
                    let hash = digester.hash_key(&mut scratch, &key);
                    table.prefetch(&[hash, hash.wrapping_add(1)]);
                    prop_assert_eq!(table.find(hash, &key), model.get(&number).copied());
                    model.entry(number).or_insert_with(|| table.insert(hash, entry(number)));
                }
                Step::Remove(at) => {
                    if let Some((&number, &id)) = model.iter().nth(at % model.len().max(1)) {
                        table.release(id, None);
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
    let (mut table, mut scratch) = (Table::new(0), Vec::new());
    let digester = Digester::new(7);
    let count = 130_000;
    let mut model = BTreeMap::new();
    for number in 0..count {
        let hash = digester.hash_key(&mut scratch, &entry(number).key());
        model.insert(number, table.insert(hash, entry(number)));
    }
    assert_eq!(table.end(), count);
    for number in (0..count).step_by(3) {
        table.release(model.remove(&number).unwrap(), None);
    }
    let hash = digester.hash_key(&mut scratch, &entry(0).key());
    model.insert(0, table.insert(hash, entry(0)));
    assert_eq!(table.end(), count);
    assert_alike(&table, &model, digester);
}
