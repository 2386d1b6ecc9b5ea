//! Where this table and each living peer's differ, for an operator who asks. Walks down both digest trees,
//! outside the stream, in two rounds: what differs in the same way a second apart differs, the rest is on
//! its way.
//!
//! Changes nothing on either node.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Replica;
use crate::digest::{LEVELS, child};
use crate::table::Flags;
use crate::wire::{
    self, Body, HEADER, Incarnation, LIST_HEAD, LISTED_SIZE, Listed, Message, Messages, Node, Want,
};
use ctsync_ctnetlink::entry::Entry;

/// A look without an answer is sent again after this long.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// No answer at all for this long: the peer cannot be asked.
const SILENT: Duration = Duration::from_secs(3);
/// Between the two rounds.
const ROUNDS_APART: Duration = Duration::from_secs(1);
/// Looks on their way at once.
const LOOKS: usize = 16;
/// Looks answered for peers in one turn; past it the peer looks again.
const ANSWERS: usize = 64;
/// Differing entries that are fetched to be shown.
const SHOWN: usize = 1000;

const ROOT: Want = Want::Sums(Node::ROOT);

/// An entry that differs.
#[derive(Clone, Debug)]
pub struct Differing {
    /// As it is here, if it is.
    pub here: Option<Entry>,
    /// As it is there, if it is.
    pub there: Option<Entry>,
}

/// What a comparison found.
#[derive(Clone, Debug)]
pub enum Compared {
    /// There is no living peer to compare with.
    NoPeer,
    /// No node has claimed the group since both started: they hash by different seeds.
    NoOwner {
        /// The peer's name.
        peer: String,
    },
    /// The peer does not answer.
    Silent {
        /// Its name.
        peer: String,
    },
    /// Done.
    Done {
        /// Its name.
        peer: String,
        /// Entries that differ, the first thousand.
        differing: Vec<Differing>,
        /// How many there are.
        count: usize,
        /// Entries that were different in one of the two looks only: changes on their way.
        moving: usize,
        /// Buckets that differ and are too large to be looked at entry by entry.
        unseen: usize,
    },
}

/// Ours and theirs; 0 where there is none.
type Found = BTreeMap<u64, (u64, u64)>;

/// This node's comparison, and what it answers to its peers'.
#[derive(Default)]
pub(super) struct Looks {
    /// One with each peer.
    under_way: Vec<Comparison>,
    /// Looks answered in this turn.
    answered: usize,
}

impl Looks {
    pub(super) fn begin_turn(&mut self) {
        self.answered = 0;
    }

    fn may_answer(&mut self) -> bool {
        self.answered += 1;
        self.answered <= ANSWERS
    }

    pub(super) fn next_step(&self) -> Option<Instant> {
        let unfinished = self.under_way.iter().filter(|comparison| comparison.result.is_none());
        unfinished.map(Comparison::next_step).min()
    }
}

struct Comparison {
    peer: Incarnation,
    name: String,
    waiting: VecDeque<Want>,
    /// Ordered: what is asked again goes into one datagram, and a seed has to replay it.
    asked: BTreeMap<Want, Instant>,
    heard: Instant,
    found: Found,
    first_round: Option<Found>,
    second_at: Option<Instant>,
    /// The result, while its entries are fetched.
    fetched: Option<BTreeMap<u64, Option<Entry>>>,
    moving: usize,
    unseen: usize,
    result: Option<Compared>,
}

impl Comparison {
    /// With this peer; `result` if there is one without asking it anything.
    fn new(peer: Incarnation, name: String, result: Option<Compared>, now: Instant) -> Comparison {
        Comparison {
            peer,
            name,
            waiting: VecDeque::from([ROOT]),
            asked: BTreeMap::new(),
            heard: now,
            found: Found::new(),
            first_round: None,
            second_at: None,
            fetched: None,
            moving: 0,
            unseen: 0,
            result,
        }
    }

    fn next_step(&self) -> Instant {
        let again = self.asked.values().min().map(|at| *at + LOOK_AGAIN);
        let silent = self.heard + SILENT;
        self.second_at.unwrap_or(again.map_or(silent, |again| again.min(silent)))
    }
}

impl Replica {
    /// Begin to compare this table with every living peer's.
    pub fn begin_comparison(&mut self, now: Instant) {
        let seed = self.hashing.seed();
        let with = self.peers.living().map(|peer| {
            let apart = (peer.seed != seed).then(|| Compared::NoOwner { peer: peer.name.clone() });
            Comparison::new(peer.incarnation, peer.name.clone(), apart, now)
        });
        self.looks.under_way = with.collect();
        if self.looks.under_way.is_empty() {
            let nobody = Comparison::new(Incarnation::default(), String::new(), Some(Compared::NoPeer), now);
            self.looks.under_way.push(nobody);
        }
        self.chase_comparison(now);
    }

