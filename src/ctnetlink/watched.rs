//! Netlink sockets registered with the runtime. The one file with `unsafe`: tokio wants a promise that the type
//! system cannot give, that a file descriptor stays open and the same while it is watched.

#![allow(unsafe_code)]

use std::io;

use tokio::io::unix::AsyncFd;

use super::socket::EventSocket;

/// Sockets of this crate that own their descriptor from open to drop and never replace it.
trait KeepsDescriptor: std::os::fd::AsRawFd {}
impl KeepsDescriptor for EventSocket {}

fn watch<T: KeepsDescriptor>(socket: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `KeepsDescriptor` is private and implemented only for types whose sole descriptor lives in a private
    // `netlink_sys::Socket` field that is set once, at open.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// Watch the event socket.
pub fn watch_events(socket: EventSocket) -> io::Result<AsyncFd<EventSocket>> {
    watch(socket)
}
