//! The stream's two ends: the owner's ring of sent datagrams, the backup's order.
//!
//! Called by the replica. Holds bytes only; what they mean is `wire`'s affair, what to do about a gap the
//! replica's.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Instant;

/// Datagrams that wait here for an earlier one. When full the gap is left to the owner's ring.
const REORDER: usize = 1024;
/// Accounted on top of a datagram's bytes.
const DATAGRAM_OVERHEAD: usize = 64;

/// The owner's end: numbers datagrams and keeps those that somebody may still miss, the same bytes, for
/// nacks.
pub struct Sender {
    last: u64,
    /// Datagrams and when they were sent.
    ring: VecDeque<(Instant, Vec<u8>)>,
    ring_bytes: usize,
    limit: usize,
}

impl Sender {
    /// `limit`: bytes kept for resending (`sync-queue-size`).
    pub fn new(limit: usize) -> Sender {
        Sender { last: 0, ring: VecDeque::new(), ring_bytes: 0, limit }
    }

    /// The last number used, 0 for none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The number for the next datagram.
    pub fn next(&self) -> u64 {
        self.last + 1
    }

    /// The oldest number that can be sent again.
    pub fn oldest(&self) -> u64 {
        self.last + 1 - self.ring.len() as u64
    }

    /// Keep the datagram with number [`Sender::next`].
    pub fn push(&mut self, datagram: Vec<u8>, now: Instant) {
        self.last += 1;
        self.ring_bytes += datagram.len() + DATAGRAM_OVERHEAD;
        self.ring.push_back((now, datagram));
        while self.ring_bytes > self.limit && self.drop_oldest() {}
    }

    /// Nobody will ask for what came before this number.
    pub fn forget_before(&mut self, sequence: u64) {
        while self.oldest() < sequence && self.drop_oldest() {}
    }

    /// Whether there was one.
    fn drop_oldest(&mut self) -> bool {
        let dropped = self.ring.pop_front();
        self.ring_bytes -= dropped.as_ref().map_or(0, |(_, datagram)| datagram.len() + DATAGRAM_OVERHEAD);
        dropped.is_some()
    }

    /// The bytes sent under a number, while the ring holds them.
    pub fn get(&self, sequence: u64) -> Option<&[u8]> {
        let at = sequence.checked_sub(self.oldest())?;
        self.ring.get(usize::try_from(at).ok()?).map(|(_, datagram)| datagram.as_slice())
    }

    /// When a number was sent; for one that the ring has dropped, when its oldest was: later than the truth.
    pub fn sent_at(&self, sequence: u64) -> Option<Instant> {
        let at = sequence.saturating_sub(self.oldest());
        self.ring.get(usize::try_from(at).ok()?).map(|(at, _)| *at)
    }
}

/// What the receiver makes of a datagram's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The expected one: apply it.
    Next,
    /// Ahead of a gap: kept if there was room.
    Ahead,
    /// Seen before.
    Old,
    /// No stream is followed yet.
    Unknown,
}

/// The backup's end: what comes next, and what came too early.
pub struct Receiver<Kept> {
    expect: Option<u64>,
    early: BTreeMap<u64, Kept>,
    highest: u64,
}

impl<Kept> Default for Receiver<Kept> {
    fn default() -> Receiver<Kept> {
        Receiver { expect: None, early: BTreeMap::new(), highest: 0 }
    }
}

impl<Kept> Receiver<Kept> {
    /// Follow no stream.
    pub fn reset(&mut self) {
        *self = Receiver::default();
    }

    /// Take the stream up at a number.
    pub fn expect(&mut self, sequence: u64) {
        self.expect = Some(sequence);
        self.early = self.early.split_off(&sequence);
        self.highest = self.highest.max(sequence.saturating_sub(1));
    }

    /// The number that comes next.
    pub fn expected(&self) -> Option<u64> {
        self.expect
    }

    /// Where a datagram belongs; of one that came early this is kept.
    pub fn place(&mut self, sequence: u64, kept: impl FnOnce() -> Kept) -> Place {
        let Some(expect) = self.expect else { return Place::Unknown };
        self.highest = self.highest.max(sequence);
        match sequence.cmp(&expect) {
            std::cmp::Ordering::Less => Place::Old,
            std::cmp::Ordering::Equal => Place::Next,
            std::cmp::Ordering::Greater => {
                if self.early.len() < REORDER {
                    self.early.entry(sequence).or_insert_with(kept);
                }
                Place::Ahead
            }
        }
    }

    /// The expected datagram was applied.
    pub fn advance(&mut self) {
        if let Some(expect) = &mut self.expect {
            *expect += 1;
        }
    }

    /// The expected datagram, if it came early and waits here.
    pub fn take_waiting(&mut self) -> Option<Kept> {
        self.early.remove(&self.expect?)
    }