    /// The peer's hashes mean something else from now on.
    pub(super) fn give_comparison_up(&mut self) {
        for comparison in &mut self.looks.under_way {
            comparison.result.get_or_insert(Compared::NoOwner { peer: comparison.name.clone() });
        }
    }

    /// Whether a comparison is under way or waits to be polled.
    pub fn comparing(&self) -> bool {
        !self.looks.under_way.is_empty()
    }

    /// What was found with a peer, once, when it is known.
    pub fn poll_comparison(&mut self) -> Option<Compared> {
        let done = self.looks.under_way.iter().position(|comparison| comparison.result.is_some())?;
        self.looks.under_way.remove(done).result
    }

    /// Send what can be sent, end what has ended.
    pub(super) fn chase_comparison(&mut self, now: Instant) {
        for at in 0..self.looks.under_way.len() {
            self.chase_comparison_with(at, now);
        }
    }

    fn chase_comparison_with(&mut self, at: usize, now: Instant) {
        let Some(comparison) = self.looks.under_way.get_mut(at) else { return };
        if comparison.result.is_some() || comparison.second_at.is_some_and(|at| now < at) {
            return;
        }
        comparison.second_at = None;
        if now >= comparison.heard + SILENT {
            comparison.result = Some(Compared::Silent { peer: comparison.name.clone() });
            return;
        }
        if comparison.waiting.is_empty() && comparison.asked.is_empty() {
            self.end_round(at, now);
        }
        let Some(comparison) = self.looks.under_way.get_mut(at) else { return };
        let mut wants: Vec<Want> = Vec::new();
        for (want, asked) in &mut comparison.asked {
            if now >= *asked + LOOK_AGAIN {
                *asked = now;
                wants.push(*want);
            }
        }
        while comparison.asked.len() < LOOKS {
            let Some(want) = comparison.waiting.pop_front() else { break };
            comparison.asked.insert(want, now);
            wants.push(want);
        }
        if !wants.is_empty() {
            let (to, group) = (comparison.peer, self.group.id);
            self.queue_body(&Body::Look { to, group, wants });
        }
    }

    fn end_round(&mut self, at: usize, now: Instant) {
        let Some(comparison) = self.looks.under_way.get_mut(at) else { return };
        if let Some(fetched) = comparison.fetched.take() {
            let (peer, moving, unseen) = (comparison.name.clone(), comparison.moving, comparison.unseen);
            let count = comparison.found.len();
            let differing = fetched.into_iter().map(|(key, there)| {
                let slot = self.table.find_hash(key).and_then(|id| self.table.get(id));
                let here = slot.filter(|slot| slot.has(Flags::PRESENT));
                Differing { here: here.map(|slot| slot.entry().into_owned()), there }
            });
            let differing = differing.collect();
            if let Some(comparison) = self.looks.under_way.get_mut(at) {
                comparison.result = Some(Compared::Done { peer, differing, count, moving, unseen });
            }
            return;
        }
        let found = std::mem::take(&mut comparison.found);
        match comparison.first_round.take() {
            None => {
                comparison.first_round = Some(found);
                comparison.unseen = 0;
                comparison.second_at = Some(now + ROUNDS_APART);
                comparison.heard = now + ROUNDS_APART;
                comparison.waiting.push_back(ROOT);
            }
            Some(first) => {
                let (same, other): (Found, Found) =
                    found.into_iter().partition(|(key, pair)| first.get(key) == Some(pair));
                comparison.moving = other.len() + first.keys().filter(|key| !same.contains_key(key)).count();
                let shown: Vec<u64> = same.keys().take(SHOWN).copied().collect();
                let there = shown.iter().filter(|key| same.get(key).is_some_and(|(_, theirs)| *theirs != 0));
                comparison.waiting.extend(there.map(|key| Want::Key(*key)));
                comparison.fetched = Some(shown.into_iter().map(|key| (key, None)).collect());
                comparison.found = same;
                if comparison.waiting.is_empty() {
                    self.end_round(at, now);
                }
            }
        }
    }

