//! The loop's one timer. The runtime's own would wake it twice for each deadline, by its wheel, and once more to be told of it.
//!
//! Called by the daemon's loop.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

use crate::watched::{Timer, watch_timer};

/// Wakes once, at a deadline.
pub(super) struct Alarm {
    timer: AsyncFd<Timer>,
    set: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Alarm> {
        Ok(Alarm { timer: watch_timer()?, set: None })
    }

    /// Until a deadline that lies so far ahead, or earlier. May be dropped and asked again, with the same deadline or another one.
    pub(super) async fn at(&mut self, deadline: Instant, ahead: Duration) -> io::Result<()> {
        // One that has moved away is not set anew: under load it does so with each turn, and waking once too early costs less.
        if self.set.is_none_or(|set| deadline < set) {
            self.timer.get_ref().set(ahead)?;
            self.set = Some(deadline);
        }
        self.timer.readable().await?.clear_ready();
        self.set = None;
        Ok(())
    }
}
