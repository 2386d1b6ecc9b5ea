//! Reconcile: what to ask of the kernel so that its entry for one key becomes what the table wants, and what
//! an answer means.
//!
//! Pure decisions on one slot. The replica keeps the queue, asks when a key's turn comes, and reports the
//! answer. The numbers in brackets are rules of replication that a decision implements, each found by losing
//! an entry.

use nix::errno::Errno;

use crate::failure::Failure;
use crate::table::{Flags, Slot, SlotMut};
use ctsync_ctnetlink::entry::Entry;

/// A request to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Create the entry; it must not exist.
    Create,
    /// Change the entry; it must exist.
    Update,
    /// Remove the entry.
    Destroy,
    /// Read the entry back.
    Get,
    /// Renew the lease; tells whether the entry exists.
    Renew,
    /// Give it its window tracking back; tells whether the entry exists.
    Track,
}

/// What this node is while it decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Told primary by VRRP, claimed or not.
    pub primary: bool,
    /// Owns the group.
    pub owner: bool,
    /// A hot standby installs at once, a cold one at its takeover.
    pub hot: bool,
}

/// What to do with a key whose turn has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Ask the kernel.
    Ask(Op),
    /// Leave the kernel alone.
    Rest,
    /// Leave it alone and note the kernel's entry as a stray.
    Stray,
}

/// Decide for one key.
pub fn decide(slot: &Slot, standing: Standing) -> Decision {
    let flags = slot.flags();
    if flags.contains(Flags::READ_BACK) {
        return Decision::Ask(Op::Get);
    }
    if flags.contains(Flags::FORGOTTEN) {
        return Decision::Rest;
    }
    if !flags.contains(Flags::PRESENT) {
        // A backup destroys only what it installed (11); a primary destroys nothing (12).
        return if !flags.intersects(Flags::INSTALLED | Flags::MINE) {
            Decision::Rest
        } else if standing.primary || !flags.contains(Flags::MINE) {
            Decision::Stray
        } else {
            Decision::Ask(Op::Destroy)
        };
    }
    if !flags.contains(Flags::INSTALLED) {
        let install = standing.hot || standing.owner;
        return if install { Decision::Ask(Op::Create) } else { Decision::Rest };
    }
    if flags.contains(Flags::REPLACE) {
        // A primary replaces nothing: the kernel's entry is adopted at the claim (12).
        return Decision::Ask(if standing.primary { Op::Get } else { Op::Destroy });
    }
    Decision::Ask(Op::Update)
}

/// The kernel holds this entry under the slot's key. Updates cannot change a translation: where it differs,
/// it is another connection, to be destroyed before the wanted one is created (2).
pub fn note_found(slot: &mut SlotMut<'_>, found: &Entry) {
    slot.set(Flags::INSTALLED);
    let other = slot.has(Flags::PRESENT) && found.must_be_replaced_by(&slot.entry());
    slot.put(Flags::REPLACE, other);
}

/// Creates and updates that contradict each other this often are a clash of reply tuples.
const CLASH_AFTER: u8 = 4;

/// What a create does not do by itself: the timeout of an expectation, and to complain when labels cannot be
/// set.
fn needs_update(slot: &Slot) -> bool {
    slot.rare().is_some_and(|rare| {
        rare.expectation.is_some() || rare.labels.is_some() && !slot.has(Flags::UNLABELLED)
    })
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The kernel is as wanted.
    Settled,
    /// One step done, the key goes on.
    Again,
    /// The kernel says no for good.
    Failed(Failure),
    /// The kernel does not take a part of it: once more without.
    Without(Failure),
}