    /// The owner says that it has sent up to this number. What pretends to be far beyond it is nobody's: it
    /// would be a gap for ever.
    pub fn heard_of(&mut self, sequence: u64) {
        self.early.split_off(&sequence.saturating_add(REORDER as u64));
        self.highest = self.early.keys().next_back().copied().unwrap_or(0).max(sequence);
    }

    /// Datagrams known to have been sent and not applied yet.
    pub fn behind(&self) -> u64 {
        self.expect.map_or(0, |expect| (self.highest + 1).saturating_sub(expect))
    }

    /// The holes at `from` and behind it: numbers that were sent, as far as is known, and are not here.
    pub fn holes(&self, from: u64) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let mut next = self.expect.map(|expect| expect.max(from));
        let ahead = self.early.range(next.unwrap_or(0)..).map(|(number, _)| *number);
        let stops = ahead.chain(self.expect.map(|_| self.highest + 1));
        stops.filter_map(move |stop| {
            let begin = next?;
            next = Some(stop + 1);
            (begin < stop).then(|| begin..=stop - 1)
        })
    }

    /// Whether anything is missing.
    pub fn has_gap(&self) -> bool {
        self.holes(0).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn the_ring_gives_the_same_bytes_until_it_is_full() {
        let now = Instant::now();
        let mut sender = Sender::new(3 * (4 + DATAGRAM_OVERHEAD));
        for number in 1..=5u8 {
            assert_eq!(sender.next(), u64::from(number));
            sender.push(vec![number; 4], now);
        }
        assert_eq!((sender.oldest(), sender.last()), (3, 5));
        assert_eq!(sender.get(2), None);
        assert_eq!(sender.get(3), Some(&[3u8; 4][..]));
        assert_eq!(sender.get(5), Some(&[5u8; 4][..]));
        assert_eq!(sender.get(6), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_all_have_makes_room() {
        let now = Instant::now();
        let mut sender = Sender::new(3 * (4 + DATAGRAM_OVERHEAD));
        for number in 1..=3u8 {
            sender.push(vec![number; 4], now);
        }
        sender.forget_before(3);
        assert_eq!((sender.oldest(), sender.last()), (3, 3));
        assert_eq!((sender.get(2), sender.get(3)), (None, Some(&[3u8; 4][..])));
        sender.push(vec![4; 4], now);
        sender.push(vec![5; 4], now);
        assert_eq!(sender.oldest(), 3, "room for three");
        // Who claims to have what was never sent.
        sender.forget_before(u64::MAX);
        assert_eq!((sender.oldest(), sender.last(), sender.next()), (6, 5, 6));
    }

    #[test]
    fn order_is_restored() {
        let mut receiver = Receiver::default();
        assert_eq!(receiver.place(4, || "4"), Place::Unknown);
        receiver.expect(4);
        assert_eq!(receiver.place(3, || "3"), Place::Old);
        assert_eq!(receiver.place(6, || "6"), Place::Ahead);
        let holes = |receiver: &Receiver<_>, from| receiver.holes(from).collect::<Vec<_>>();
        assert_eq!(holes(&receiver, 0), [4..=5]);
        assert_eq!(receiver.place(4, || "4"), Place::Next);
        receiver.advance();
        assert_eq!(receiver.take_waiting(), None);
        assert_eq!(holes(&receiver, 0), [5..=5]);
        assert_eq!(receiver.place(5, || "5"), Place::Next);
        receiver.advance();
        assert_eq!(receiver.take_waiting(), Some("6"));
        receiver.advance();
        assert!(!receiver.has_gap());
        receiver.heard_of(9);
        assert_eq!(holes(&receiver, 0), [7..=9]);
        assert_eq!(receiver.place(8, || "8"), Place::Ahead);
        assert_eq!(holes(&receiver, 0), [7..=7, 9..=9]);
        assert_eq!(holes(&receiver, 8), [9..=9]);
        assert_eq!(holes(&receiver, 10), []);
    }

    #[test]
    fn a_number_far_ahead_is_no_gap_for_ever() {
        let mut receiver = Receiver::default();
        receiver.expect(1);
        for number in [3, 1_000_000, 1 << 60] {
            assert_eq!(receiver.place(number, || "x"), Place::Ahead);
        }
        receiver.heard_of(2);
        assert_eq!(receiver.holes(0).collect::<Vec<_>>(), [1..=2]);
        assert_eq!(receiver.behind(), 3);
    }

    #[test]
    fn what_waits_is_not_forgotten_when_the_stream_is_taken_up_later() {
        let mut receiver = Receiver::default();
        receiver.expect(1);
        assert_eq!(receiver.place(5, || "5"), Place::Ahead);
        receiver.expect(5);
        assert_eq!(receiver.take_waiting(), Some("5"));
    }
}
