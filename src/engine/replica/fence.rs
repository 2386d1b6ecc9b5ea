//! The fence: the work between "you are primary" and "every known entry is installed", in its two halves.
//! [`Opening`]: a peer that still talks is asked for its last changes. [`Closing`]: the group is claimed, and
//! what is pending is installed.
//!
//! Owned by `ownership`, driven by `takeover`. No table, no clock.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::wire::Incarnation;

/// Between two flush requests.
const FLUSH_AGAIN: Duration = Duration::from_millis(20);
/// Who is ahead is waited for while what it has comes, for so long at most.
const LONGEST: Duration = Duration::from_secs(2);

/// The first half: before the claim.
#[derive(Debug)]
pub(super) struct Opening {
    started: Instant,
    /// A peer still talks: its last changes are asked for.
    flush: Option<Flush>,
}

#[derive(Debug)]
struct Flush {
    to: Incarnation,
    token: u32,
    again: Instant,
    deadline: Instant,
    /// A peer that has not been heard at all by then, asked twice, is dead: a living one answers at once.
    unheard: Instant,
    asked: u32,
    /// The owner's last sequence number, once it has answered.
    until: Option<u64>,
}

/// What the claim waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing.
    Claim,
    /// The peer's last changes.
    Wait,
    /// The same; this run is asked for them (again), with this token.
    Ask(Incarnation, u32),
}

impl Opening {
    /// Begins now. `owner` still talks, is asked with this number, and is waited for so long at most.
    pub(super) fn new(owner: Option<Incarnation>, token: u32, wait: Duration, now: Instant) -> Opening {
        let flush = |to| Flush {
            to,
            token,
            again: now,
            deadline: now + wait,
            unheard: now + wait / 4,
            asked: 0,
            until: None,
        };
        Opening { started: now, flush: owner.map(flush) }
    }

    /// When it goes on.
    pub(super) fn next_step(&self, now: Instant) -> Instant {
        self.flush.as_ref().map_or(now + FLUSH_AGAIN, |flush| {
            let times = [flush.again, flush.deadline, flush.unheard];
            // What is past waits for something else: a dump, or the peer's datagrams.
            times.into_iter().filter(|at| *at > now).min().unwrap_or(now + FLUSH_AGAIN)
        })
    }

    /// A run answered a flush with its last sequence number. Only the one that was asked can (N7).
    pub(super) fn answered(&mut self, run: Incarnation, token: u32, last: u64) {
        let asked = |flush: &&mut Flush| flush.to == run && flush.token == token;
        if let Some(flush) = self.flush.as_mut().filter(asked) {
            flush.until = Some(last);
        }
    }

    /// What is to be done now. `expected` is the number that comes next of the owner's stream; `heard` tells
    /// when a run was last heard.
    pub(super) fn step(
        &mut self,
        expected: Option<u64>,
        heard: impl Fn(Incarnation) -> Option<Instant>,
        now: Instant,
    ) -> Step {
        let started = self.started;
        let Some(flush) = &mut self.flush else { return Step::Claim };
        if now >= flush.unheard && flush.asked >= 2 && heard(flush.to).is_none_or(|at| at <= started) {
            return Step::Claim;
        }
        let arrived = flush.until.is_some_and(|until| expected.is_some_and(|next| next > until));
        if arrived || now >= flush.deadline {
            return Step::Claim;
        }
        if flush.until.is_none() && now >= flush.again {
            flush.again = now + FLUSH_AGAIN;
            flush.asked += 1;
            return Step::Ask(flush.to, flush.token);
        }
        Step::Wait
    }

    /// The group is claimed.
    pub(super) fn close(self, at: Claimed, now: Instant) -> Closing {
        let flushed = self.flush.map_or(Duration::ZERO, |_| now.saturating_duration_since(self.started));
        Closing { started: self.started, flushed, claimed: now, progressed: (at.taken, now), at }
    }
}

/// How things stood at the claim.
#[derive(Debug)]
pub(super) struct Claimed {
    /// Entries that were not in the kernel yet.
    pub(super) pending: usize,
    /// Entries that it refused.
    pub(super) failed: usize,
    /// So many were refused for which reason, ever.
    pub(super) failures: [u64; Failure::ALL.len()],
    /// Offers taken, ever.
    pub(super) taken: u64,
    /// Those that had got further in the last owner's stream: what they have is waited for, if they live.
    pub(super) ahead: Vec<Incarnation>,
    /// ... for so long without anything coming.
    pub(super) wait: Duration,
}

/// The second half: after the claim.
#[derive(Debug)]
pub(super) struct Closing {
    started: Instant,
    flushed: Duration,
    claimed: Instant,
    /// Offers taken, ever, and since when so many.
    progressed: (u64, Instant),
    at: Claimed,
}

impl Closing {
    /// So many offers have been taken, ever.
    pub(super) fn note_taken(&mut self, taken: u64, now: Instant) {
        if self.progressed.0 != taken {
            self.progressed = (taken, now);
        }
    }

    /// Whether somebody is waited for who is ahead; `settled` tells whether a run owes nothing any more, or
    /// lives no more.
    pub(super) fn waits(&self, settled: impl Fn(Incarnation) -> bool, now: Instant) -> bool {
        self.deadline().is_some_and(|at| now < at) && self.at.ahead.iter().any(|run| !settled(*run))
    }

