//! The kernel's door: conntrack over netlink.
//!
//! [`nla`] reads and writes attributes, [`codec`] turns netlink bytes into events and entries and back, [`socket`] owns
//! the sockets, [`dumper`] reads dumps beside the loop, [`courier`] carries requests beside it. Message headers and status bits
//! come from the netlink-packet crates; what they lack is written beside them.

pub mod codec;
pub mod courier;
pub mod dumper;
pub mod nla;
pub mod socket;
