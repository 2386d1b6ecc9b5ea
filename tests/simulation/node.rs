//! A node of the simulation: its kernel, its daemon while one runs, and what outlives that.

use std::collections::VecDeque;
use std::time::Instant;

use ctsync_ctnetlink::entry::Entry;
use ctsync_engine::replica::{Kept, Replica, Role};

use crate::kernel::Kernel;

pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) kernel: Kernel,
    pub(crate) replica: Option<Replica>,
    pub(crate) role: Role,
    /// What `/run` holds.
    pub(crate) kept: Kept,
    pub(crate) dump: Option<VecDeque<Entry>>,
    /// Datagrams on their way here, with the time they arrive.
    pub(crate) inbox: Vec<(Instant, Vec<u8>)>,
    /// What of its counters is in the totals already.
    pub(crate) counted: [u64; 6],
    /// Datagrams given to this run of the daemon.
    pub(crate) delivered: u64,
    /// Events were lost and no dump has made up for them.
    pub(crate) blind: bool,
    /// ... since the dump began that is under way: it does not.
    pub(crate) blind_again: bool,
}

impl Node {
    /// Tell the daemon that events were lost, if they were. True: they were.
    pub(crate) fn tell_overrun(&mut self) -> bool {
        let Some(replica) = self.replica.as_mut().filter(|_| self.kernel.overrun) else { return false };
        self.kernel.overrun = false;
        self.blind = true;
        self.blind_again = true;
        replica.handle_overrun();
        true
    }
}
