//! Signs of life: when the next one is due, its number, and the flush that it answers.
//!
//! Owned by the replica; `outgoing` makes the datagram. No clock.

use std::time::{Duration, Instant};

/// When this node speaks next.
#[derive(Debug)]
pub(super) struct Alives {
    due: Instant,
    /// The number of the last one.
    turn: u32,
    /// A peer that takes over waits for all that is left: what the next alive answers; 0 for nobody.
    flush: u32,
}

impl Alives {
    pub(super) fn new(now: Instant) -> Alives {
        Alives { due: now, turn: 0, flush: 0 }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Something changed that the peer should know.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = now;
    }

    /// Not later than then.
    pub(super) fn by(&mut self, at: Instant) {
        self.due = self.due.min(at);
    }

    /// A peer asks for what is left, with this number.
    pub(super) fn flush(&mut self, token: u32) {
        self.flush = token;
    }

    /// Somebody waits for what is left.
    pub(super) fn flushing(&self) -> bool {
        self.flush != 0
    }

    /// Its time has come: the next one after this is due in so long.
    pub(super) fn take_turn(&mut self, now: Instant, pause: Duration) -> bool {
        let due = now >= self.due;
        if due {
            self.due = now + pause;
        }
        due
    }

    /// The number of the one that is made now, and the flush that it answers: only an owner can.
    pub(super) fn next(&mut self, owner: bool) -> (u32, u32) {
        self.turn += 1;
        (self.turn, if owner { std::mem::take(&mut self.flush) } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn each_has_its_turn_and_a_flush_is_answered_once_by_an_owner() {
        let now = Instant::now();
        let pause = Duration::from_millis(250);
        let mut alives = Alives::new(now);
        assert!(alives.take_turn(now, pause) && !alives.take_turn(now, pause));
        alives.by(now + 2 * pause);
        assert_eq!(alives.due(), now + pause);
        alives.flush(9);
        assert_eq!(alives.next(false), (1, 0));
        assert!(alives.flushing());
        assert_eq!(alives.next(true), (2, 9));
        assert_eq!((alives.next(true), alives.flushing()), ((3, 0), false));
        alives.hurry(now);
        assert!(alives.take_turn(now, pause));
    }
}