/// Note the kernel's answer to a request (other than a get) in the slot. `errno` 0 means done.
pub fn note_answer(slot: &mut SlotMut<'_>, op: Op, errno: i32) -> Outcome {
    let error = if errno == 0 { None } else { Some(Errno::from_raw(errno)) };
    let expected = slot.is_expectation();
    match (op, error) {
        // It needs its master's helper (`nf_ct_expect_related_report`).
        (Op::Create, Some(Errno::EOPNOTSUPP | Errno::ESHUTDOWN)) if expected => {
            Outcome::Failed(Failure::HelperUnknown)
        }
        (Op::Create, Some(Errno::EOPNOTSUPP)) if slot.has_helper() && !slot.has(Flags::HELPLESS) => {
            slot.set(Flags::HELPLESS);
            Outcome::Without(Failure::HelperUnknown)
        }
        (Op::Update, Some(Errno::ENOSPC)) if !slot.has(Flags::UNLABELLED) => {
            slot.set(Flags::UNLABELLED);
            Outcome::Without(Failure::LabelsUnused)
        }
        (Op::Create | Op::Update, None) => {
            if op == Op::Create {
                slot.set(Flags::MINE);
            }
            slot.set(Flags::INSTALLED);
            slot.clear(Flags::STRAY | Flags::REPLACE);
            slot.clear(Flags::REBORN | Flags::AHEAD);
            slot.tries = 0;
            slot.set_failure(None);
            if op == Op::Create && needs_update(slot) { Outcome::Again } else { Outcome::Settled }
        }
        (Op::Renew | Op::Track, None) => Outcome::Settled,
        (Op::Destroy, None | Some(Errno::ENOENT)) => {
            slot.clear(Flags::INSTALLED | Flags::MINE | Flags::REPLACE | Flags::STRAY);
            slot.clear(Flags::REBORN | Flags::AHEAD);
            slot.clear(Flags::HELPLESS | Flags::UNLABELLED | Flags::MASTERLESS);
            if slot.has(Flags::PRESENT) { Outcome::Again } else { Outcome::Settled }
        }
        (Op::Create, Some(Errno::EEXIST)) => {
            slot.tries += 1;
            if slot.tries >= CLASH_AFTER {
                return Outcome::Failed(Failure::NatClash);
            }
            // Either tuple may be taken: by this connection, by another one with the same original tuple, or
            // (then there is nothing to read back) by one that chose the same translation.
            slot.set(Flags::READ_BACK | Flags::REBORN);
            Outcome::Again
        }
        (Op::Create, Some(Errno::ENOENT)) => Outcome::Failed(Failure::NoMaster),
        (Op::Update | Op::Renew | Op::Track, Some(Errno::ENOENT)) => {
            slot.tries += 1;
            slot.clear(Flags::INSTALLED | Flags::MINE);
            if slot.tries >= CLASH_AFTER { Outcome::Failed(Failure::NatClash) } else { Outcome::Again }
        }
        // Packets have moved this very connection on, before this node was told that it is primary: replaced,
        // it would be gone for a moment, and the next packet would begin another.
        (Op::Update, Some(Errno::EBUSY)) if !slot.has(Flags::REBORN) => {
            slot.set(Flags::AHEAD);
            slot.tries = 0;
            Outcome::Settled
        }
        // A fresh state over an assured copy, other NAT: another connection with the same tuple (2).
        (Op::Update, Some(Errno::EBUSY | Errno::EOPNOTSUPP)) => {
            slot.set(Flags::REPLACE);
            Outcome::Again
        }
        // EMFILE: too many expectations, of this class or of all (`__nf_ct_expect_check`).
        (_, Some(Errno::ENOMEM | Errno::ENFILE | Errno::EMFILE)) => Outcome::Failed(Failure::TableFull),
        (_, Some(Errno::ENOSPC)) => Outcome::Failed(Failure::ChainTooLong),
        (_, Some(Errno::EPERM | Errno::EACCES)) => Outcome::Failed(Failure::NotPermitted),
        (Op::Get, _) | (_, Some(_)) => Outcome::Failed(Failure::Refused),
    }
}

#[cfg(test)]
mod tests;
