//! Repair on a backup: where the owner's digest differs from this table's, walk down the tree of sums to the
//! buckets that differ, compare what the owner lists of them, and ask for what is missing.
//!
//! Called by `incoming`, at the owner's alives and by the repair messages in its stream; the owner's half is
//! in `outgoing`. What is asked for comes through the stream, in its order (4).

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Replica;
use crate::digest::{LEVELS, bucket_of, child};
use crate::table::{Flags, SlotId};
use crate::wire::{self, Body, Listed, Node, Want};

/// A repair without progress starts over.
const REPAIR_STALLED: Duration = Duration::from_millis(500);
/// ... twice as late each time, so often at most: after 16 s.
const MOST_DOUBLED: u32 = 5;
/// Between two asks.
const ASK_TICK: Duration = Duration::from_millis(1);
/// Wants in one ask: fits the smallest datagram.
const WANTS_PER_ASK: usize = 64;
/// Wants waiting: every bucket at once.
const WANTS: usize = crate::digest::BUCKETS;
/// Lines of a bucket's contents that are kept; a list that is longer is not believed.
const LISTED: usize = 65536;
/// Entries for which room is made before they come; more than that are believed when they are here.
const MADE_ROOM: usize = 1 << 20;
/// Keys of a bucket that are not asked for one by one when they are most of it.
const HALF: usize = 4;

/// A repair under way on a backup.
#[derive(Default)]
pub(super) struct Repair {
    /// Walking down the digest tree.
    active: bool,
    queue: VecDeque<Want>,
    progress: Option<Instant>,
    /// Parts of a contents list until its last one comes.
    list: Vec<Listed>,
    list_bucket: Option<u16>,
    next_ask: Option<Instant>,
    /// How often it has been begun without anything coming.
    vain: u32,
}

impl Repair {
    /// When the next ask is due.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        (!self.queue.is_empty()).then(|| self.next_ask.unwrap_or(now))
    }

    /// An entry that was asked for has come.
    pub(super) fn note_progress(&mut self, now: Instant) {
        self.progress = Some(now);
        self.vain = 0;
    }

    /// Nothing has come for long enough that it is begun again; the more often in vain, the later.
    fn is_stalled(&self, now: Instant) -> bool {
        let pause = REPAIR_STALLED.saturating_mul(1 << self.vain.min(MOST_DOUBLED));
        self.progress.is_none_or(|at| now >= at + pause)
    }
}

impl Replica {
    /// The digest differs at the place where the owner told its own. One that makes progress goes on.
    pub(super) fn begin_repair(&mut self, now: Instant) {
        if self.following.repair.active && !self.following.repair.is_stalled(now) {
            return;
        }
        if self.following.repair.active {
            self.following.repair.vain += 1;
        } else {
            self.counters.repairs += 1;
            self.following.repair.vain = 0;
        }
        self.following.repair.active = true;
        self.following.repair.progress = Some(now);
        self.following.repair.queue.clear();
        self.following.repair.list.clear();
        self.want_below(Node::ROOT);
        self.chase_repair(now);
    }

    /// Nothing differs any more.
    pub(super) fn end_repair(&mut self) {
        self.following.repair.active = false;
        self.following.repair.queue.clear();
    }

    /// Ask for what is below a node: everything where nothing is here, else only what differs.
    fn want_below(&mut self, node: Node) {
        let want = if self.group.sums.empty_below(node) {
            if node == Node::ROOT {
                self.expect_everything();
            }
            Want::Subtree(node)
        } else if node.level == LEVELS {
            Want::List(node.index)
        } else {
            Want::Sums(node)
        };
        self.want(want);
    }

    /// The owner has said how many there are.
    fn expect_everything(&mut self) {
        let owner = self.peers.get(self.group.claim.node);
        let count = owner.map_or(0, |owner| owner.count as usize).min(MADE_ROOM);
        self.table.make_room(count.saturating_sub(self.table.len()));
    }

