//! What a replica counts for `statistics`, `status` and metrics. It decides by none of it.

use super::Refused;
use crate::failure::Failure;

/// Changes of a cache.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Entries that were not there before.
    pub created: u64,
    /// Entries that changed.
    pub updated: u64,
    /// Entries that went.
    pub destroyed: u64,
}

impl Changes {
    pub(super) fn note(&mut self, was_present: bool) {
        if was_present {
            self.updated += 1;
        } else {
            self.created += 1;
        }
    }
}

/// Counters that `statistics` and `status` show.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Entries created, updated, destroyed by this kernel while the group was owned here.
    pub internal: Changes,
    /// Entries created, updated, destroyed by the owner's stream.
    pub external: Changes,
    /// The same of expectations.
    pub internal_expected: Changes,
    /// The same of expectations.
    pub external_expected: Changes,
    /// Installs refused for good, by reason, since start.
    pub failures: [u64; Failure::ALL.len()],
    /// Requests sent to the kernel.
    pub requests: u64,
    /// TCP entries that got their window tracking back.
    pub tracked: u64,
    /// Entries whose lease went back to their protocol's timeout.
    pub trimmed: u64,
    /// Events ignored as not worth synchronising.
    pub ignored: u64,
    /// Times the event socket overran.
    pub overruns: u64,
    /// Dumps completed.
    pub dumps: u64,
    /// Datagrams listened to.
    pub heard: u64,
    /// Datagrams refused, by reason: with those heard, all that ever came.
    pub refused: [u64; Refused::ALL.len()],
    /// Datagrams of the stream, and answers, with a part that could not be read: nothing of them was taken.
    pub unusable: u64,
    /// Datagrams missed in the stream, when a gap was found.
    pub lost: u64,
    /// Nacks sent.
    pub nacks: u64,
    /// Datagrams sent again.
    pub resent: u64,
    /// Entries sent because a repair asked.
    pub repaired_out: u64,
    /// Entries received because a repair asked.
    pub repaired_in: u64,
    /// Repairs begun: the digest differed.
    pub repairs: u64,
    /// Entries offered to a new owner.
    pub offered: u64,
    /// Offers taken as the new owner.
    pub taken: u64,
    /// Offers of connections that had ended.
    pub ended_offers: u64,
    /// Claims that were followed although a higher one was known: whoever made that is not heard.
    pub fallbacks: u64,
    /// Followed claims for which the table did not have to be walked: the new owner had all that is here.
    pub covered: u64,
    /// Destroys dropped at the cap.
    pub dropped_destroys: u64,
    /// Claims made.
    pub claims: u64,
    /// Times this node yielded.
    pub yields: u64,
    /// Ends held back because an address that left this node caused them.
    pub held_back: u64,
    /// Changes that nobody who watched could be shown.
    pub unshown: u64,
}

impl Counters {
    /// Datagrams refused for this reason.
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused.get(why as usize).copied().unwrap_or(0)
    }
}
