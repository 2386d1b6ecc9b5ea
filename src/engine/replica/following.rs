//! How a backup stands in its owner's stream: what comes next, what was asked for again, and whether its
//! digest equals the owner's there.
//!
//! Owned by the replica; `incoming` feeds it, `gate` and `view` read it. An owner follows nobody: it is at
//! rest then. No table, no clock.

use std::time::{Duration, Instant};

use super::repair::Repair;
use crate::stream::{Place, Receiver};
use crate::wire::StreamHead;

/// A gap is nacked again after this long.
const NACK_AGAIN: Duration = Duration::from_millis(20);
/// After so many times in vain it is nacked more and more rarely, up to this.
const PATIENT_NACKS: u32 = 3;
const NACK_RARELY: Duration = Duration::from_secs(1);
/// Holes in one nack: fits the smallest datagram.
const HOLES: usize = 24;
/// Nacks at once; more holes are for the next time.
const NACKS: usize = 8;
/// After so many datagrams a backup says how far it is: twice within the least window of who sends them.
const ACKNOWLEDGED: u32 = 64;

/// A datagram that came early: its head and its messages.
type Early = (StreamHead, Vec<u8>);

/// First and last number of what is missing.
pub(super) type Hole = (u64, u64);

/// What has been nacked.
#[derive(Debug, Default)]
struct Nacked {
    /// Up to this number, since everything was last asked for.
    until: u64,
    /// Up to this number, ever: what is missing there has been counted.
    known: u64,
    /// When everything is asked for again.
    again: Option<Instant>,
    /// How often that was asked for in a row without anything coming.
    vain: u32,
    /// Something of the stream has come since it was last asked for.
    heard: bool,
    /// Since when the owner has been saying that it has not sent yet what has been applied here.
    beyond: Option<Instant>,
}

impl Nacked {
    /// Everything that is missing is asked for again now: how much of it. Who gets nothing asks for less, and
    /// later.
    fn begin_again(&mut self, now: Instant) {
        self.vain = if std::mem::take(&mut self.heard) { 0 } else { self.vain.saturating_add(1) };
        self.until = 0;
        let pause = NACK_AGAIN.saturating_mul(1 << self.vain.saturating_sub(PATIENT_NACKS).min(6));
        self.again = Some(now + pause.min(NACK_RARELY));
    }

    /// Nothing has come for some time: one missing datagram at a time is asked for, to see whether anything
    /// gets through.
    fn in_vain(&self) -> bool {
        self.vain > PATIENT_NACKS
    }
}

/// A place in the owner's stream.
#[derive(Default)]
pub(super) struct Following {
    receiver: Receiver<Early>,
    nacked: Nacked,
    /// The digest equals the owner's at this place (3).
    equal: bool,
    /// Since when, seen between inputs: what differs within one was on its way.
    equal_since: Option<Instant>,
    /// Datagrams applied since this node last said how far it is.
    unacknowledged: u32,
    /// What is asked for because the digest differs.
    pub(super) repair: Repair,
}

impl Following {
    /// The number that comes next, once the stream has been taken up.
    pub(super) fn expected(&self) -> Option<u64> {
        self.receiver.expected()
    }

    pub(super) fn has_gap(&self) -> bool {
        self.receiver.has_gap()
    }

    /// Datagrams that the owner has sent and that are not applied.
    pub(super) fn behind(&self) -> u64 {
        self.receiver.behind()
    }

    /// The digest equals the owner's.
    pub(super) fn is_equal(&self) -> bool {
        self.equal
    }

    pub(super) fn equal_since(&self) -> Option<Instant> {
        self.equal_since
    }

    /// The digests have been compared at this place of the stream.
    pub(super) fn compare(&mut self, equal: bool) {
        self.equal = equal;
    }

    /// What is here is not known to be what the owner has any more.
    pub(super) fn differ(&mut self) {
        self.equal = false;
    }

    /// An input has been dealt with: remember since when the digests have been equal.
    pub(super) fn settle(&mut self, now: Instant) {
        self.equal_since = if self.equal { self.equal_since.or(Some(now)) } else { None };
    }

    /// Another stream, to be taken up where its owner says.
    pub(super) fn reset(&mut self) {
        self.receiver.reset();
        self.equal = false;
    }

    /// Nobody's any more: this node owns the group.
    pub(super) fn stop(&mut self) {
        self.reset();
        self.nacked = Nacked::default();
    }

    /// Go on behind this number; the digest tells what is missing.
    pub(super) fn take_up(&mut self, last: u64) {
        self.receiver.expect(last + 1);
        self.equal = false;
    }

    /// The owner says that it has sent up to this number.
    pub(super) fn heard_of(&mut self, last: u64) {
        self.receiver.heard_of(last);
    }

    /// Whether the owner has been saying for so long that it has not sent yet what has been applied here. One
    /// alive that is late says so; one after another does not: a number was forged.
    pub(super) fn is_beyond(&mut self, beyond: bool, now: Instant, limit: Duration) -> bool {
        let since = if beyond { Some(*self.nacked.beyond.get_or_insert(now)) } else { None };
        self.nacked.beyond = since;
        since.is_some_and(|since| now >= since + limit)
    }

