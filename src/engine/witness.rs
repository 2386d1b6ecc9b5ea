//! Whom to believe about the role of this node: what was told, by whom, whether he still lives, and what the
//! virtual addresses show when nobody told, or the contrary.
//!
//! keepalived tells a role once, into a FIFO, and replays nothing: a daemon that starts late, a reload of
//! keepalived, a FIFO that was replaced leave it without a word. The addresses know it all the same. Called
//! by the daemon's groups; fed with lines, a look at the FIFO, a list of addresses. No file, no socket, no
//! clock.

use std::time::{Duration, Instant};

use crate::facts::{Evidence, Mover, Role, Seat};

/// keepalived closes its FIFO when it reloads, and opens it again at once: closed for so long, it is gone.
const RELOAD: Duration = Duration::from_secs(2);
/// keepalived moves the addresses and tells the role one after the other: for so long they may contradict
/// each other.
const CONTRADICTION: Duration = Duration::from_secs(1);

/// Who told a role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Teller {
    /// keepalived, or the addresses of the mechanism `vip`.
    Mechanism,
    /// `ctsync notify`.
    Operator,
    /// The run before this one knew it.
    FormerRun,
}

/// Who holds the notify FIFO open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fifo {
    /// The mechanism has none.
    None,
    /// Nobody yet, since then.
    Awaited(Instant),
    /// Somebody: keepalived.
    Held,
    /// Nobody any more, since then: a reload, or its end.
    Closed(Instant),
    /// Nobody ever, for longer than a start takes.
    NeverHeld,
    /// Nobody any more, for longer than a reload takes.
    Gone,
}

/// What is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Belief {
    /// The role.
    pub role: Role,
    /// How it is known.
    pub evidence: Evidence,
}

/// What was told and seen so far.
#[derive(Debug)]
pub struct Witness {
    told: Option<(Role, Teller)>,
    fifo: Fifo,
    /// The group's virtual addresses that are known, and how many of them are here.
    known: usize,
    here: usize,
    /// Since when told and seen contradict each other.
    contradicted: Option<Instant>,
}

impl Witness {
    /// `fifo`: the mechanism has one. `remembered`: what the run before this one knew.
    pub fn new(fifo: bool, remembered: Option<Role>, now: Instant) -> Witness {
        Witness {
            told: remembered.map(|role| (role, Teller::FormerRun)),
            fifo: if fifo { Fifo::Awaited(now) } else { Fifo::None },
            known: 0,
            here: 0,
            contradicted: None,
        }
    }

    /// Somebody tells the role.
    pub fn tell(&mut self, role: Role, teller: Teller) {
        self.told = Some((role, teller));
        self.contradicted = None;
    }

    /// Whether somebody holds the FIFO open now.
    pub fn note_fifo(&mut self, held: bool, now: Instant) {
        self.fifo = match (self.fifo, held) {
            (Fifo::None, _) => Fifo::None,
            (_, true) => Fifo::Held,
            (Fifo::Held, false) => Fifo::Closed(now),
            (Fifo::Awaited(since), false) if now >= since + RELOAD => Fifo::NeverHeld,
            (Fifo::Closed(since), false) if now >= since + RELOAD => Fifo::Gone,
            (same, false) => same,
        };
        let dead = matches!(self.fifo, Fifo::Gone | Fifo::NeverHeld);
        if dead && self.told.is_some_and(|(_, teller)| teller != Teller::Operator) {
            // Who told it cannot tell any more that it has changed.
            self.told = None;
        }
    }

    /// The FIFO was made again under a keepalived that holds the one before: it lives and cannot tell any
    /// more.
    pub fn note_replaced(&mut self) {
        self.fifo = Fifo::NeverHeld;
        self.told = self.told.filter(|(_, teller)| *teller == Teller::Operator);
    }

    /// So many of the group's addresses are known, so many of them are here.
    pub fn note_addresses(&mut self, known: usize, here: usize) {
        (self.known, self.here) = (known, here);
        if let Some((role, Teller::FormerRun)) = self.told
            && known > 0
            && (role == Role::Primary) != (here == known)
        {
            // It changed while no daemon ran.
            self.told = None;
        }
    }

    /// What to believe now.
    pub fn judge(&mut self, now: Instant) -> Belief {
        let all_here = self.known > 0 && self.here == self.known;
        let shown = |role| Belief { role, evidence: Evidence::Addresses };
        match self.told {
            Some((role, _)) if role != Role::Primary && all_here => {
                let since = *self.contradicted.get_or_insert(now);
                if now >= since + CONTRADICTION {
                    return shown(Role::Primary);
                }
                Belief { role, evidence: Evidence::Told }
            }
            Some((role, _)) => {
                self.contradicted = None;
                Belief { role, evidence: Evidence::Told }
            }
            // Left behind by a keepalived that died: whoever is elected now has them, too.
            None if all_here && self.fifo != Fifo::Gone => shown(Role::Primary),
            None if self.known > 0 && self.here == 0 && matches!(self.fifo, Fifo::Held | Fifo::Closed(_)) => {
                shown(Role::Backup)
            }
            None => Belief { role: Role::Unknown, evidence: Evidence::Nobody },
        }
    }