    fn want(&mut self, want: Want) {
        if self.following.repair.queue.len() < WANTS {
            self.following.repair.queue.push_back(want);
        }
    }

    /// Send the asks whose turn has come.
    pub(super) fn chase_repair(&mut self, now: Instant) {
        if self.following.repair.queue.is_empty() || self.following.repair.next_ask.is_some_and(|at| now < at)
        {
            return;
        }
        let Some(to) = self.group.claim_incarnation else { return };
        self.following.repair.next_ask = Some(now + ASK_TICK);
        let count = self.following.repair.queue.len().min(WANTS_PER_ASK);
        let wants: Vec<Want> = self.following.repair.queue.drain(..count).collect();
        let group = self.group.id;
        self.queue_body(&Body::Ask { to, group, wants });
    }

    /// The owner's sums below a node, at this point of the stream.
    pub(super) fn apply_sums(&mut self, node: Node, sums: &[u64; 16], now: Instant) {
        if !self.following.repair.active {
            return;
        }
        self.following.repair.note_progress(now);
        let ours = self.group.sums.children(node);
        for (at, (theirs, ours)) in sums.iter().zip(ours).enumerate() {
            if *theirs != ours {
                self.want_below(child(node, u8::try_from(at).unwrap_or(0)));
            }
        }
    }

    /// The owner's contents of a bucket, at this point of the stream: complete with its last part (4).
    pub(super) fn apply_list(&mut self, bucket: u16, last: bool, lines: &[u8], now: Instant) {
        if self.following.repair.list_bucket != Some(bucket) {
            self.following.repair.list.clear();
            self.following.repair.list_bucket = Some(bucket);
        }
        let room = LISTED.saturating_sub(self.following.repair.list.len());
        self.following.repair.list.extend(wire::listed(lines).take(room));
        if !last {
            return;
        }
        self.following.repair.list_bucket = None;
        let listed = std::mem::take(&mut self.following.repair.list);
        if listed.len() >= LISTED {
            return;
        }
        self.following.repair.note_progress(now);
        let mut theirs: BTreeMap<u64, u64> =
            listed.iter().filter(|line| bucket_of(line.key) == bucket).map(as_pair).collect();
        let ours: Vec<(SlotId, u64, u64)> = self
            .table
            .bucket(bucket)
            .filter(|(_, slot)| slot.has(Flags::PRESENT))
            .map(|(id, slot)| (id, slot.key_hash, slot.sent))
            .collect();
        for (id, key, content) in ours {
            match theirs.remove(&key) {
                // The winner lists it with equal bytes: nothing is owed (17).
                Some(same) if same == content => self.drop_offer(id),
                Some(_) => self.want(Want::Key(key)),
                None => self.lacks(id),
            }
        }
        let aside = self.table.bucket(bucket).filter(|(_, slot)| slot.has(Flags::FORGOTTEN));
        let ended: Vec<SlotId> =
            aside.filter(|(_, slot)| !theirs.contains_key(&slot.key_hash)).map(|(id, _)| id).collect();
        for id in ended {
            self.drop_forgotten(id);
        }
        // An interrupted transfer of everything leaves each bucket half: then the whole of it is asked for.
        if theirs.len() >= HALF && 2 * theirs.len() >= listed.len() {
            self.want(Want::Subtree(Node { level: LEVELS, index: bucket }));
            return;
        }
        for (key, _) in theirs {
            self.want(Want::Key(key));
        }
    }

    /// The owner's complete list lacks an entry that is here: offered if owed, else removed.
    fn lacks(&mut self, id: SlotId) {
        let owed = self.table.get(id).is_some_and(|slot| slot.has(Flags::OFFER));
        match self.group.claim_incarnation {
            Some(to) if owed => self.offer(id, to),
            _ => self.drop_key(id),
        }
    }
}

fn as_pair(line: &Listed) -> (u64, u64) {
    (line.key, line.content)
}
