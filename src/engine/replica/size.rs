//! How long a datagram may be: as long as the interface carries, once a peer has said that such a one
//! arrived; until then, and when none arrives any more, as long as every path carries.
//!
//! A switch or a tunnel may drop what its own MTU does not take and tell nobody: each datagram of a full
//! stream would be lost, sent again and lost again. So some alives are filled up to the full length, and
//! every alive says how long a datagram its sender has heard lately. Called by `outgoing` and `incoming`. No
//! clock.

use std::time::{Duration, Instant};

use crate::table::Slot;
use crate::wire::{HEADER, STREAM_HEAD, packed};

/// Room that a put of an entry needs at most, or a destroy.
pub(super) fn put_room(slot: Option<&Slot>) -> usize {
    let rare = slot.is_some_and(|slot| slot.rare().is_some());
    1 + packed::COMMON_ROOM + if rare { packed::RARE_ROOM } else { 0 }
}
/// The largest put fits the smallest datagram: 576 bytes less IPv6 and UDP headers and the seal.
const _: () = assert!(
    1 + packed::COMMON_ROOM + packed::RARE_ROOM <= 576 - 48 - crate::seal::OVERHEAD - HEADER - STREAM_HEAD
);
/// What the least link of IPv6 carries (RFC 8200, 5), less IPv6 and UDP headers: every path carries as much.
const SAFE: usize = 1280 - 48;
/// So many full-length alives in a row before the path counts as narrow.
const PROBES: u32 = 8;
/// Between two full-length alives when nothing hangs on them.
const RARELY: Duration = Duration::from_secs(10);
/// A datagram was heard lately if it came within one or two of these.
const LATELY: Duration = Duration::from_secs(1);
/// Asked for so often in a row, a datagram of full length does not get through.
const DOUBT: u32 = 6;

/// What is known of the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Path {
    /// So many full-length alives have been sent since it was last known.
    Probed(u32),
    /// One has arrived; since then another one may be under way, sent at that time.
    Whole(Option<Instant>),
    /// None has.
    Narrow,
}

/// The length of datagrams.
pub(super) struct Size {
    /// What the interface carries.
    most: usize,
    path: Path,
    /// When the next full-length alive is due.
    probe: Option<Instant>,
    /// What was heard before it was doubted says nothing.
    believes: Option<Instant>,
    /// The number that is asked for again and again, and how often.
    asked: (u64, u32),
}

impl Size {
    pub(super) fn new(most: usize) -> Size {
        Size { most, path: Path::Probed(0), probe: None, believes: None, asked: (0, 0) }
    }

    /// Bytes of the longest datagram that is sent.
    pub(super) fn now(&self) -> usize {
        if matches!(self.path, Path::Whole(_)) { self.most } else { self.most.min(SAFE) }
    }

    /// What the interface carries and the path does not, if so.
    pub(super) fn narrow(&self) -> Option<usize> {
        (self.path == Path::Narrow && self.most > SAFE).then_some(self.most)
    }

    /// The interface carries so much from now on.
    pub(super) fn set_most(&mut self, most: usize) {
        if self.most != most {
            *self = Size::new(most);
        }
    }

    /// Whether the next alive is to be filled up: to so many bytes. `heard`: somebody lives who could say
    /// that it came.
    pub(super) fn probe(&mut self, heard: bool, now: Instant) -> Option<usize> {
        if !heard || self.most <= SAFE {
            return None;
        }
        if let Path::Whole(Some(sent)) = self.path
            && now >= sent + LATELY
        {
            // The last one did not arrive, or nobody says so.
            self.path = Path::Probed(0);
            self.probe = None;
        }
        if self.probe.is_some_and(|at| now < at) {
            return None;
        }
        match &mut self.path {
            Path::Probed(sent) if *sent < PROBES => *sent += 1,
            path => {
                *path = if matches!(path, Path::Whole(_)) { Path::Whole(Some(now)) } else { Path::Narrow };
                self.probe = Some(now + RARELY);
            }
        }
        Some(self.most)
    }

