//! What else comes in and goes out: everything with a descriptor that is neither the kernel's tables nor the
//! operator's socket.
//!
//! [`channel`] is the peer's, [`role`] the VRRP daemon's, [`addresses`] tells which addresses are here,
//! [`runstate`] keeps what survives the daemon's end, [`metrics`] answers Prometheus. Called by the daemon.
//! Decides nothing.

pub mod addresses;
pub mod channel;
pub mod metrics;
pub mod role;
pub mod runstate;
