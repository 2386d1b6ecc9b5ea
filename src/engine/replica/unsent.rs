//! What the owner has not told yet: changed entries, offers that it cannot take, and for how long the oldest
//! has waited.
//!
//! Owned by the replica; `events` puts changes in, `outgoing` takes them out as they are then. No clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::table::{Lists, Queue, Slot, SlotId, Table};
use crate::wire::Refusal;

/// Answers to offers waiting to be told; past it the offer comes again and is answered again.
const REFUSALS: usize = 4096;

/// Instants remembered of the queue; past it later changes count as old as the last one remembered.
const MARKS: usize = 1024;

/// How long changes wait for the channel.
#[derive(Debug, Default)]
struct Waits {
    queued: u64,
    sent: u64,
    /// The first change queued at an instant, while it waits.
    marks: VecDeque<(u64, Instant)>,
    longest: Option<Duration>,
}

impl Waits {
    fn queued(&mut self, now: Instant) {
        self.queued += 1;
        let new = self.marks.back().is_none_or(|(_, at)| *at != now);
        if new && self.marks.len() < MARKS {
            self.marks.push_back((self.queued, now));
        }
    }

    fn sent(&mut self, now: Instant) {
        self.sent += 1;
        while self.marks.get(1).is_some_and(|(first, _)| *first <= self.sent) {
            self.marks.pop_front();
        }
        // Of the one that goes now, which may not be the last of its instant.
        let waited = self.marks.front().map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at));
        self.longest = Some(self.longest.map_or(waited, |longest| longest.max(waited)));
        if self.sent >= self.queued {
            self.marks.clear();
        }
    }

    fn oldest(&self, now: Instant) -> Option<Duration> {
        let next = self.sent + 1;
        let mark = self.marks.get(1).filter(|(first, _)| *first <= next).or(self.marks.front());
        mark.map(|(_, at)| now.saturating_duration_since(*at))
    }
}

/// What waits for the stream.
#[derive(Debug)]
pub(super) struct Unsent {
    dirty: Queue,
    waits: Waits,
    /// Offers that are not taken, by key hash and birth stamp.
    refused: VecDeque<(u64, u16, Refusal)>,
}

impl Unsent {
    pub(super) fn new() -> Unsent {
        Unsent { dirty: Queue::new(Lists::OUT), waits: Waits::default(), refused: VecDeque::new() }
    }

    /// A key has changed; it waits once, however often it changes.
    pub(super) fn push(&mut self, table: &mut Table, id: SlotId, now: Instant) {
        if self.dirty.push(table, id) {
            self.waits.queued(now);
        }
    }

    /// The key that has waited longest, which does not wait any more.
    pub(super) fn pop(&mut self, table: &mut Table, now: Instant) -> Option<SlotId> {
        let id = self.dirty.pop(table)?;
        self.waits.sent(now);
        Some(id)
    }

    /// What the next pop would return.
    pub(super) fn first<'a>(&self, table: &'a Table) -> Option<&'a Slot> {
        table.get(self.dirty.at(0)?)
    }

    /// An offer that is not taken: whoever made it is told so.
    pub(super) fn refuse(&mut self, key_hash: u64, birth: u16, why: Refusal) {
        if self.refused.len() < REFUSALS {
            self.refused.push_back((key_hash, birth, why));
        }
    }

    /// The offer that was refused first, once.
    pub(super) fn pop_refused(&mut self) -> Option<(u64, u16, Refusal)> {
        self.refused.pop_front()
    }

    /// Keys mean something else from now on: nobody could be told which.
    pub(super) fn forget_refused(&mut self) {
        self.refused.clear();
    }

    /// Nothing is told any more: the keys that waited.
    pub(super) fn give_up(&mut self, table: &mut Table) -> Vec<SlotId> {
        self.waits = Waits::default();
        self.refused.clear();
        self.dirty.take(table)
    }

    pub(super) fn len(&self) -> usize {
        self.dirty.len() + self.refused.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.refused.is_empty()
    }

    /// Whether a key waits.
    pub(super) fn holds(&self, table: &Table, id: SlotId) -> bool {
        self.dirty.contains(table, id)
    }

    /// How long the oldest waiting change has waited.
    pub(super) fn oldest(&self, now: Instant) -> Option<Duration> {
        self.waits.oldest(now)
    }

    /// How long the oldest change had waited that was taken since this was last asked.
    pub(super) fn take_longest(&mut self) -> Option<Duration> {
        self.waits.longest.take()
    }

    pub(super) fn check(&self, table: &Table) -> Result<(), String> {
        self.dirty.check(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::filled;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_change_is_as_old_as_its_first_and_told_once() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let (mut table, ids) = filled(2);
        let (a, b) = (ids[0], ids[1]);
        let mut unsent = Unsent::new();
        unsent.push(&mut table, a, now);
        unsent.push(&mut table, b, now + second);
        unsent.push(&mut table, a, now + second);
        assert_eq!((unsent.len(), unsent.oldest(now + 2 * second)), (2, Some(2 * second)));
        assert_eq!(unsent.pop(&mut table, now + 2 * second), Some(a));
        assert_eq!(unsent.oldest(now + 2 * second), Some(second), "the other one");
        assert_eq!(unsent.take_longest(), Some(2 * second));
        assert_eq!(unsent.pop(&mut table, now + 2 * second), Some(b));
        assert!(unsent.is_empty() && unsent.oldest(now).is_none());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_is_given_up_waits_no_more() {
        let now = Instant::now();
        let (mut table, ids) = filled(1);
        let a = ids[0];
        let mut unsent = Unsent::new();
        unsent.push(&mut table, a, now);
        unsent.refuse(7, 1, Refusal::Ended);
        assert_eq!(unsent.len(), 2);
        assert_eq!(unsent.give_up(&mut table), [a]);
        assert!(unsent.is_empty() && unsent.oldest(now).is_none() && !unsent.holds(&table, a));
        assert_eq!(unsent.check(&table), Ok(()));
    }
}