    /// What peers are told of it.
    pub fn seat(&self, evidence: Evidence) -> Seat {
        let mover = match self.fifo {
            Fifo::None | Fifo::Awaited(_) => Mover::Unseen,
            Fifo::Held | Fifo::Closed(_) => Mover::Present,
            Fifo::NeverHeld | Fifo::Gone => Mover::Absent,
        };
        let count = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        Seat { evidence, mover, addresses: count(self.known), here: count(self.here) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREVER: Duration = Duration::from_secs(60);

    fn told(role: Role) -> Belief {
        Belief { role, evidence: Evidence::Told }
    }

    fn shown(role: Role) -> Belief {
        Belief { role, evidence: Evidence::Addresses }
    }

    const UNKNOWN: Belief = Belief { role: Role::Unknown, evidence: Evidence::Nobody };

    /// A look at the FIFO and the addresses.
    fn look(witness: &mut Witness, held: bool, here: usize, now: Instant) -> Belief {
        witness.note_fifo(held, now);
        witness.note_addresses(2, here);
        witness.judge(now)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_keepalived_that_was_there_first_is_known_by_its_addresses() {
        let now = Instant::now();
        let mut witness = Witness::new(true, None, now);
        assert_eq!(look(&mut witness, true, 2, now), shown(Role::Primary));
        assert_eq!(look(&mut witness, true, 0, now), shown(Role::Backup));
        assert_eq!(look(&mut witness, true, 1, now), UNKNOWN);
        witness.tell(Role::Backup, Teller::Mechanism);
        assert_eq!(look(&mut witness, true, 0, now), told(Role::Backup));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_reload_takes_no_role_away_and_an_end_does() {
        let now = Instant::now();
        for (role, here) in [(Role::Primary, 2), (Role::Backup, 0)] {
            let mut witness = Witness::new(true, None, now);
            look(&mut witness, true, here, now);
            witness.tell(role, Teller::Mechanism);
            assert_eq!(look(&mut witness, false, here, now), told(role), "closed");
            assert_eq!(look(&mut witness, false, here, now + RELOAD / 2), told(role));
            assert_eq!(look(&mut witness, true, here, now + RELOAD), told(role), "it was a reload");
            look(&mut witness, false, here, now + FOREVER);
            assert_eq!(look(&mut witness, false, here, now + FOREVER + RELOAD), UNKNOWN, "it was its end");
            assert_eq!(witness.seat(Evidence::Nobody).mover, Mover::Absent);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn under_a_replaced_fifo_the_addresses_tell() {
        let now = Instant::now();
        for (role, here, belief) in [(Role::Primary, 2, shown(Role::Primary)), (Role::Backup, 0, UNKNOWN)] {
            let mut witness = Witness::new(true, None, now);
            look(&mut witness, true, here, now);
            witness.tell(role, Teller::Mechanism);
            witness.note_replaced();
            for at in [now, now + FOREVER] {
                assert_eq!(look(&mut witness, false, here, at), belief);
                assert_eq!(witness.seat(Evidence::Nobody).mover, Mover::Absent);
            }
            assert_eq!(look(&mut witness, false, 2, now + FOREVER), shown(Role::Primary), "elected");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_a_former_run_knew_holds_while_the_addresses_agree() {
        let now = Instant::now();
        for (remembered, here, belief) in [
            (Role::Primary, 2, told(Role::Primary)),
            (Role::Primary, 0, shown(Role::Backup)),
            (Role::Primary, 1, UNKNOWN),
            (Role::Backup, 0, told(Role::Backup)),
            (Role::Backup, 2, shown(Role::Primary)),
            (Role::Fault, 0, told(Role::Fault)),
        ] {
            let mut witness = Witness::new(true, Some(remembered), now);
            assert_eq!(look(&mut witness, true, here, now), belief, "{remembered:?}, {here} here");
        }
        // Nobody holds the FIFO: what was known is of a keepalived that died, or of another file.
        let mut witness = Witness::new(true, Some(Role::Backup), now);
        assert_eq!(look(&mut witness, false, 0, now), told(Role::Backup));
        assert_eq!(look(&mut witness, false, 0, now + RELOAD), UNKNOWN);
        assert_eq!(look(&mut witness, false, 2, now + RELOAD), shown(Role::Primary), "it tells nobody");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn addresses_that_stay_here_beat_what_was_told() {
        let now = Instant::now();
        let mut witness = Witness::new(true, None, now);
        look(&mut witness, true, 0, now);
        witness.tell(Role::Backup, Teller::Mechanism);
        assert_eq!(look(&mut witness, true, 2, now), told(Role::Backup), "a handover");
        assert_eq!(look(&mut witness, true, 2, now + CONTRADICTION), shown(Role::Primary));
        witness.tell(Role::Primary, Teller::Mechanism);
        assert_eq!(look(&mut witness, true, 2, now + CONTRADICTION), told(Role::Primary));
        // The other way round it is told, and the verdict says that the addresses are missing.
        assert_eq!(look(&mut witness, true, 0, now + FOREVER), told(Role::Primary));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn an_operator_needs_no_fifo() {
        let now = Instant::now();
        for fifo in [true, false] {
            let mut witness = Witness::new(fifo, None, now);
            assert_eq!(look(&mut witness, false, 0, now), UNKNOWN);
            witness.tell(Role::Primary, Teller::Operator);
            assert_eq!(look(&mut witness, false, 0, now + FOREVER), told(Role::Primary));
        }
    }
}
