//! Descriptors registered with the runtime. The one file with `unsafe`: tokio wants a promise that the type
//! system cannot give, that a file descriptor stays open and the same while it is watched.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use crate::io::addresses::News;
use crate::kernel::socket::EventSocket;

/// Types that own their descriptor from open to drop and never replace it.
trait KeepsDescriptor: AsRawFd {}
impl KeepsDescriptor for EventSocket {}
impl KeepsDescriptor for News {}
impl KeepsDescriptor for Timer {}

/// timerfd_create(2), on the clock of [`std::time::Instant`].
pub(crate) struct Timer(TimerFd);

impl Timer {
    /// Readable once, so far ahead; whatever was set before is not.
    pub(crate) fn set(&self, ahead: Duration) -> io::Result<()> {
        // Nothing would switch it off.
        let ahead = TimeSpec::from(ahead.max(Duration::from_nanos(1)));
        Ok(self.0.set(Expiration::OneShot(ahead), TimerSetTimeFlags::empty())?)
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn watch<T: KeepsDescriptor>(watched: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `KeepsDescriptor` is private and implemented only for types whose sole descriptor lives in one
    // field (a `TimerFd`, a private `netlink_sys::Socket`) that is set once, at open: what is watched is only
    // borrowed again, never taken apart.
    unsafe { AsyncFd::register(watched) }.map_err(io::Error::from)
}

/// Watch the event socket.
pub(crate) fn watch_events(socket: EventSocket) -> io::Result<AsyncFd<EventSocket>> {
    watch(socket)
}

/// Watch the word of addresses and links.
pub(crate) fn watch_news(news: News) -> io::Result<AsyncFd<News>> {
    watch(news)
}

/// A timer that is not set.
pub(crate) fn watch_timer() -> io::Result<AsyncFd<Timer>> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    watch(Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))
}
