//! The loop's one timer. The runtime's own would wake it twice for each deadline, by its wheel, and once more
//! to be told of it.
//!
//! Called by the daemon's loop.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

use crate::kernel::watched::{Timer, watch_timer};

/// Wakes once, at a deadline.
pub(super) struct Alarm {
    timer: AsyncFd<Timer>,
    set: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Alarm> {
        Ok(Alarm { timer: watch_timer()?, set: None })
    }

    /// Until a deadline that lies so far ahead, or earlier. May be dropped and asked again, with the same
    /// deadline or another one.
    pub(super) async fn at(&mut self, deadline: Instant, ahead: Duration) -> io::Result<()> {
        // One that has moved away is not set anew: under load it does so with each turn, and waking once too
        // early costs less.
        if self.set.is_none_or(|set| deadline < set) {
            self.timer.get_ref().set(ahead)?;
            self.set = Some(deadline);
        }
        self.timer.readable().await?.clear_ready();
        self.set = None;
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "this one is about the real clock")]
mod tests {
    use super::*;

    /// So long that a stall of the machine is not taken for it.
    const SOON: Duration = Duration::from_millis(300);
    const AT_ONCE: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_secs(60);

    /// How long it took to ring; `None`: given up before.
    async fn rings(alarm: &mut Alarm, ahead: Duration, patience: Duration) -> Option<Duration> {
        let began = Instant::now();
        let rung = tokio::time::timeout(patience, alarm.at(began + ahead, ahead)).await;
        rung.ok().map(|result| {
            assert!(result.is_ok());
            began.elapsed()
        })
    }

    #[tokio::test]
    async fn it_rings_when_it_is_time_and_once() -> io::Result<()> {
        let mut alarm = Alarm::new()?;
        for _ in 0..2 {
            assert!(rings(&mut alarm, SOON, LATE).await.is_some_and(|took| took >= SOON && took < LATE / 2));
        }
        Ok(())
    }

    #[tokio::test]
    async fn the_earlier_deadline_of_two_counts() -> io::Result<()> {
        let mut alarm = Alarm::new()?;
        assert_eq!(rings(&mut alarm, LATE, AT_ONCE).await, None, "it has been asked for, and dropped");
        assert!(rings(&mut alarm, SOON, LATE).await.is_some_and(|took| took >= SOON && took < LATE / 2));
        // One that has moved away rings too early, and after that when it is time.
        assert_eq!(rings(&mut alarm, SOON, AT_ONCE).await, None);
        assert!(rings(&mut alarm, LATE, LATE).await.is_some_and(|took| took < LATE / 2));
        assert_eq!(rings(&mut alarm, LATE, SOON).await, None);
        Ok(())
    }
}
