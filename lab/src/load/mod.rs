//! What goes through the routers, or is in their kernels, and who looks at it there.

pub(crate) mod attacker;
pub(crate) mod churn;
pub(crate) mod entries;
pub(crate) mod judge;
pub(crate) mod ssh;
pub(crate) mod steady;
pub(crate) mod traffic;
