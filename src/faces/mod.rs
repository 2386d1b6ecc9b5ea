//! What people see: an entry as JSON ([`rows`]), layouts ([`show`]), and whether a failover now would lose something
//! ([`verdict`]). Called by the daemon's answers and by the command line. Pure.

pub mod rows;
pub mod show;
pub mod verdict;
