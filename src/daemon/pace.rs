//! How soon events are read: at once, or, when they come so fast that being woken for each would cost more than all the rest, a
//! moment's worth at a time.
//!
//! Called by the daemon's loop. Pure: `now` and counts go in.

use std::time::{Duration, Instant};

/// Events that come within this are read together, when there are many.
const NAP: Duration = Duration::from_millis(1);
/// More than so many within a [`NAP`] are many: the reader's wake-ups would be a good part of a processor. Below it every event is
/// read when it comes, and told the peer at once.
const MANY: usize = 32;

/// The rate of events, and what follows from it.
pub(super) struct Pace {
    /// Events since then.
    count: usize,
    since: Instant,
    busy: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { count: 0, since: now, busy: false }
    }

    /// So many events have been read in this turn.
    pub(super) fn note(&mut self, events: usize, now: Instant) {
        self.count += events;
        let passed = now.saturating_duration_since(self.since);
        if passed >= NAP {
            let naps = passed.as_secs_f64() / NAP.as_secs_f64();
            self.busy = self.count as f64 > MANY as f64 * naps;
            self.count = 0;
            self.since = now;
        }
    }

    /// How long events may wait for more; `None`: they are read when they come.
    pub(super) fn nap(&self) -> Option<Duration> {
        self.busy.then_some(NAP)
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
            pace.nap().is_some()
        };
        assert!(!after(1, 0));
        assert!(!after(20, 1), "20,000 a second are read as they come");
        assert!(after(100, 1), "100,000 a second are not");
        assert!(after(300, 2));
        assert!(!after(100, 50), "a burst that is over");
        assert!(!after(0, 1));
    }
}