    /// When it is not waited any longer, if it is.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadline = (self.progressed.1 + self.at.wait).min(self.claimed + LONGEST);
        (!self.at.ahead.is_empty()).then_some(deadline)
    }

    /// Everything is installed, or refused.
    pub(super) fn report(
        &self,
        held: usize,
        failed: usize,
        failures: [u64; Failure::ALL.len()],
        taken: u64,
        epoch: u64,
        now: Instant,
    ) -> FenceReport {
        let since = failures.iter().zip(self.at.failures).map(|(now, before)| now - before);
        let failures = Failure::ALL.iter().map(|reason| reason.word()).zip(since);
        FenceReport {
            held,
            pending: self.at.pending,
            taken: taken - self.at.taken,
            failed: failed.saturating_sub(self.at.failed),
            failures: failures.filter(|(_, count)| *count > 0).collect(),
            took: now.saturating_duration_since(self.started),
            flushed: self.flushed,
            epoch,
        }
    }
}

/// What a takeover did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FenceReport {
    /// Entries in the table.
    pub held: usize,
    /// Entries that were not yet in the kernel when the group was claimed.
    pub pending: usize,
    /// Entries that other backups had and this node lacked, taken before the fence was closed.
    pub taken: u64,
    /// Entries the kernel refused at the fence.
    pub failed: usize,
    /// Of these, and of what was installed without a part that this kernel does not take: how many for which
    /// reason.
    #[serde(serialize_with = "by_reason")]
    pub failures: Vec<(&'static str, u64)>,
    /// From hearing "primary" to the last entry installed.
    #[serde(rename = "microseconds", serialize_with = "microseconds")]
    pub took: Duration,
    /// Of these, waiting for a peer that still talked.
    #[serde(rename = "flush-microseconds", serialize_with = "microseconds")]
    pub flushed: Duration,
    /// The claim's epoch.
    pub epoch: u64,
}

impl FenceReport {
    /// The group was owned here already: nothing was to be done.
    pub(super) fn nothing_to_do(held: usize, epoch: u64) -> FenceReport {
        let (took, flushed) = (Duration::ZERO, Duration::ZERO);
        FenceReport { held, pending: 0, taken: 0, failed: 0, failures: Vec::new(), took, flushed, epoch }
    }
}

fn by_reason<S: serde::Serializer>(
    failures: &[(&'static str, u64)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(failures.iter().copied())
}

fn microseconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(400);
    const OWNER: Incarnation = Incarnation(7);

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_silent_peer_is_not_waited_for_and_a_talking_one_no_longer_than_it_takes() {
        let now = Instant::now();
        assert_eq!(Opening::new(None, 1, WAIT, now).step(None, |_| None, now), Step::Claim, "nobody talks");

        let mut dead = Opening::new(Some(OWNER), 1, WAIT, now);
        assert_eq!(dead.step(Some(5), |_| Some(now), now), Step::Ask(OWNER, 1));
        assert_eq!(dead.step(Some(5), |_| Some(now), now), Step::Wait, "asked a moment ago");
        assert_eq!(dead.next_step(now), now + FLUSH_AGAIN);
        assert_eq!(dead.step(Some(5), |_| Some(now), now + FLUSH_AGAIN), Step::Ask(OWNER, 1));
        assert_eq!(
            dead.step(Some(5), |_| Some(now), now + WAIT / 4),
            Step::Claim,
            "asked twice, and not heard"
        );

        let mut living = Opening::new(Some(OWNER), 2, WAIT, now);
        let heard = now + Duration::from_millis(1);
        assert_eq!(living.step(Some(5), |_| Some(heard), heard), Step::Ask(OWNER, 2));
        living.answered(OWNER, 1, 3);
        living.answered(Incarnation(8), 2, 3);
        assert_eq!(
            living.step(Some(5), |_| Some(heard), heard),
            Step::Wait,
            "another question, and not who was asked"
        );
        living.answered(OWNER, 2, 6);
        assert_eq!(living.step(Some(6), |_| Some(heard), now + WAIT / 4), Step::Wait, "one is missing");
        assert_eq!(living.step(Some(7), |_| Some(heard), now + WAIT / 4), Step::Claim, "all have arrived");
        assert_eq!(
            living.step(Some(6), |_| Some(heard), now + WAIT),
            Step::Claim,
            "for ever it is not waited"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_report_counts_what_happened_between_claim_and_close() {
        let now = Instant::now();
        let mut failures = [0; Failure::ALL.len()];
        failures[0] = 3;
        let ahead = vec![Incarnation(9)];
        let at = Claimed { pending: 40, failed: 2, failures, taken: 3, ahead, wait: WAIT };
        let mut closing = Opening::new(Some(OWNER), 1, WAIT, now).close(at, now + WAIT);
        assert!(closing.waits(|_| false, now + WAIT), "who is ahead has something to offer");
        assert!(!closing.waits(|run| run == Incarnation(9), now + WAIT), "no more");
        assert!(!closing.waits(|_| false, now + 2 * WAIT), "for ever it is not waited");
        assert_eq!(closing.deadline(), Some(now + 2 * WAIT));
        closing.note_taken(3, now + 2 * WAIT);
        assert_eq!(closing.deadline(), Some(now + 2 * WAIT), "nothing has come");
        closing.note_taken(4, now + 2 * WAIT);
        assert!(closing.waits(|_| false, now + 2 * WAIT) && closing.deadline() == Some(now + 3 * WAIT));
        closing.note_taken(5, now + WAIT + LONGEST);
        assert_eq!(closing.deadline(), Some(now + WAIT + LONGEST), "not for ever");
        failures[0] = 5;
        failures[2] = 1;
        let report = closing.report(100, 5, failures, 7, 9, now + 2 * WAIT);
        assert_eq!((report.held, report.pending, report.failed, report.epoch), (100, 40, 3, 9));
        assert_eq!(report.taken, 4);
        assert_eq!(report.failures, [(Failure::ALL[0].word(), 2), (Failure::ALL[2].word(), 1)]);
        assert_eq!((report.flushed, report.took), (WAIT, 2 * WAIT));
    }
}
