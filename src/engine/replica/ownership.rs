//! How this node stands to the group: whether it owns it, who it waits for, and the takeover under way.
//!
//! One state at a time, and every change of it has a name. Owned by the replica: `takeover` and `trim` say
//! when. No table, no clock.

use super::fence::{Closing, Opening};

/// How this node stands to the group.
#[derive(Debug)]
pub(super) enum Ownership {
    /// It is not known yet whether a peer lives, and what it owns (15).
    Starting(Wish),
    /// Another node owns it, or none does.
    Backup(Wish),
    /// None has for so long that none is expected any more: what is here ends by its own timeouts.
    Abandoned(Wish),
    /// This node does; with the fence until it is closed.
    Owner(Option<Closing>),
}

/// What a node that does not own the group is about to do.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// It was told primary since its last claim or yield: it claims even from a living primary.
    told: bool,
    /// The first half of a fence is under way.
    opening: Option<Opening>,
}

impl Ownership {
    /// A run begins.
    pub(super) fn new() -> Ownership {
        Ownership::Starting(Wish::default())
    }

    pub(super) fn is_owner(&self) -> bool {
        matches!(self, Ownership::Owner(_))
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self, Ownership::Starting(_))
    }

    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self, Ownership::Abandoned(_))
    }

    fn wish(&self) -> Option<&Wish> {
        match self {
            Ownership::Starting(wish) | Ownership::Backup(wish) | Ownership::Abandoned(wish) => Some(wish),
            Ownership::Owner(_) => None,
        }
    }

    fn wish_mut(&mut self) -> Option<&mut Wish> {
        match self {
            Ownership::Starting(wish) | Ownership::Backup(wish) | Ownership::Abandoned(wish) => Some(wish),
            Ownership::Owner(_) => None,
        }
    }

    /// A takeover is under way.
    pub(super) fn is_fencing(&self) -> bool {
        self.is_closing() || self.opening().is_some()
    }

    /// Told primary since the last claim or yield.
    pub(super) fn wants(&self) -> bool {
        self.wish().is_some_and(|wish| wish.told)
    }

    /// The first half of a fence, while it is under way.
    pub(super) fn opening(&self) -> Option<&Opening> {
        self.wish()?.opening.as_ref()
    }

    /// As [`Ownership::opening`], to be gone on with.
    pub(super) fn opening_mut(&mut self) -> Option<&mut Opening> {
        self.wish_mut()?.opening.as_mut()
    }

    /// Told primary. An owner wants nothing: kept, it would be taken from the next owner.
    pub(super) fn want(&mut self) {
        if let Some(wish) = self.wish_mut() {
            wish.told = true;
        }
    }

    /// A takeover begins. An owner has nothing to take over.
    pub(super) fn open(&mut self, opening: Opening) {
        if let Some(wish) = self.wish_mut() {
            wish.opening = Some(opening);
        }
    }

    /// Nobody says that this node is primary; the addresses may show it. What an owner has begun goes on.
    pub(super) fn drop_wish(&mut self) {
        if let Some(wish) = self.wish_mut() {
            *wish = Wish::default();
        }
    }

    /// This node is primary no more: no takeover goes on.
    pub(super) fn stand_down(&mut self) {
        self.drop_wish();
        self.close();
    }

    /// The group is claimed. The first half of the fence, if this node did not own the group already.
    pub(super) fn become_owner(&mut self) -> Option<Opening> {
        let opening = self.wish_mut()?.opening.take();
        *self = Ownership::Owner(None);
        opening
    }

    /// The second half begins.
    pub(super) fn begin_closing(&mut self, closing: Closing) {
        if let Ownership::Owner(place) = self {
            *place = Some(closing);
        }
    }

    /// The fence is closed, or given up; once.
    pub(super) fn close(&mut self) -> Option<Closing> {
        match self {
            Ownership::Owner(closing) => closing.take(),
            _ => None,
        }
    }

    /// The second half of a fence, while it is under way.
    pub(super) fn closing(&self) -> Option<&Closing> {
        match self {
            Ownership::Owner(closing) => closing.as_ref(),
            Ownership::Starting(_) | Ownership::Backup(_) | Ownership::Abandoned(_) => None,
        }
    }

    /// As [`Ownership::closing`], to be gone on with.
    pub(super) fn closing_mut(&mut self) -> Option<&mut Closing> {
        match self {
            Ownership::Owner(closing) => closing.as_mut(),
            Ownership::Starting(_) | Ownership::Backup(_) | Ownership::Abandoned(_) => None,
        }
    }

    /// The second half is under way.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self, Ownership::Owner(Some(_)))
    }

    /// Another node's claim is higher: from now on its backup, whatever was wanted before.
    pub(super) fn follow(&mut self) {
        *self = Ownership::Backup(Wish::default());
    }

    /// What peers there are is known. Whether it was not before.
    pub(super) fn end_start(&mut self) -> bool {
        let Ownership::Starting(wish) = self else { return false };
        *self = Ownership::Backup(std::mem::take(wish));
        true
    }

    /// No owner is expected any more. Whether one was before.
    pub(super) fn abandon(&mut self) -> bool {
        let (Ownership::Starting(wish) | Ownership::Backup(wish)) = self else { return false };
        *self = Ownership::Abandoned(std::mem::take(wish));
        true
    }

    /// There is an owner again, or will be. Whether none was expected before.
    pub(super) fn hope(&mut self) -> bool {
        let Ownership::Abandoned(wish) = self else { return false };
        *self = Ownership::Backup(std::mem::take(wish));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::fence::Claimed;
    use super::*;
    use crate::failure::Failure;

    /// What each input makes of each state: its name, `!` where this node was told to take over, `+` with a
    /// fence under way. `-`: nothing changes.
    const TABLE: &str = "
        state        | want       | open       | drop wish | stand down | become owner | follow | end start | abandon      | hope
        starting     | starting!  | starting+  | -         | -          | owner        | backup | backup    | abandoned    | -
        starting!    | -          | starting!+ | starting  | starting   | owner        | backup | backup!   | abandoned!   | -
        starting!+   | -          | -          | starting  | starting   | owner+       | backup | backup!+  | abandoned!+  | -
        starting+    | starting!+ | -          | starting  | starting   | owner+       | backup | backup+   | abandoned+   | -
        backup       | backup!    | backup+    | -         | -          | owner        | -      | -         | abandoned    | -
        backup!      | -          | backup!+   | backup    | backup     | owner        | backup | -         | abandoned!   | -
        backup!+     | -          | -          | backup    | backup     | owner+       | backup | -         | abandoned!+  | -
        backup+      | backup!+   | -          | backup    | backup     | owner+       | backup | -         | abandoned+   | -
        abandoned    | abandoned! | abandoned+ | -         | -          | owner        | backup | -         | -            | backup
        abandoned!   | -          | abandoned!+| abandoned | abandoned  | owner        | backup | -         | -            | backup!
        abandoned!+  | -          | -          | abandoned | abandoned  | owner+       | backup | -         | -            | backup!+
        abandoned+   | abandoned!+| -          | abandoned | abandoned  | owner+       | backup | -         | -            | backup+
        owner        | -          | -          | -         | -          | -            | backup | -         | -            | -
        owner+       | -          | -          | -         | owner      | -            | backup | -         | -            | -";

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn opening() -> Opening {
        Opening::new(None, 1, Duration::ZERO, Instant::now())
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn closing(opening: Opening) -> Closing {
        let (failures, wait) = ([0; Failure::ALL.len()], Duration::ZERO);
        let at = Claimed { pending: 0, failed: 0, failures, taken: 0, ahead: Vec::new(), wait };
        opening.close(at, Instant::now())
    }

    fn state(word: &str) -> Ownership {
        let wish = || Wish { told: word.contains('!'), opening: word.contains('+').then(opening) };
        match word.trim_end_matches(['!', '+']) {
            "starting" => Ownership::Starting(wish()),
            "backup" => Ownership::Backup(wish()),
            "abandoned" => Ownership::Abandoned(wish()),
            "owner" => Ownership::Owner(word.contains('+').then(|| closing(opening()))),
            word => panic!("{word}"),
        }
    }

    fn word(state: &Ownership) -> String {
        let name = match state {
            Ownership::Starting(_) => "starting",
            Ownership::Backup(_) => "backup",
            Ownership::Abandoned(_) => "abandoned",
            Ownership::Owner(_) => "owner",
        };
        let marks = [(state.wants(), "!"), (state.is_fencing(), "+")];
        let marks = marks.iter().filter(|(on, _)| *on).map(|(_, mark)| *mark);
        std::iter::once(name).chain(marks).collect()
    }

    fn apply(input: &str, state: &mut Ownership) {
        match input {
            "want" => state.want(),
            "open" => state.open(opening()),
            "drop wish" => state.drop_wish(),
            "stand down" => state.stand_down(),
            "become owner" => {
                if let Some(opening) = state.become_owner() {
                    state.begin_closing(closing(opening));
                }
            }
            "follow" => state.follow(),
            "end start" => assert_eq!(state.is_starting(), state.end_start()),
            "abandon" => {
                let may = !state.is_owner() && !state.is_abandoned();
                assert_eq!(state.abandon(), may);
            }
            "hope" => assert_eq!(state.is_abandoned(), state.hope()),
            input => panic!("{input}"),
        }
    }

    #[test]
    fn every_input_in_every_state() {
        let mut rows = TABLE.trim().lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let inputs = rows.next().unwrap();
        let mut pairs = 0;
        for row in rows {
            for (input, wanted) in inputs.iter().zip(&row).skip(1) {
                let mut tried = state(row[0]);
                assert_eq!(word(&tried), row[0]);
                apply(input, &mut tried);
                assert_eq!(word(&tried), if *wanted == "-" { row[0] } else { wanted }, "{input}: {}", row[0]);
                pairs += 1;
            }
        }
        assert_eq!(pairs, 14 * 9, "every state, every input");
    }
}
