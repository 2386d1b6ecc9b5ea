//! What is promised and the type system cannot check: the one file with `unsafe`.
//!
//! Descriptors registered with the runtime: tokio wants to be sure that they stay open and the same while they are watched. And
//! the allocator: large memory is to lie on large pages. Called by the daemon; the allocator by everything in `ctsync`.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use crate::ctnetlink::socket::EventSocket;

/// Types that own their descriptor from open to drop and never replace it.
trait KeepsDescriptor: AsRawFd {}
impl KeepsDescriptor for EventSocket {}
impl KeepsDescriptor for Timer {}

/// timerfd_create(2), on the clock of [`std::time::Instant`].
pub struct Timer(TimerFd);

impl Timer {
    /// Readable once, so far ahead; whatever was set before is not.
    pub fn set(&self, ahead: Duration) -> io::Result<()> {
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
    // SAFETY: `KeepsDescriptor` is private and implemented only for types whose sole descriptor lives in one field (a `TimerFd`, a
    // private `netlink_sys::Socket`) that is set once, at open: what is watched is only borrowed again, never taken apart.
    unsafe { AsyncFd::register(watched) }.map_err(io::Error::from)
}

/// Watch the event socket.
pub fn watch_events(socket: EventSocket) -> io::Result<AsyncFd<EventSocket>> {
    watch(socket)
}

/// A timer that is not set.
pub fn watch_timer() -> io::Result<AsyncFd<Timer>> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    watch(Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))
}

/// A large page, where the processor has them of this size; elsewhere the kernel's advice is refused, and nothing is lost.
const LARGE_PAGE: usize = 2 << 20;
/// The least memory that is put on large pages; what is smaller fits into the processor's translation cache.
const LARGE: usize = 2 * LARGE_PAGE;

/// The system's allocator, which puts what is large on large pages: a table's segments and its index.
///
/// A table of a million entries lies on 30,000 small pages, and each event touches some that the processor has to look up.
pub struct LargePages;

impl LargePages {
    /// As it is asked for from the system: a function of the layout alone, so that it is given back as it was asked for.
    fn placed(layout: Layout) -> Layout {
        let large = if layout.size() >= LARGE { layout.align_to(LARGE_PAGE).ok() } else { None };
        large.unwrap_or(layout)
    }
}

// SAFETY: every layout that comes back from the caller is the one of the allocation, so that `placed` gives the system its own
// back; what the system gives is at least as large and as aligned as was asked for.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = unsafe { System.alloc(Self::placed(layout)) };
        if layout.size() >= LARGE
            && let Some(first) = NonNull::new(start.cast::<c_void>())
        {
            // The advice changes neither contents nor protection.
            let _ = unsafe { madvise(first, layout.size(), MmapAdvise::MADV_HUGEPAGE) };
        }
        start
    }

    // Buffers mostly, of which little is ever touched.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { System.alloc_zeroed(Self::placed(layout)) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        unsafe { System.dealloc(start, Self::placed(layout)) };
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size().max(size) < LARGE {
            return unsafe { System.realloc(start, layout, size) };
        }
        // The system would move whole mappings, to where large pages do not fit.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            unsafe {
                start.copy_to_nonoverlapping(moved, layout.size().min(size));
                self.dealloc(start, layout);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_survive_growing_and_shrinking() {
        let sizes = [100, LARGE - 1, LARGE, 3 * LARGE, LARGE + 1, LARGE - 1, 10];
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        let byte = |at: usize| u8::try_from(at % 251).unwrap();
        // SAFETY: every pointer is used within the size that it was allocated with, and freed with its layout.
        unsafe {
            let mut start = LargePages.alloc(layout(1));
            let (mut before, mut filled) = (1, 0);
            for size in sizes {
                start = LargePages.realloc(start, layout(before), size);
                assert_eq!(start.addr() % if size >= LARGE { LARGE_PAGE } else { 8 }, 0);
                filled = filled.min(size);
                assert!((0..filled).all(|at| start.add(at).read() == byte(at)), "{before} to {size}");
                (filled..size).for_each(|at| start.add(at).write(byte(at)));
                (before, filled) = (size, size);
            }
            LargePages.dealloc(start, layout(before));
            let zeroed = LargePages.alloc_zeroed(layout(LARGE));
            assert!((0..LARGE).all(|at| zeroed.add(at).read() == 0));
            LargePages.dealloc(zeroed, layout(LARGE));
        }
    }
}
