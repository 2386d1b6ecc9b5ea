//! Whose claim binds this node: what peers say of claims, and what is owed to a new owner (16 to 19, N1, N3,
//! N4, N9).
//!
//! Called by `incoming` with each alive. Claims of this node's own are `takeover`'s.

use std::time::Instant;

use super::Replica;
use crate::wire::{Alive, Claim, Header, Incarnation};

/// A claim this far above the known one is believed up to [`FAR_CLAIM`] only, and none above [`LAST_CLAIM`].
const CLAIMS_AT_ONCE: u64 = 1 << 32;
const FAR_CLAIM: u64 = 1 << 62;
const LAST_CLAIM: u64 = (1 << 63) - CLAIMS_AT_ONCE;
/// What is only told of others' claims counts up to this: a claim above it is believed by everybody.
const HEARSAY: u64 = FAR_CLAIM - CLAIMS_AT_ONCE;

impl Replica {
    /// Nobody counts that far: a claim to which no later one could be added any more would never heal.
    pub(super) fn is_absurd(&self, claim: Claim) -> bool {
        let known = self.group.epoch;
        let most = if known == 0 { LAST_CLAIM } else { FAR_CLAIM.max(known.saturating_add(CLAIMS_AT_ONCE)) };
        claim.epoch > most.min(LAST_CLAIM)
    }

    /// What an alive says of claims. One is believed from who made it only, and from nobody else (N3); but
    /// who tells of a higher one in this node's own name remembers a run before this one (16).
    pub(super) fn hear_claim(&mut self, header: &Header, alive: &Alive, now: Instant) {
        let (from, run, claim) = (header.sender, header.incarnation, alive.claim);
        let known = self.group.claim;
        if !(alive.owner && claim.node == from) {
            if self.ownership.is_owner() && claim.node == self.settings.node && claim > known {
                self.reclaim(claim, now);
            } else if claim.epoch <= HEARSAY {
                self.group.epoch = self.group.epoch.max(claim.epoch);
            }
        } else if self.ownership.is_owner() {
            if claim > known {
                self.yield_to(claim, run, now);
            }
        } else {
            // The same epoch by a new run is a new claim (16). A lower one counts where the higher one does
            // not bind any more: whoever made it is not heard to own the group (N4).
            let again = claim == known && self.group.claim_incarnation != Some(run);
            let binds = self.peers.owns_by(known, self.group.claim_incarnation);
            if claim > known || again || (claim < known && !binds) {
                self.counters.fallbacks += u64::from(claim < known);
                self.follow(run, alive, now);
            }
        }
    }

    /// Another node owns the group: this node follows it from now on.
    fn follow(&mut self, run: Incarnation, alive: &Alive, now: Instant) {
        self.give_refill_up();
        if self.may_owe(alive) {
            if self.is_covered(run, alive) {
                self.counters.covered += 1;
            } else {
                self.owe_all();
            }
            self.worth.forget_last_run();
        }
        self.group.claim_as(alive.claim, run);
        self.ends.change_stream();
        self.begin_following();
        self.worth.overruled();
        self.alive_now(now);
    }

    /// An owner that lost its kernel and came back must not purge the survivor's copies (18); nor must one
    /// that goes back to such an owner, and not to what the run before this one followed. One whose kernel
    /// survived is the truth and is offered nothing (19): of its own claim, not of what came after that (N9).
    fn may_owe(&self, alive: &Alive) -> bool {
        let left = self.settings.kept.lineage;
        let began_anew = left != 0 && alive.lineage != 0 && alive.lineage != left;
        let survivor = !self.ownership.is_starting() || self.worth.was_owner() || alive.fresh || began_anew;
        survivor && alive.truth.is_none_or(|truth| truth < self.group.highest)
    }

    /// Whether the new owner had all that is here when it claimed: it stood in the same stream, at this
    /// node's place or behind it; or it is the run that this node follows already (N1).
    fn is_covered(&self, run: Incarnation, alive: &Alive) -> bool {
        if self.group.claim_incarnation == Some(run) {
            return true;
        }
        let here = (self.group.claim, self.group.claim_incarnation);
        let Some(next) = self.following.expected() else { return false };
        alive.stood.is_some_and(|stood| here == (stood.claim, Some(stood.run)) && next <= stood.next)
    }

    /// A peer remembers a higher claim in this node's name: claim above it (16).
    fn reclaim(&mut self, heard: Claim, now: Instant) {
        let epoch = self.group.epoch.max(heard.epoch) + 1;
        let claim = Claim { epoch, node: self.settings.node };
        self.group.claim_as(claim, self.settings.incarnation);
        self.alive_now(now);
    }
}
