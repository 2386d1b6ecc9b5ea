//! What systemd is told: that the daemon runs, that it reads its configuration again, and that its loop turns.
//!
//! Called by the daemon. Started by hand there is nobody to tell, and every call does nothing.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The daemon serves.
pub(super) fn ready() {
    let _ = sd_notify::notify(false, &[NotifyState::Ready]);
}

/// A reload begins now, sd_notify(3); [`ready`] ends it.
pub(super) fn reloading() {
    let time = NotifyState::monotonic_usec_now().ok();
    let states: Vec<NotifyState<'_>> = std::iter::once(NotifyState::Reloading).chain(time).collect();
    let _ = sd_notify::notify(false, &states);
}

/// The unit's `WatchdogSec=`: a daemon that says nothing for so long is killed and started again.
pub(super) struct Watchdog {
    /// Between two signs of life; `None`: nobody watches.
    period: Option<Duration>,
    due: Instant,
}

impl Watchdog {
    /// As the environment has it, sd_watchdog_enabled(3).
    pub(super) fn from_environment(now: Instant) -> Watchdog {
        let mut limit = 0;
        let watched = sd_notify::watchdog_enabled(false, &mut limit);
        // Half of it, as the manual page advises.
        Watchdog { period: watched.then(|| Duration::from_micros(limit) / 2), due: now }
    }

    /// When the next sign of life is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.period.map(|_| self.due)
    }

    /// Called once a turn: the loop is alive.
    pub(super) fn turned(&mut self, now: Instant) {
        let Some(period) = self.period.filter(|_| now >= self.due) else { return };
        let _ = sd_notify::notify(false, &[NotifyState::Watchdog]);
        self.due = now + period;
    }
}
