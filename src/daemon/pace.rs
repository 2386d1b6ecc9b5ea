//! How soon events are read: at once, or, when they come so fast that being woken for each would cost more
//! than all the rest, a moment's worth at a time.
//!
//! Called by the daemon's loop. Pure: `now` and counts go in.

use std::time::{Duration, Instant};

/// What the rate is measured over.
const SPAN: Duration = Duration::from_millis(1);
/// From so many events within a [`SPAN`] on, so long is waited for more. Being woken costs some microseconds,
/// whatever it is for, and a datagram costs the peer as much: a few events together halve that, and a quarter
/// of a millisecond is what a change may be late. Below the first line every event is read when it comes, and
/// told the peer at once.
const NAPS: [(f64, Duration); 2] = [(8.0, Duration::from_micros(250)), (32.0, Duration::from_millis(1))];

/// The rate of events, and what follows from it.
pub(super) struct Pace {
    /// Events since then.
    count: usize,
    since: Instant,
    nap: Option<Duration>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { count: 0, since: now, nap: None }
    }

    /// So many events have been read in this turn.
    pub(super) fn note(&mut self, events: usize, now: Instant) {
        self.count += events;
        let passed = now.saturating_duration_since(self.since);
        if passed >= SPAN {
            let rate = self.count as f64 / (passed.as_secs_f64() / SPAN.as_secs_f64());
            self.nap = NAPS.iter().rev().find(|(least, _)| rate > *least).map(|(_, nap)| *nap);
            self.count = 0;
            self.since = now;
        }
    }

    /// How long events may wait for more; `None`: they are read when they come.
    pub(super) fn nap(&self) -> Option<Duration> {
        self.nap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_burst_waits_and_only_while_it_lasts() {
        #[expect(clippy::disallowed_methods, reason = "the virtual clock has to begin somewhere")]
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut after = |count, milliseconds: u64| {
            now += Duration::from_millis(milliseconds);
            pace.note(count, now);
            pace.nap().map_or(0, |nap| nap.as_micros())
        };
        assert_eq!(after(1, 0), 0);
        assert_eq!(after(6, 1), 0, "6,000 a second are read as they come");
        assert_eq!(after(20, 1), 250, "20,000 a second are not");
        assert_eq!(after(100, 1), 1000);
        assert_eq!(after(300, 2), 1000);
        assert_eq!(after(100, 50), 0, "a burst that is over");
        assert_eq!(after(0, 1), 0);
    }
}
