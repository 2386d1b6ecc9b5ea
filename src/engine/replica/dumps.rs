//! Readings of the kernel's table: which is due, which is under way, and what they are for; and whether the
//! kernel's new entries are heard of between them.
//!
//! Also the turns in which events are read, on which both depend. Owned by the replica; `events` puts what a
//! dump lists into the table, `subscription` says when new entries are wanted. No table, no clock.

/// Why the kernel's table is read. The greater covers the lesser.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Purpose {
    /// New entries were not heard of: what a look finds is only added to what is known.
    Look,
    /// What is known of the kernel depends on it: events were lost, rules changed, a sweep.
    Whole,
}

/// What is being read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing is to be read.
    Rest,
    /// To be begun when all events have been read (6).
    Due(Purpose),
    /// Being read; then another one is due, if so.
    UnderWay { purpose: Purpose, then: Option<Purpose> },
}

/// The turns in which the event socket is read: what is asked of the kernel in one has no order with the
/// events that are read before it is empty again (8).
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns {
    /// It has been read empty, and nothing has come since.
    all_read: bool,
    now: u32,
}

impl Turns {
    const fn new() -> Turns {
        Turns { all_read: false, now: 1 }
    }

    pub(super) fn note_empty(&mut self) {
        self.all_read = true;
        self.now = self.now.wrapping_add(1).max(1);
    }

    pub(super) fn note_waiting(&mut self) {
        self.all_read = false;
    }

    pub(super) fn all_read(self) -> bool {
        self.all_read
    }

    /// Never 0.
    pub(super) fn now(self) -> u32 {
        self.now
    }
}

/// All dumps of a run.
#[derive(Debug)]
pub(super) struct Dumps {
    /// None begins before all events have been read (6).
    pub(super) turns: Turns,
    state: State,
    /// The last one begun; 0 before the first.
    number: u32,
    /// The first is complete: what the kernel holds is known.
    known: bool,
    /// New entries of this kernel have not been heard of since its last dump.
    unsubscribed: bool,
    /// One that was due at a yield is judged as the owner's (9), until it is complete.
    late: bool,
}

impl Dumps {
    /// A run begins with one.
    pub(super) fn new() -> Dumps {
        let (turns, state) = (Turns::new(), State::Due(Purpose::Whole));
        Dumps { turns, state, number: 0, known: false, unsubscribed: false, late: false }
    }

    /// One is due.
    pub(super) fn want(&mut self, purpose: Purpose) {
        self.state = match self.state {
            State::Rest => State::Due(purpose),
            State::Due(other) => State::Due(other.max(purpose)),
            State::UnderWay { purpose: other, then } => {
                State::UnderWay { purpose: other, then: then.max(Some(purpose)) }
            }
        };
    }

    /// Whatever is due may begin now. True: it has begun.
    pub(super) fn begin(&mut self) -> bool {
        let State::Due(purpose) = self.state else { return false };
        self.state = State::UnderWay { purpose, then: None };
        self.number = self.number.wrapping_add(1).max(1);
        true
    }

    /// The one under way has ended; one that failed is due again, for what it was for. False: none was under
    /// way.
    pub(super) fn end(&mut self, ok: bool) -> bool {
        let State::UnderWay { purpose, then } = self.state else { return false };
        let due = if ok { then } else { then.max(Some(purpose)) };
        self.state = due.map_or(State::Rest, State::Due);
        if ok {
            self.known = true;
            self.late &= self.state != State::Rest;
        }
        true
    }

    /// The one under way: what was heard or asked since is newer than what it lists (7).
    pub(super) fn under_way(&self) -> Option<u32> {
        matches!(self.state, State::UnderWay { .. }).then_some(self.number)
    }

    /// The one under way, or the last one.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// What the kernel holds is known: nothing is said, heard or asked before (10).
    pub(super) fn known(&self) -> bool {
        self.known
    }

    /// Any is due or under way.
    pub(super) fn resyncing(&self) -> bool {
        self.state != State::Rest
    }

    fn is_for(&self, wanted: Purpose) -> bool {
        match self.state {
            State::Rest => false,
            State::Due(purpose) => purpose == wanted,
            State::UnderWay { purpose, then } => purpose == wanted || then == Some(wanted),
        }
    }

    /// One is due or under way that what is known of the kernel depends on. What a look finds is only added
    /// to it: a claim does not wait for that.
    pub(super) fn must(&self) -> bool {
        self.is_for(Purpose::Whole)
    }

    /// New entries may be in this kernel that nobody has heard of.
    pub(super) fn may_lack(&self) -> bool {
        self.unsubscribed || self.is_for(Purpose::Look)
    }

    /// Events of new entries have not come since the last dump.
    pub(super) fn unsubscribed(&self) -> bool {
        self.unsubscribed
    }

