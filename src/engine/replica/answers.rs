//! The owner's answers to who misses something: datagrams sent again, and repairs, in the same stream, so
//! that nothing can be resurrected.
//!
//! [`Answers`] holds what was asked for and paces it; called by `outgoing` when nothing more urgent is to be
//! sent. Whoever asks again and again holds nobody up: each list has an end.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::Replica;
use super::size::put_room;
use crate::digest::{BUCKETS, LEVELS, bucket_range};
use crate::table::{Flags, SlotId, is_present};
use crate::wire::{self, LIST_HEAD, LISTED_SIZE, Listed, Node, Want};

/// Of so many datagrams one is a repair, when both wait: under changes that never leave the channel room a
/// new backup would get nothing else.
const REPAIR_SHARE: u32 = 4;
/// Repair datagrams per [`TICK`] for somebody who does not follow the stream yet, and datagrams sent again:
/// the peer's socket buffer must hold a tick's worth.
const PER_TICK: u32 = 24;
/// Pace of repairs.
const TICK: Duration = Duration::from_millis(1);
/// Most buckets that wait to be looked at: whoever asks for everything again and again holds nobody up.
const BUCKETS_DUE: usize = 4 * BUCKETS;
/// Slots looked at for one datagram: after a peak most of them may be empty.
const WALKED: usize = 4096;
/// Most repair jobs waiting; the asking side asks again for what was dropped here.
const JOBS: usize = 8192;
/// Most datagrams waiting to be sent again.
const RESENDS: usize = 4096;
/// Bytes of the sums below a node.
const SUMS_ROOM: usize = 4 + 16 * 8;

/// Something that a repair asks for.
#[derive(Debug)]
enum Job {
    Sums(Node),
    List(u16),
    Buckets(Range<usize>),
    /// Every entry, in the order of the slots, which the processor sees coming; from this one on.
    Everything(SlotId),
    Key(u64),
}

impl Job {
    fn of(want: Want) -> Job {
        match want {
            Want::Sums(node) if node.level < LEVELS => Job::Sums(node),
            Want::Sums(node) => Job::List(node.index),
            Want::Subtree(Node::ROOT) => Job::Everything(0),
            Want::Subtree(node) => Job::Buckets(bucket_range(node)),
            Want::List(bucket) => Job::List(bucket),
            Want::Key(key) => Job::Key(key),
        }
    }

    fn buckets(&self) -> usize {
        match self {
            Job::Buckets(range) => range.len(),
            Job::Everything(_) => BUCKETS,
            Job::Sums(_) | Job::List(_) | Job::Key(_) => 0,
        }
    }
}

/// What was asked for and not yet sent.
#[derive(Debug)]
pub(super) struct Answers {
    jobs: VecDeque<Job>,
    resend: BTreeSet<u64>,
    /// Datagrams that may still go out in this tick, and when the next one begins.
    credit: u32,
    tick: Instant,
    /// Live datagrams since the last repair, while one waits.
    unrepaired: u32,
}

impl Answers {
    pub(super) fn new(now: Instant) -> Answers {
        Answers { jobs: VecDeque::new(), resend: BTreeSet::new(), credit: 0, tick: now, unrepaired: 0 }
    }

    /// Repairs wait.
    pub(super) fn repairs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// When the pace allows more, if something waits for it; `paced`: so do repairs.
    pub(super) fn next_tick(&self, paced: bool) -> Option<Instant> {
        (paced && self.repairs() || !self.resend.is_empty()).then_some(self.tick + TICK)
    }

    /// There is credit for a repair.
    pub(super) fn has_credit(&self) -> bool {
        self.credit > 0
    }

    /// A tick begins, if it is time.
    pub(super) fn refill(&mut self, now: Instant) {
        if now >= self.tick + TICK {
            self.tick = now;
            self.credit = PER_TICK;
        }
    }

    /// The next datagram to be sent again, at the pace of repairs: one small datagram must not make this node
    /// send thousands at once. `sent` tells whether it is still known.
    pub(super) fn next_resend(&mut self, sent: impl Fn(u64) -> bool) -> Option<u64> {
        while self.credit > 0 {
            let sequence = self.resend.pop_first()?;
            if sent(sequence) {
                self.credit -= 1;
                return Some(sequence);
            }
        }
        None
    }

