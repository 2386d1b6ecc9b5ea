//! The kernel's sockets: what the program asks of netfilter and hears from it.
//!
//! [`socket`] owns the conntrack sockets, [`dumper`] reads dumps beside the loop, [`courier`] carries
//! requests beside it; [`hold`] keeps packets away until a takeover is complete, [`ruleset`] reads what the
//! rules ask of tracking; `watched` registers descriptors with the runtime. Called by the daemon and by
//! `ctsync kernel`. Decides nothing about entries.

pub mod courier;
pub mod dumper;
pub mod hold;
pub mod ruleset;
pub mod socket;
pub(crate) mod watched;
