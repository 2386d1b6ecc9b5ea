//! The replica's time: what the caller said it is.

use std::time::Instant;

/// When the replica began, and when the input under way came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    began: Instant,
    now: Instant,
}

impl Life {
    pub(super) fn new(now: Instant) -> Life {
        Life { began: now, now }
    }

    /// An input comes.
    pub(super) fn at(&mut self, now: Instant) {
        self.now = now;
    }

    /// When the input under way came.
    pub(super) fn now(self) -> Instant {
        self.now
    }

    /// Whole seconds since it began.
    pub(super) fn seconds(self) -> u32 {
        u32::try_from(self.now.saturating_duration_since(self.began).as_secs()).unwrap_or(u32::MAX)
    }
}