    /// A live datagram would go out, and a repair could. Whether the live one does; `hurried`: somebody waits
    /// for it.
    pub(super) fn lets_live_pass(&mut self, repair: bool, hurried: bool) -> bool {
        self.unrepaired = if repair && !hurried { self.unrepaired + 1 } else { 0 };
        self.unrepaired < REPAIR_SHARE
    }

    /// A repair goes out.
    pub(super) fn begin_repair(&mut self) {
        self.unrepaired = 0;
        self.credit = self.credit.saturating_sub(1);
    }

    /// Numbers of the stream that a peer misses.
    pub(super) fn resend(&mut self, sequences: impl Iterator<Item = u64>) {
        let room = RESENDS.saturating_sub(self.resend.len());
        self.resend.extend(sequences.take(room));
    }

    /// A peer repairs its table.
    pub(super) fn want(&mut self, wants: &[Want]) {
        let mut due: usize = self.jobs.iter().map(Job::buckets).sum();
        for want in wants {
            if let Want::Subtree(node) = want {
                due += bucket_range(*node).len();
            }
            if self.jobs.len() >= JOBS || due > BUCKETS_DUE {
                break;
            }
            self.jobs.push_back(Job::of(*want));
        }
    }

    /// Everything is to be sent again, once.
    pub(super) fn want_everything(&mut self) {
        if !self.jobs.iter().any(|job| matches!(job, Job::Everything(0))) {
            self.jobs.push_back(Job::Everything(0));
        }
    }

    /// This node owns the group from now on: nobody has asked it for anything yet.
    pub(super) fn forget_repairs(&mut self) {
        self.jobs.clear();
    }

    /// Another node's stream is to be asked.
    pub(super) fn forget(&mut self) {
        self.jobs.clear();
        self.resend.clear();
    }
}

/// What became of the job at the head of the list.
enum Progress {
    /// It is done.
    Done,
    /// It goes on.
    More,
    /// What comes next does not fit into this datagram.
    Full,
}

impl Replica {
    /// One datagram's worth of answers to repairs.
    pub(super) fn repair_datagram(&mut self, now: Instant) -> Vec<u8> {
        let room = self.room();
        let mut messages = Vec::with_capacity(room);
        let mut walked = 0;
        while walked < WALKED
            && let Some(mut job) = self.out.answers.jobs.pop_front()
        {
            let progress = match &mut job {
                Job::Sums(node) => self.tell_sums(*node, &mut messages, room),
                Job::Key(key) => self.tell_key(*key, &mut messages, room),
                Job::List(bucket) => self.tell_list(*bucket, &mut messages, room, now),
                Job::Everything(next) => {
                    walked += 1;
                    self.tell_slot(next, &mut messages, room)
                }
                Job::Buckets(range) => self.tell_bucket(range, &mut messages, room),
            };
            match progress {
                Progress::Done => {}
                Progress::More => self.out.answers.jobs.push_front(job),
                Progress::Full => {
                    self.out.answers.jobs.push_front(job);
                    break;
                }
            }
        }
        self.stream(&messages, now)
    }

    fn tell_sums(&self, node: Node, messages: &mut Vec<u8>, room: usize) -> Progress {
        if messages.len() + SUMS_ROOM > room {
            return Progress::Full;
        }
        wire::emit_sums(messages, node, &self.group.sums.children(node));
        Progress::Done
    }

    /// A wanted key that is gone is answered by a destroy (4).
    fn tell_key(&mut self, key: u64, messages: &mut Vec<u8>, room: usize) -> Progress {
        let found = self.table.find_hash(key);
        if messages.len() + put_room(found.and_then(|id| self.table.get(id))) > room {
            return Progress::Full;
        }
        match found {
            Some(id) if is_present(&self.table, id) => self.emit_present(id, messages, true),
            found => {
                wire::emit_destroy(messages, key, 0);
                if let Some(id) = found {
                    self.count_as(id, 0);
                }
            }
        }
        Progress::Done
    }

    fn tell_slot(&mut self, next: &mut SlotId, messages: &mut Vec<u8>, room: usize) -> Progress {
        let id = *next;
        if messages.len() + put_room(self.table.get(id)) > room {
            return Progress::Full;
        }
        *next += 1;
        if id >= self.table.end() {
            return Progress::Done;
        }
        if is_present(&self.table, id) {
            self.emit_present(id, messages, true);
        }
        Progress::More
    }