    /// What a dump finds that was due at a yield is offered.
    pub(super) fn late(&self) -> bool {
        self.late
    }

    /// Events of new entries do not come from now on.
    pub(super) fn unsubscribe(&mut self) {
        self.unsubscribed = true;
    }

    /// Events of new entries come from now on: a look is due, for those that did not.
    pub(super) fn subscribe(&mut self) {
        self.unsubscribed = false;
        self.want(Purpose::Look);
    }

    /// A claim: a look has judged a part of the kernel in the old role. Once more, after the fence.
    pub(super) fn look_after_the_fence(&mut self) {
        self.unsubscribed = self.may_lack();
        self.state = match self.state {
            State::Due(Purpose::Look) => State::Rest,
            State::UnderWay { purpose, then: Some(Purpose::Look) } => State::UnderWay { purpose, then: None },
            state => state,
        };
    }

    /// A yield: what packets made here while the group was owned is offered, too, and what is due now is
    /// judged as the owner's (9).
    pub(super) fn judge_as_the_owner(&mut self) {
        if self.unsubscribed {
            self.want(Purpose::Look);
        }
        self.late = self.resyncing();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each input makes of each state; `-`: it changes nothing. An ended dump's state is told after a
    /// good and a bad end.
    const TABLE: &str = "
        state        | want look   | want whole  | begin | good  | bad   | claim
        rest         | look        | whole       | -     | -     | -     | -
        look         | -           | whole       | look> | -     | -     | rest
        whole        | -           | -           | whole>| -     | -     | -
        look>        | look>look   | look>whole  | -     | rest  | look  | -
        look>look    | -           | look>whole  | -     | look  | look  | look>
        look>whole   | -           | -           | -     | whole | whole | -
        whole>       | whole>look  | whole>whole | -     | rest  | whole | -
        whole>look   | -           | whole>whole | -     | look  | whole | whole>
        whole>whole  | -           | -           | -     | whole | whole | -";

    fn purpose(word: &str) -> Option<Purpose> {
        match word {
            "look" => Some(Purpose::Look),
            "whole" => Some(Purpose::Whole),
            _ => None,
        }
    }

    fn state(word: &str) -> State {
        match word.split_once('>') {
            Some((purpose_word, then)) => {
                State::UnderWay { purpose: purpose(purpose_word).unwrap(), then: purpose(then) }
            }
            None => purpose(word).map_or(State::Rest, State::Due),
        }
    }

    fn apply(input: &str, dumps: &mut Dumps) -> bool {
        match input {
            "want look" => dumps.want(Purpose::Look),
            "want whole" => dumps.want(Purpose::Whole),
            "begin" => return dumps.begin(),
            "good" => return dumps.end(true),
            "bad" => return dumps.end(false),
            "claim" => dumps.look_after_the_fence(),
            input => panic!("{input}"),
        }
        true
    }

    #[test]
    fn every_input_in_every_state() {
        let mut rows = TABLE.trim().lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let inputs = rows.next().unwrap();
        let (mut states, mut pairs) = (Vec::new(), 0);
        for row in rows {
            states.push(state(row[0]));
            for (input, wanted) in inputs.iter().zip(&row).skip(1) {
                let before = state(row[0]);
                let mut dumps = Dumps { state: before, ..Dumps::new() };
                let took = apply(input, &mut dumps);
                let wanted = if *wanted == "-" { before } else { state(wanted) };
                assert_eq!(dumps.state, wanted, "{input} in {}", row[0]);
                let may = match *input {
                    "begin" => matches!(before, State::Due(_)),
                    "good" | "bad" => matches!(before, State::UnderWay { .. }),
                    _ => true,
                };
                assert_eq!(took, may, "{input} in {}", row[0]);
                pairs += 1;
            }
        }
        assert_eq!((states.len(), pairs), (9, 54), "every state, every input");
        assert!(states.iter().all(|state| states.iter().filter(|other| *other == state).count() == 1));
    }

    #[test]
    fn what_is_known_depends_on_whole_dumps_alone() {
        let mut dumps = Dumps::new();
        assert!(dumps.must() && !dumps.known() && dumps.under_way().is_none());
        assert!(dumps.begin() && dumps.under_way() == Some(1) && dumps.must());
        assert!(dumps.end(false) && !dumps.known() && dumps.must(), "it failed");
        assert!(dumps.begin() && dumps.end(true) && dumps.known() && !dumps.must() && !dumps.resyncing());
        dumps.unsubscribe();
        assert!(dumps.may_lack() && !dumps.must());
        dumps.subscribe();
        assert!(!dumps.unsubscribed() && dumps.may_lack() && dumps.resyncing() && !dumps.must());
        dumps.judge_as_the_owner();
        assert!(dumps.late() && dumps.begin() && dumps.late());
        assert!(dumps.end(true) && !dumps.late() && !dumps.may_lack());
    }
}
