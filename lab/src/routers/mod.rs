//! The documented figure: routers with what moves their addresses, and the hosts beside them. A story changes
//! it by its [`options`]; who builds it is [`topology`].

pub(crate) mod cluster;
pub(crate) mod documented;
pub(crate) mod frr;
pub(crate) mod hands;
pub(crate) mod heartbeat;
pub(crate) mod incumbent;
pub(crate) mod options;
pub(crate) mod router;
pub(crate) mod topology;
