//! Conntrack entries, and the netlink bytes in which the kernel tells them.
//!
//! [`entry`] says what a connection is, [`names`] what its states are called, [`nla`] reads and writes
//! attributes, [`codec`] turns netlink bytes into events and entries and back. Message headers and status
//! bits come from the netlink-packet crates; what they lack is written beside them. Called by the engine
//! (entries), by the program's `kernel` (which has the sockets) and by tests. Opens nothing.

pub mod codec;
pub mod entry;
pub mod names;
pub mod nla;
