//! ctsync keeps the connection-tracking tables of two Linux routers equal, so that either can carry on every
//! connection of the other.
//!
//! [`ctnetlink`] (bytes and entries) and [`engine`] (what decides) are crates of their own, without socket,
//! runtime or clock. The program around them: [`daemon`] owns every socket and the only clock; [`kernel`] has
//! the kernel's sockets, [`io`] the peer's, the VRRP daemon's and what else there is, [`control`] the
//! operator's; [`faces`] is what people see. Imports run one way, from the daemon to the entry.
//! `docs/architecture.md` follows one event through all of them.

pub use ctsync_ctnetlink as ctnetlink;
pub use ctsync_engine as engine;

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod faces;
pub mod io;
pub mod kernel;
