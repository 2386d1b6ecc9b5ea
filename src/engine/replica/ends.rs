//! Which connections have ended lately: an owner that is offered one of them knows better than who offers it
//! (N2).
//!
//! Who was late, or came back, may still hold what has ended meanwhile and offer it to the next owner.
//! Remembered are the ends that this node has told as an owner, and those that it was told, until every
//! living follower is known to have them. Owned by the replica; `outgoing` and `incoming` say what happens.
//! No table, no clock.

use std::collections::{HashSet, VecDeque};

/// Ends that are remembered; past it the oldest is forgotten, and who offers it is believed.
const REMEMBERED: usize = 65_536;

/// An end in a stream.
#[derive(Clone, Copy, Debug)]
struct End {
    /// The number of the datagram that told it; 0: of a stream before this one.
    sequence: u64,
    key: u64,
    birth: u16,
}

/// Ends, in their order.
#[derive(Debug, Default)]
pub(super) struct Ends {
    ends: VecDeque<End>,
    /// The number with which this stream begins, as far as it is known.
    begins: Option<u64>,
    /// What they are found by, made when somebody offers something.
    index: Option<HashSet<(u64, u16)>>,
}

impl Ends {
    /// A connection has ended, by the datagram of this number.
    pub(super) fn push(&mut self, sequence: u64, key: u64, birth: u16) {
        if self.ends.len() >= REMEMBERED {
            self.pop();
        }
        self.ends.push_back(End { sequence, key, birth });
        if let Some(index) = &mut self.index {
            index.insert((key, birth));
        }
    }

    fn pop(&mut self) {
        if let (Some(end), Some(index)) = (self.ends.pop_front(), &mut self.index) {
            index.remove(&(end.key, end.birth));
        }
    }

    /// Whether this connection is known to have ended.
    pub(super) fn has(&mut self, key: u64, birth: u16) -> bool {
        let ends = &self.ends;
        let index = || ends.iter().map(|end| (end.key, end.birth)).collect();
        !ends.is_empty() && self.index.get_or_insert_with(index).contains(&(key, birth))
    }

    /// Another stream counts from now on. What is remembered of those before it stays, until all are in step.
    pub(super) fn change_stream(&mut self) {
        self.begins = None;
        for end in &mut self.ends {
            end.sequence = 0;
        }
    }

    /// The stream begins with this number, if it was not taken up before.
    pub(super) fn take_up(&mut self, next: u64) {
        self.begins.get_or_insert(next);
    }

    /// Every living node has applied what came before this number, and owes nothing.
    pub(super) fn forget_before(&mut self, sequence: u64) {
        if self.begins.is_none_or(|first| sequence <= first) {
            return;
        }
        while self.ends.front().is_some_and(|end| end.sequence < sequence) {
            self.pop();
        }
        if self.ends.is_empty() {
            self.index = None;
        }
    }

    /// Keys are hashed by something else from now on.
    pub(super) fn forget(&mut self) {
        *self = Ends::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_until_all_have_it() {
        let mut ends = Ends::default();
        ends.take_up(1);
        assert!(!ends.has(1, 7));
        ends.push(5, 1, 7);
        ends.push(6, 2, 8);
        assert!(ends.has(1, 7) && ends.has(2, 8) && !ends.has(1, 8), "just this connection");
        ends.push(7, 3, 9);
        assert!(ends.has(3, 9));
        ends.forget_before(6);
        assert!(!ends.has(1, 7) && ends.has(2, 8));
        ends.change_stream();
        ends.forget_before(9);
        ends.take_up(1);
        ends.push(2, 4, 4);
        ends.forget_before(1);
        assert!(ends.has(2, 8) && ends.has(4, 4), "nobody is known to have got anywhere");
        ends.forget_before(2);
        assert!(!ends.has(2, 8) && !ends.has(3, 9) && ends.has(4, 4), "all followers are in this stream");
        ends.forget();
        assert!(!ends.has(4, 4));
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let mut ends = Ends::default();
        for key in 0..=REMEMBERED as u64 {
            ends.push(key, key, 1);
        }
        assert_eq!(ends.ends.len(), REMEMBERED);
        assert!(!ends.has(0, 1) && ends.has(1, 1));
    }
}