    /// Where a datagram of this number belongs; it is kept if it came early.
    pub(super) fn place(&mut self, head: &StreamHead, messages: &[u8]) -> Place {
        let place = self.receiver.place(head.sequence, || (*head, messages.to_vec()));
        self.nacked.heard |= matches!(place, Place::Next | Place::Ahead);
        place
    }

    /// The datagram that came early and whose turn has come.
    pub(super) fn take_waiting(&mut self) -> Option<Early> {
        self.receiver.take_waiting()
    }

    /// The next datagram is applied. Whether the owner should hear how far this node is.
    pub(super) fn advance(&mut self) -> bool {
        self.receiver.advance();
        self.unacknowledged += 1;
        self.unacknowledged >= ACKNOWLEDGED
    }

    /// This node says how far it is.
    pub(super) fn acknowledged(&mut self) {
        self.unacknowledged = 0;
    }

    /// When what is missing is asked for again.
    pub(super) fn next_nack(&self, now: Instant) -> Option<Instant> {
        self.has_gap().then(|| self.nacked.again.unwrap_or(now))
    }

    /// What is to be asked for now, a list for each nack, and how many datagrams are missed for the first
    /// time. Each is asked for once, and all of them again while they stay missing.
    pub(super) fn nacks(&mut self, now: Instant) -> (Vec<Vec<Hole>>, u64) {
        if !self.has_gap() {
            self.nacked =
                Nacked { beyond: self.nacked.beyond, heard: self.nacked.heard, ..Nacked::default() };
            return (Vec::new(), 0);
        }
        if self.nacked.again.is_none_or(|at| now >= at) {
            self.nacked.begin_again(now);
        }
        let (mut all, mut lost) = (Vec::new(), 0);
        if self.nacked.in_vain() {
            if let Some(next) = self.receiver.expected().filter(|next| self.nacked.until < *next) {
                self.nacked.until = u64::MAX;
                all.push(vec![(next, next)]);
            }
            return (all, lost);
        }
        while all.len() < NACKS {
            let unasked = self.receiver.holes(self.nacked.until + 1).take(HOLES);
            let holes: Vec<Hole> = unasked.map(|hole| (*hole.start(), *hole.end())).collect();
            let Some((_, last)) = holes.last() else { break };
            self.nacked.until = *last;
            for (from, until) in &holes {
                lost += (until + 1).saturating_sub((*from).max(self.nacked.known + 1));
            }
            self.nacked.known = self.nacked.known.max(*last);
            all.push(holes);
        }
        (all, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::GroupId;

    fn head(sequence: u64) -> StreamHead {
        StreamHead { group: GroupId::default(), sequence, root: 0 }
    }

    fn following(missing: std::ops::RangeInclusive<u64>) -> Following {
        let mut following = Following::default();
        following.take_up(missing.start() - 1);
        assert_eq!(following.place(&head(missing.end() + 1), &[0]), Place::Ahead);
        following
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_is_missing_is_asked_for_once_and_again_after_a_while() {
        let now = Instant::now();
        let mut following = following(5..=7);
        assert_eq!(following.nacks(now), (vec![vec![(5, 7)]], 3));
        assert_eq!(following.nacks(now), (vec![], 0), "a moment ago");
        assert_eq!(following.next_nack(now), Some(now + NACK_AGAIN));
        assert_eq!(following.nacks(now + NACK_AGAIN), (vec![vec![(5, 7)]], 0), "counted once");
        assert_eq!(following.place(&head(5), &[0]), Place::Next);
        following.advance();
        assert_eq!(following.nacks(now + 2 * NACK_AGAIN), (vec![vec![(6, 7)]], 0));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn who_gets_nothing_asks_for_one_at_a_time_and_ever_more_rarely() {
        let mut now = Instant::now();
        let mut following = following(5..=7);
        let mut asked = Vec::new();
        for _ in 0..12 {
            let (nacks, _) = following.nacks(now);
            asked.push(nacks.into_iter().next().unwrap());
            let next = following.next_nack(now).unwrap();
            assert!(next > now && next <= now + NACK_RARELY);
            now = next;
        }
        assert_eq!(asked[0], [(5, 7)]);
        assert_eq!(asked[11], [(5, 5)]);
        assert_eq!(following.next_nack(now + NACK_RARELY), Some(now), "after a second at most");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn equal_since_is_told_between_inputs() {
        let now = Instant::now();
        let later = now + NACK_RARELY;
        let mut following = Following::default();
        following.compare(true);
        following.settle(now);
        following.differ();
        following.compare(true);
        following.settle(later);
        assert_eq!(following.equal_since(), Some(now), "within one input it was on its way");
        following.differ();
        following.settle(later);
        assert!(!following.is_equal() && following.equal_since().is_none());
    }

    #[test]
    fn it_is_acknowledged_after_so_many() {
        let mut following = Following::default();
        following.take_up(0);
        let due = (0..ACKNOWLEDGED).filter(|_| following.advance()).count();
        assert_eq!((due, following.expected()), (1, Some(u64::from(ACKNOWLEDGED) + 1)));
        following.acknowledged();
        assert!(!following.advance());
    }
}
