//! ctsync keeps the connection-tracking tables of two Linux routers equal, so that either can carry on every
//! connection of the other.
//!
//! The engine is pure: [`entry`], [`table`], [`digest`], [`wire`], [`stream`], [`reconcile`], [`filter`], [`groups`] and
//! [`replica`] have no socket, no runtime and no clock. Bytes, events and `now` go in, bytes and requests come
//! out. [`daemon`] owns every socket and the only clock; [`ctnetlink`] is the kernel's door, [`channel`] the
//! peer's, [`control`] the operator's, [`role`] the VRRP daemon's. Imports run one way, from the daemon to the
//! entry. `docs/architecture.md` follows one event through all of them.

pub mod addresses;
pub mod channel;
pub mod cli;
mod compact;
pub mod config;
pub mod control;
pub mod ctnetlink;
pub mod daemon;
pub mod digest;
pub mod entry;
pub mod facts;
pub mod filter;
pub mod groups;
pub mod hold;
pub mod metrics;
pub mod precheck;
pub mod reconcile;
pub mod replica;
pub mod role;
pub mod rows;
pub mod ruleset;
pub mod runstate;
pub mod seal;
pub mod show;
pub mod stream;
pub mod table;
pub mod verdict;
mod watched;
pub mod wire;
pub mod witness;
