//! What holds between any two inputs, said once.
//!
//! Called by the simulation after every turn. It walks the table, so no daemon calls it. Reads only.

use super::operator::Refill;
use super::{Replica, Role};
use crate::table::{Flags, SlotId};

impl Replica {
    /// The first of the engine's own rules that does not hold.
    pub fn invariants(&self) -> Result<(), String> {
        self.numbers_agree()?;
        self.lists_agree()?;
        self.roles_agree()?;
        for (id, slot) in self.table.iter() {
            self.slot_agrees(id, slot.flags())
                .map_err(|rule| format!("{rule}: slot {id}, {:?}", slot.flags()))?;
        }
        Ok(())
    }

    /// Numbers that count flags count them, and the sums what is counted as sent.
    fn numbers_agree(&self) -> Result<(), String> {
        let (kept, counted) = (self.table.counts(), self.table.recount());
        if kept != counted {
            return Err(format!("the table says {kept:?} and has {counted:?}"));
        }
        let root = self.table.iter().fold(0, |root: u64, (_, slot)| root.wrapping_add(slot.sent));
        if root != self.group.sums.root() {
            return Err("the sums are not those of what is counted".to_owned());
        }
        Ok(())
    }

    /// Every list and the marks of its slots agree.
    fn lists_agree(&self) -> Result<(), String> {
        self.out.unsent.check(&self.table)?;
        self.work.check(&self.table)?;
        self.strays.check(&self.table)?;
        self.related.check(&self.table)?;
        self.windows.check(&self.table)?;
        self.fullness.check(&self.table)
    }

    /// Who owns the group follows nobody, and asks nobody for anything.
    fn roles_agree(&self) -> Result<(), String> {
        let owner = self.ownership.is_owner();
        let rules = [
            (owner && self.following.expected().is_some(), "an owner follows a stream"),
            (owner && self.group.claim.node != self.settings.node, "an owner by another node's claim"),
            (self.refill == Refill::Underway && owner, "an owner waits for the owner's entries"),
            (!owner && self.out.answers.repairs(), "a backup answers repairs"),
            (self.fencing() && self.group.role != Role::Primary, "a takeover of who is not primary"),
        ];
        rules.iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, rule)| Err((*rule).to_owned()))
    }

    /// Nobody waits for what cannot come.
    fn slot_agrees(&self, id: SlotId, flags: Flags) -> Result<(), &'static str> {
        let has = |flag: Flags| flags.contains(flag);
        let out = self.out.unsent.holds(&self.table, id);
        let waits = self.work.holds(&self.table, id);
        let rules = [
            (has(Flags::DIRTY) && !out, "a change that is in no queue"),
            (has(Flags::DESTROY_DUE) && !out, "an end that is in no queue"),
            (has(Flags::PENDING) && !waits && !has(Flags::ASKED), "pending, and never asked for"),
            (has(Flags::ASKED) && !self.work.asks(id), "asked about in no batch"),
            (has(Flags::OFFER) && !has(Flags::PRESENT), "an offer of nothing"),
            (has(Flags::FORGOTTEN) && has(Flags::PRESENT), "forgotten and in the table"),
            (has(Flags::FORGOTTEN) && self.refill != Refill::Underway, "kept aside for nobody"),
        ];
        rules.iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, rule)| Err(*rule))
    }
}