    /// A peer's operator compares: say what is here.
    pub(super) fn handle_look(&mut self, from: Incarnation, wants: &[Want]) {
        let room = self.out.size.now() - self.out.seal.overhead() - HEADER - wire::GROUP_HEAD;
        for want in wants {
            if !self.looks.may_answer() {
                return;
            }
            let mut messages = Vec::new();
            match *want {
                Want::Sums(node) if node.level < LEVELS => {
                    wire::emit_sums(&mut messages, node, &self.group.sums.children(node));
                }
                Want::Sums(node) | Want::Subtree(node) if node.level == LEVELS => {
                    self.emit_look_list(node.index, room, &mut messages);
                }
                Want::Sums(_) | Want::Subtree(_) => continue,
                Want::List(bucket) => self.emit_look_list(bucket, room, &mut messages),
                Want::Key(key) => match self.table.find_hash(key).and_then(|id| self.table.get(id)) {
                    Some(slot) if slot.has(Flags::PRESENT) => {
                        wire::emit_put(&mut messages, &slot.entry(), slot.birth, false);
                    }
                    _ => wire::emit_destroy(&mut messages, key, 0),
                },
            }
            let group = self.group.id;
            self.queue_body(&Body::Seen { to: from, group, messages: &messages });
        }
    }

    fn emit_look_list(&self, bucket: u16, room: usize, messages: &mut Vec<u8>) {
        let counted = self.table.bucket(bucket).filter(|(_, slot)| slot.sent != 0);
        let lines: Vec<Listed> =
            counted.map(|(_, slot)| Listed { key: slot.key_hash, content: slot.sent }).collect();
        let most = room.saturating_sub(LIST_HEAD) / LISTED_SIZE;
        let shown = lines.get(..most.min(lines.len())).unwrap_or_default();
        wire::emit_list(messages, bucket, shown.len() == lines.len(), shown);
    }

    /// The peer's answer to a look.
    pub(super) fn handle_seen(&mut self, from: Incarnation, messages: &[u8], now: Instant) {
        let Some(at) = self.looks.under_way.iter().position(|comparison| comparison.peer == from) else {
            return;
        };
        for message in Messages::new(messages) {
            let Some(comparison) = self.looks.under_way.get_mut(at) else { return };
            comparison.heard = comparison.heard.max(now);
            match message {
                Ok(Message::Sums { node, sums }) => {
                    if comparison.asked.remove(&Want::Sums(node)).is_none() {
                        continue;
                    }
                    let ours = self.group.sums.children(node);
                    for (index, (theirs, ours)) in sums.iter().zip(ours).enumerate() {
                        let child = child(node, u8::try_from(index).unwrap_or(0));
                        if *theirs != ours {
                            let last = child.level == LEVELS;
                            comparison.waiting.push_back(if last {
                                Want::List(child.index)
                            } else {
                                Want::Sums(child)
                            });
                        }
                    }
                }
                Ok(Message::List { bucket, last, lines }) => {
                    if comparison.asked.remove(&Want::List(bucket)).is_none() {
                        continue;
                    }
                    if last {
                        compare_bucket(&mut comparison.found, &self.table, bucket, lines);
                    } else {
                        // It did not fit: what it lacks may be there.
                        comparison.unseen += 1;
                    }
                }
                Ok(Message::Put { entry, .. }) => {
                    let key = self.hashing.key(&entry.key());
                    self.note_fetched(at, key, Some(entry));
                }
                Ok(Message::Destroy { key, .. }) => self.note_fetched(at, key, None),
                // These are no answers.
                Ok(Message::Change { .. } | Message::Refusal { .. }) | Err(_) => {
                    self.counters.unusable += 1;
                    return;
                }
            }
        }
        self.chase_comparison(now);
    }

    fn note_fetched(&mut self, at: usize, key: u64, entry: Option<Entry>) {
        let Some(comparison) = self.looks.under_way.get_mut(at) else { return };
        comparison.asked.remove(&Want::Key(key));
        if let Some(place) = comparison.fetched.as_mut().and_then(|fetched| fetched.get_mut(&key)) {
            *place = entry;
        }
    }
}

fn compare_bucket(found: &mut Found, table: &crate::table::Table, bucket: u16, lines: &[u8]) {
    let mut theirs: BTreeMap<u64, u64> = wire::listed(lines).map(|line| (line.key, line.content)).collect();
    for (_, slot) in table.bucket(bucket).filter(|(_, slot)| slot.sent != 0) {
        let there = theirs.remove(&slot.key_hash).unwrap_or(0);
        if there != slot.sent {
            found.insert(slot.key_hash, (slot.sent, there));
        }
    }
    found.extend(theirs.into_iter().map(|(key, there)| (key, (0, there))));
}