    /// All living peers have heard datagrams of this length lately.
    pub(super) fn note_heard(&mut self, longest: usize, now: Instant) {
        if longest < self.most || self.believes.is_some_and(|at| now < at) {
            return;
        }
        if !matches!(self.path, Path::Whole(_)) {
            self.probe = Some(now + RARELY);
        }
        self.path = Path::Whole(None);
    }

    /// Who asks for some has heard a long one that was sent after them.
    pub(super) fn trust(&mut self) {
        self.asked = (0, 0);
    }

    /// Whether a datagram is longer than every path carries.
    pub(super) fn is_long(length: usize) -> bool {
        length > SAFE
    }

    /// A datagram of this length is asked for again. True: such a one does not get through any more, and what
    /// was sent in that length is not worth sending again.
    pub(super) fn doubts(&mut self, sequence: u64, length: usize, now: Instant) -> bool {
        self.asked = if self.asked.0 == sequence { (sequence, self.asked.1 + 1) } else { (sequence, 1) };
        let doubted = self.asked.1 >= DOUBT && Size::is_long(length);
        if doubted {
            *self = Size { believes: Some(now + 2 * LATELY), ..Size::new(self.most) };
        }
        doubted
    }
}

/// The longest datagram that has been heard of a peer lately.
#[derive(Clone, Copy, Debug)]
pub(super) struct Longest {
    now: u16,
    before: u16,
    turned: Instant,
}

impl Longest {
    pub(super) fn new(now: Instant) -> Longest {
        Longest { now: 0, before: 0, turned: now }
    }

    pub(super) fn note(&mut self, length: usize, now: Instant) {
        if now >= self.turned + LATELY {
            (self.before, self.now, self.turned) = (self.now, 0, now);
        }
        self.now = self.now.max(u16::try_from(length).unwrap_or(u16::MAX));
    }

    pub(super) fn bytes(&self) -> u16 {
        self.now.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_path_is_whole_when_somebody_says_so_and_narrow_when_nobody_does() {
        let now = Instant::now();
        let mut size = Size::new(1452);
        assert_eq!((size.probe(false, now), size.now()), (None, SAFE), "nobody could answer");
        for _ in 0..PROBES {
            assert_eq!(size.probe(true, now), Some(1452));
            assert_eq!((size.now(), size.narrow()), (SAFE, None));
        }
        assert_eq!((size.probe(true, now), size.narrow()), (Some(1452), Some(1452)), "eight were lost");
        assert_eq!(size.probe(true, now), None, "rarely from now on");
        assert_eq!(size.probe(true, now + RARELY), Some(1452));
        size.note_heard(1452, now);
        assert_eq!((size.now(), size.narrow()), (1452, None), "it was widened");
        size.note_heard(300, now);
        assert_eq!((size.now(), size.probe(true, now)), (1452, None), "no long one was sent meanwhile");
        assert_eq!((size.probe(true, now + RARELY), size.now()), (Some(1452), 1452));
        assert_eq!(size.probe(true, now + RARELY + LATELY / 2), None);
        assert_eq!(
            (size.probe(true, now + RARELY + LATELY), size.now()),
            (Some(1452), SAFE),
            "it was narrowed"
        );
        size.note_heard(1452, now);
        for _ in 1..DOUBT {
            assert!(!size.doubts(7, 1452, now));
        }
        assert!(!size.doubts(8, 1452, now), "another one");
        for _ in 2..DOUBT {
            assert!(!size.doubts(8, 1452, now));
        }
        assert!(size.doubts(8, 1452, now) && size.now() == SAFE);
        size.note_heard(1452, now + LATELY);
        assert_eq!(size.now(), SAFE, "that was heard before");
        size.note_heard(1452, now + 2 * LATELY);
        assert_eq!(size.now(), 1452);
        // No path is known to carry less.
        let mut least = Size::new(528);
        assert_eq!((least.now(), least.probe(true, now)), (528, None));
        size.set_most(8952);
        assert_eq!((size.now(), size.probe(true, now)), (SAFE, Some(8952)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_was_heard_long_ago_is_forgotten() {
        let now = Instant::now();
        let mut longest = Longest::new(now);
        longest.note(1452, now);
        longest.note(200, now + LATELY);
        assert_eq!(longest.bytes(), 1452);
        longest.note(200, now + 2 * LATELY);
        assert_eq!(longest.bytes(), 200);
    }
}
