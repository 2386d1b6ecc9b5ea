//! What people see: an entry as JSON ([`rows`]) and layouts ([`show`]). Called by the daemon's answers and by
//! the command line. Pure.

pub mod rows;
pub mod show;
