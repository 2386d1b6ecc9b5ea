//! Whether this node is subscribed to events of new entries.
//!
//! For every entry that a daemon creates the kernel builds an event, which costs it as much as the entry, as
//! long as anybody is subscribed to new ones (`netlink_has_listeners`); a socket's filter drops it only then.
//! A backup installs by the thousand what its owner sends, so it is not subscribed: events of changes and
//! ends come all the same. What packets made meanwhile is found by a dump once this node owns the group:
//! after the fence, which does not wait for it, and after what a cold standby installs at its fence has been
//! installed as fast.

use super::{Replica, Role};

impl Replica {
    /// Whether events of new entries are wanted from now on. Asked after each turn; the caller sees to it,
    /// and tells what is so by [`Replica::handle_subscription`].
    pub fn wants_new_entries(&self) -> bool {
        if self.ownership.is_owner() {
            return !self.dumps.unsubscribed() || !self.ownership.is_fencing();
        }
        // What is due, or owed, is found by a dump that no entry may be missing from.
        let settled = self.dumps.known() && !self.dumps.resyncing() && !self.dumps.late();
        if settled && self.peers.own() && self.group.role != Role::Primary {
            return false;
        }
        // Before a claim it makes no difference: a dump follows the claim. With no owner to come the kernel
        // is all there is.
        !self.dumps.unsubscribed() || (self.trusts_kernel() && !self.believes())
    }

    /// Whether events of new entries come from now on. True: a dump is due, for those that did not.
    pub fn handle_subscription(&mut self, subscribed: bool) -> bool {
        let due = self.dumps.unsubscribed() && subscribed && self.wants_new_entries();
        if due {
            self.dumps.subscribe();
        } else if !subscribed {
            self.dumps.unsubscribe();
        }
        due
    }
}
