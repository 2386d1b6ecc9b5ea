//! What a run leaves to the next one, and what that is worth: whether this node's kernel may speak for the
//! group (16 to 19).
//!
//! [`Kept`] is written by the daemon into /run and given back at its next start. Owned by the replica;
//! `takeover` and `incoming` tell what happens. Plain state.

use serde::{Deserialize, Serialize};

use super::Role;
use crate::wire::Claim;

/// What survives a daemon's end, in `/run` (19).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Kept {
    /// This node owned the group and its fence was complete: this kernel is the truth.
    pub truth: bool,
    /// The highest claim that it followed or made: that of the truth, if this kernel is it.
    pub claim: Claim,
    /// The run with which the table began from nothing that this kernel was in step with last.
    pub lineage: u64,
    /// Peers that lived.
    pub peers: u8,
    /// It owned the group, or still owed offers.
    pub was_owner: bool,
    /// The kernel table was in step with a peer's once, in this boot and network namespace: it is not new
    /// (18).
    pub settled: bool,
    /// The last role it was told.
    pub role: Option<Role>,
}

/// Whether the kernel's table is the group's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Authority {
    /// Another node's is, or nobody's.
    None,
    /// It is since a fence of this run was closed.
    Fenced,
    /// It was before this run began, and nobody has claimed since: whoever comes back offers nothing to it
    /// (19).
    Survived,
}

/// What this node's kernel is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Worth {
    authority: Authority,
    /// It has never been in step with a peer's: nothing that is missing in it has ended (18).
    fresh: bool,
    /// The last run owned the group, or owed offers: what is here may be all there is.
    was_owner: bool,
}

impl Worth {
    pub(super) fn new(kept: Kept) -> Worth {
        let survived = kept.settled && kept.truth;
        let authority = if survived { Authority::Survived } else { Authority::None };
        Worth { authority, fresh: !kept.settled, was_owner: kept.was_owner }
    }

    pub(super) fn survived(self) -> bool {
        self.authority == Authority::Survived
    }

    pub(super) fn is_truth(self) -> bool {
        self.authority != Authority::None
    }

    pub(super) fn fresh(self) -> bool {
        self.fresh
    }

    pub(super) fn was_owner(self) -> bool {
        self.was_owner
    }

    /// In step with a peer: nobody's copies are missing here any more.
    pub(super) fn settle(&mut self) {
        self.fresh = false;
    }

    /// Everything that is known is in the kernel.
    pub(super) fn fenced(&mut self) {
        if self.authority == Authority::None {
            self.authority = Authority::Fenced;
        }
    }

    /// This node owns the group, or has offered what it held: what the last run was does not matter any more.
    pub(super) fn forget_last_run(&mut self) {
        self.was_owner = false;
    }

    /// Another node claims the group: its kernel is the truth.
    pub(super) fn overruled(&mut self) {
        self.authority = Authority::None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_speaks_for_the_group_from_its_fence_to_the_next_claim() {
        let mut worth = Worth::new(Kept::default());
        assert!(worth.fresh() && !worth.is_truth() && !worth.survived() && !worth.was_owner());
        worth.fenced();
        assert!(worth.is_truth() && !worth.survived(), "of this run");
        worth.overruled();
        assert!(!worth.is_truth());
        let left = Kept { truth: true, was_owner: true, settled: true, ..Kept::default() };
        let mut worth = Worth::new(left);
        assert!(worth.survived() && worth.is_truth() && worth.was_owner() && !worth.fresh());
        worth.fenced();
        assert!(worth.survived(), "a fence makes it no younger");
        worth.overruled();
        assert!(!worth.survived() && worth.was_owner(), "it may still owe");
        worth.forget_last_run();
        assert!(!worth.was_owner());
        // A kernel table that was in step with nobody proves nothing by having been an owner's.
        assert!(!Worth::new(Kept { settled: false, ..left }).is_truth());
    }
}