    /// A bucket is sent whole; one too large for a datagram goes key by key.
    fn tell_bucket(&mut self, range: &mut Range<usize>, messages: &mut Vec<u8>, room: usize) -> Progress {
        let Some(bucket) = range.clone().next() else { return Progress::Done };
        let bucket = u16::try_from(bucket).unwrap_or(u16::MAX);
        let present = || self.table.bucket(bucket).filter(|(_, slot)| slot.has(Flags::PRESENT));
        let needed: usize = present().map(|(_, slot)| put_room(Some(slot))).sum();
        if needed > room {
            let keys: Vec<Job> = present().map(|(_, slot)| Job::Key(slot.key_hash)).collect();
            range.start += 1;
            let rest = Job::Buckets(range.clone());
            self.out.answers.jobs.push_front(rest);
            keys.into_iter().for_each(|key| self.out.answers.jobs.push_front(key));
            return Progress::Done;
        }
        if messages.len() + needed > room {
            return Progress::Full;
        }
        let ids: Vec<SlotId> = present().map(|(id, _)| id).collect();
        range.start += 1;
        for id in ids {
            self.emit_present(id, messages, true);
        }
        Progress::More
    }

    /// A bucket's contents as sent at this point of the stream.
    fn tell_list(&mut self, bucket: u16, messages: &mut Vec<u8>, room: usize, now: Instant) -> Progress {
        let counted = self.table.bucket(bucket).filter(|(_, slot)| slot.sent != 0);
        let lines: Vec<Listed> =
            counted.map(|(_, slot)| Listed { key: slot.key_hash, content: slot.sent }).collect();
        if messages.len() + LIST_HEAD + lines.len() * LISTED_SIZE <= room {
            wire::emit_list(messages, bucket, true, &lines);
            return Progress::Done;
        }
        if !messages.is_empty() {
            return Progress::Full;
        }
        // Larger than a datagram: in parts, one datagram each, with nothing in between. The last part goes
        // into the datagram under construction.
        let mut rest = lines.as_slice();
        let most = (room - LIST_HEAD) / LISTED_SIZE;
        while rest.len() > most {
            let (part, more) = rest.split_at(most);
            rest = more;
            let mut whole = Vec::with_capacity(room);
            wire::emit_list(&mut whole, bucket, false, part);
            let datagram = self.stream(&whole, now);
            self.queue_control(datagram);
        }
        wire::emit_list(messages, bucket, true, rest);
        Progress::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_is_sent_again_is_paced_and_has_an_end() {
        let now = Instant::now();
        let mut answers = Answers::new(now);
        answers.resend(1..1_000_000);
        assert_eq!(answers.resend.len(), RESENDS);
        assert_eq!(answers.next_resend(|_| true), None, "not in this tick");
        assert_eq!(answers.next_tick(false), Some(now + TICK));
        answers.refill(now + TICK);
        let sent: Vec<u64> = std::iter::from_fn(|| answers.next_resend(|sequence| sequence > 10)).collect();
        assert_eq!((sent.len(), sent[0]), (PER_TICK as usize, 11), "what the ring has lost costs nothing");
        assert!(!answers.has_credit());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn who_asks_for_everything_again_and_again_gets_it_a_few_times() {
        let mut answers = Answers::new(Instant::now());
        answers.want(&[Want::Subtree(Node::ROOT); 10]);
        assert_eq!(answers.jobs.len(), BUCKETS_DUE / BUCKETS);
        answers.want_everything();
        assert_eq!(answers.jobs.len(), BUCKETS_DUE / BUCKETS, "it is on its way");
        answers.forget_repairs();
        answers.want(&vec![Want::Key(1); 2 * JOBS]);
        assert_eq!(answers.jobs.len(), JOBS);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn changes_that_never_end_leave_a_share_for_repairs() {
        let mut answers = Answers::new(Instant::now());
        answers.want_everything();
        let passed =
            |answers: &mut Answers| (0..8).map(|_| answers.lets_live_pass(true, false)).collect::<Vec<_>>();
        assert_eq!(passed(&mut answers)[..4], [true, true, true, false]);
        answers.begin_repair();
        assert!(answers.lets_live_pass(true, false));
        assert!((0..8).all(|_| answers.lets_live_pass(true, true)), "who takes over is not held up");
    }
}
