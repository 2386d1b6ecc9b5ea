//! One failover group of this node: its engine, who tells its role, what of it outlives the daemon, what
//! became of it.
//!
//! Each group has a whole engine of its own, with its own table, stream, epoch and digest; they share the
//! daemon's sockets. An entry is in one group only. Who is believed about its role is the witness's affair,
//! whether it is protected the judge's. Called by the daemon's loop.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::aside::Aside;
use super::trouble::Trouble;
use super::{DaemonError, clock, local_time, rfc3339, start};
use crate::config::{self, Config, FurtherGroup, Mechanism};
use crate::control::Reply;
use crate::engine::facts::{Evidence, Mover};
use crate::engine::replica::{Compared, FenceReport, Replica, Role};
use crate::engine::seal::Key;
use crate::engine::verdict::{Around, Judge, Verdict};
use crate::engine::witness::{Belief, Teller, Witness};
use crate::io::addresses::Held;
use crate::io::role::TrackFile;
use crate::io::runstate::RunState;

/// Transitions that are remembered.
const TRANSITIONS: usize = 16;

/// Who told a role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cause {
    /// A line in the notify FIFO.
    Keepalived,
    /// keepalived closed its FIFO and did not open it again.
    KeepalivedGone,
    /// `ctsync notify`: a script, a cluster's agent, the operator.
    Notify,
    /// Virtual addresses came, went, or their interface did; or the role was never told, or they contradict
    /// it.
    Address,
    /// Nobody tells any more, and the addresses show nothing.
    Nobody,
}

impl Cause {
    fn word(self) -> &'static str {
        match self {
            Cause::Keepalived => "keepalived said so",
            Cause::KeepalivedGone => "keepalived is gone",
            Cause::Notify => "ctsync notify",
            Cause::Address => "the virtual addresses show it",
            Cause::Nobody => "nobody tells, and the virtual addresses show nothing",
        }
    }

    fn teller(self) -> Teller {
        if self == Cause::Notify { Teller::Operator } else { Teller::Mechanism }
    }
}

/// Between two tries of what does not work.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two judgements that nobody asked for.
const JUDGED: Duration = Duration::from_millis(100);

/// A change of the role, and what came of it.
#[derive(Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Transition {
    /// RFC 3339.
    at: String,
    from: &'static str,
    to: &'static str,
    cause: Cause,
    /// The takeover that it began, once that is complete.
    #[serde(flatten)]
    fence: Option<FenceReport>,
}

/// The last takeover, and when it was complete.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LastFence {
    #[serde(flatten)]
    report: FenceReport,
    /// RFC 3339.
    closed_at: String,
}

/// A failover group.
pub(super) struct Group {
    /// Its name; that of the first group is its mechanism's.
    pub name: String,
    pub mechanism: Mechanism,
    pub replica: Replica,
    pub state: RunState,
    pub track: Option<TrackFile>,
    pub last_fence: Option<LastFence>,
    pub transitions: VecDeque<Transition>,
    /// Transitions since start, by the role that they led to.
    pub transitions_by_role: [u64; Role::ALL.len()],
    /// What the last comparison found, with each peer.
    pub compared: Vec<Compared>,
    pub(super) aside: Aside,
    /// Roles told and not yet taken.
    told: VecDeque<(Role, Cause)>,
    witness: Witness,
    believed: Belief,
    /// The addresses that a failover of the group moves, as far as is known.
    pub virtual_addresses: Vec<IpAddr>,
    judged_by: Judge,
    verdict: Verdict,
    judged: Instant,
    /// What keeps the election from hearing of readiness, and what keeps `/run` from being written.
    pub track_trouble: Trouble,
    state_trouble: Trouble,
    /// When what does not work was last tried.
    tried: Instant,
    /// When the role became primary, until the fence that follows is reported.
    told_primary: Option<Instant>,
    /// Ownership and readiness as last logged.
    shown: Option<(bool, &'static str)>,
    /// The verdict as last logged.
    shown_verdict: Option<(bool, String)>,
}

/// What all groups of a daemon have in common.
pub(super) struct Common<'a> {
    pub config: &'a Config,
    pub mtu: usize,
    pub held: &'a [Held],
    pub keys: &'a [Key],
}

impl Group {
    /// The group that every configuration has, or a further one.
    pub(super) fn open(common: &Common<'_>, further: Option<&FurtherGroup>) -> Result<Group, DaemonError> {
        let Common { config, mtu, held, keys } = common;
        let mechanism = further.map_or(&config.mechanism, |group| &group.mechanism).clone();
        let name = further.map_or(mechanism.group(), |group| &group.name).to_owned();
        let file =
            further.map_or("state.json".to_owned(), |group| format!("state-{}.json", group.file_name()));
        let state = RunState::open(&config.state_directory, &file);
        let track = match &mechanism {
            Mechanism::Vrrp { track_file, .. } => Some(TrackFile::new(track_file)),
            Mechanism::Cluster { .. } | Mechanism::Vip { .. } | Mechanism::Manual { .. } => None,
        };
        let now = clock();
        let mut settings = start::settings(config, *mtu, &state)?;
        settings.node_group = further.map_or(config.node_group, |group| start::group_number(config, group));
        settings.mechanism_group = mechanism.identity();
        settings.keys = keys.to_vec();
        let virtual_addresses = known_addresses(&mechanism);
        let mut witness = Witness::new(mechanism.notify_fifo().is_some(), settings.kept.role, now);
        let (known, here) = count_here(&mechanism, &virtual_addresses, held);
        witness.note_addresses(known, here);
        let believed = witness.judge(now);
        let told = believed.evidence == Evidence::Told;
        settings.kept.role = told.then_some(believed.role);
        let local = held.iter().map(|held| held.address).collect();
        let mut replica = Replica::new(settings, start::filter(config, local), now);
        if believed.evidence == Evidence::Addresses {
            tracing::warn!(
                group = name,
                role = believed.role.word(),
                "role: the virtual addresses show it, and nobody has told"
            );
            replica.suppose_role(believed.role, now);
        }
        replica.set_virtual_addresses(virtual_addresses.iter().copied().collect());
        Ok(Group {
            name,
            mechanism,
            replica,
            state,
            track,
            last_fence: None,
            transitions: VecDeque::new(),
            transitions_by_role: [0; Role::ALL.len()],
            compared: Vec::new(),
            aside: Aside::No,
            told: VecDeque::new(),
            witness,
            believed,
            virtual_addresses,
            judged_by: Judge::default(),
            verdict: Verdict::default(),
            judged: now,
            track_trouble: Trouble::default(),
            state_trouble: Trouble::default(),
            tried: now,
            told_primary: None,
            shown: None,
            shown_verdict: None,
        })
    }

    /// Somebody says what the role is; taken in the next turn, after channel and event socket have been read:
    /// what was received counts.
    pub(super) fn tell(&mut self, role: Role, cause: Cause) {
        self.told.push_back((role, cause));
    }

    /// Whether an operator or a script means this group.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name == name || self.mechanism.group() == name
    }

    /// What `notify` is answered, once the role is taken and a takeover complete.
    pub(super) fn answer_notify(&self, role: Role) -> Option<Reply> {
        if !self.told.is_empty() {
            return None;
        }
        if self.replica.role() != role {
            return Some(Reply::Error("another role was told meanwhile".into()));
        }
        let done = role != Role::Primary || (self.replica.owner() && !self.replica.fencing());
        done.then(|| Reply::Ok(json!(self.last_fence)))
    }

    /// What `status` shows of the group.
    pub(super) fn status(&mut self, around: &Around, now: Instant) -> Value {
        let verdict = self.judge(around, now);
        let mut state = json!(self.replica.view(now));
        // Where it was before the verdict had reasons.
        if let Some(state) = state.as_object_mut() {
            state.insert("protected".into(), json!(verdict.protected));
        }
        json!({
            "group": self.name,
            "verdict": verdict.verdict,
            "protected": verdict.protected,
            "reasons": verdict.reasons,
            "backups": verdict.backups,
            "aside": self.aside.word(),
            "failover-mechanism": self.mechanism.told(),
            "mechanism-group": self.mechanism.group(),
            "owner": self.replica.owner_name(),
            "last-transition": self.state.transition(),
            "last-transition-at": self.state.transition_at(),
            "transitions": self.transitions,
            "last-fence": self.last_fence,
            "overruns": self.replica.counters().overruns,
            "state": state,
        })
    }

    /// Addresses or links changed, or may have.
    pub(super) fn look_at_addresses(&mut self, held: &[Held]) {
        let local: Vec<IpAddr> = held.iter().map(|held| held.address).collect();
        self.replica.handle_addresses(local.into_iter().collect());
        let (known, here) = count_here(&self.mechanism, &self.virtual_addresses, held);
        self.witness.note_addresses(known, here);
        if let Mechanism::Vip { .. } = &self.mechanism {
            let role = if here == known { Role::Primary } else { Role::Backup };
            let last = self.told.back().map_or(self.replica.role(), |(role, _)| *role);
            if role != last {
                self.tell(role, Cause::Address);
            }
        }
    }

    /// keepalived's configuration may name other addresses than before.
    pub(super) fn look_at_mechanism(&mut self) {
        let known = known_addresses(&self.mechanism);
        if known != self.virtual_addresses {
            self.replica.set_virtual_addresses(known.iter().copied().collect());
            self.virtual_addresses = known;
        }
    }

    /// Whether somebody holds keepalived's FIFO open.
    pub(super) fn note_fifo(&mut self, held: bool, now: Instant) {
        self.witness.note_fifo(held, now);
    }

    /// keepalived's FIFO was replaced under it.
    pub(super) fn note_fifo_replaced(&mut self) {
        self.witness.note_replaced();
    }

    /// Take the roles told, or what is to be believed without. Channel and event socket have been read in
    /// this turn.
    pub(super) fn take_roles(&mut self, now: Instant) {
        while let Some((role, cause)) = self.told.pop_front() {
            self.witness.tell(role, cause.teller());
            self.take_role(Belief { role, evidence: Evidence::Told }, cause, now);
        }
        let belief = self.witness.judge(now);
        if belief != self.believed {
            let gone = self.witness.seat(belief.evidence).mover == Mover::Absent;
            let cause = match belief.evidence {
                Evidence::Addresses => Cause::Address,
                Evidence::Nobody if gone => Cause::KeepalivedGone,
                Evidence::Told | Evidence::Nobody => Cause::Nobody,
            };
            self.take_role(belief, cause, now);
        }
        self.replica.set_seat(self.witness.seat(self.believed.evidence), now);
    }

    fn take_role(&mut self, belief: Belief, cause: Cause, now: Instant) {
        let Belief { role, evidence } = belief;
        let before = self.replica.role();
        if role != before {
            let (from, to) = (before.word(), role.word());
            if evidence == Evidence::Told {
                tracing::info!(group = self.name, from, to, "role: {}", cause.word());
            } else {
                tracing::warn!(group = self.name, from, to, "role: {}", cause.word());
            }
            if let Some(count) = self.transitions_by_role.get_mut(role as usize) {
                *count += 1;
            }
            let at = rfc3339();
            self.state.note_transition(role, &local_time(), &at);
            if self.transitions.len() == TRANSITIONS {
                self.transitions.pop_front();
            }
            self.transitions.push_back(Transition { at, from, to, cause, fence: None });
        }
        self.believed = belief;
        if role == Role::Primary {
            self.told_primary = Some(clock());
        }
        if evidence == Evidence::Addresses {
            self.replica.suppose_role(role, now);
        } else {
            self.replica.handle_role(role, now);
        }
    }

    /// The verdict as last judged.
    pub(super) fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Whether the last judgement is older than a moment.
    pub(super) fn is_judgement_due(&self, now: Instant) -> bool {
        now >= self.judged + JUDGED
    }

    /// Would a failover now lose something? The log is told when the verdict changes.
    pub(super) fn judge(&mut self, around: &Around, now: Instant) -> Verdict {
        self.judged = now;
        self.verdict = self.judged_by.judge(&self.replica.view(now), around, now);
        let Verdict { verdict, protected, reasons, .. } = &self.verdict;
        // Another number in the same sentence is no news.
        let kind = verdict.replace(|letter: char| letter.is_ascii_digit() || letter == '.', "");
        let shown = (*protected, kind);
        if self.shown_verdict.as_ref() != Some(&shown) {
            let cures: Vec<&str> = reasons.iter().map(|reason| reason.finding.cure.as_str()).collect();
            match protected {
                true => tracing::info!(group = self.name, "{verdict}"),
                false => tracing::warn!(group = self.name, "{verdict} ({})", cures.join("; ")),
            }
            self.shown_verdict = Some(shown);
        }
        self.verdict.clone()
    }

    /// Tell the log, the track file and `/run` what changed. Whether this node is in step.
    pub(super) fn report(&mut self, now: Instant) -> bool {
        self.step_switch(now);
        let readiness = self.replica.readiness(now);
        let shown = (self.replica.owner(), readiness.word());
        if self.shown != Some(shown) {
            let name = &self.name;
            if self.shown.map(|(owner, _)| owner) == Some(shown.0) {
                tracing::debug!(group = name, "{}", shown.1);
            } else {
                let word =
                    if shown.0 { "this node owns the group" } else { "this node does not own the group" };
                tracing::info!(group = name, readiness = shown.1, "{word}");
            }
            self.shown = Some(shown);
        }
        // A full disk is not asked again in every turn.
        let again = now >= self.tried + AGAIN;
        if again {
            self.tried = now;
        }
        if let Some(track) = self.track.as_mut().filter(|_| again || self.track_trouble.why().is_none()) {
            let fit = self.replica.gate_open() && !self.aside.lowers();
            self.track_trouble.note(track.set(fit), "the election hears of readiness");
        }
        if again || self.state_trouble.why().is_none() {
            let kept = self.state.keep(self.replica.persist());
            self.state_trouble.note(kept, "the role is kept for the next run");
        }
        while let Some((peer, here)) = self.replica.poll_peer_change() {
            if here {
                tracing::info!(group = self.name, peer, "peer heard");
            } else {
                tracing::warn!(group = self.name, peer, "peer lost");
            }
        }
        readiness.in_step()
    }

    /// Log finished takeovers; how long each took.
    pub(super) fn report_fences(&mut self) -> Vec<Duration> {
        let mut all = Vec::new();
        while let Some(mut report) = self.replica.poll_fence_report() {
            // The turn's own clock stands still while the kernel works: what an operator waits for is this.
            report.took = self.told_primary.take().map_or(report.took, |told| clock() - told);
            let failures: Vec<String> =
                report.failures.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            tracing::info!(
                group = self.name,
                held = report.held,
                installed = report.pending.saturating_sub(report.failed),
                failed = report.failed,
                reasons = failures.join(", "),
                milliseconds = format!("{:.3}", report.took.as_secs_f64() * 1e3),
                epoch = report.epoch,
                "takeover complete"
            );
            all.push(report.took);
            let began_it = |transition: &&mut Transition| {
                transition.to == Role::Primary.word() && transition.fence.is_none()
            };
            if let Some(transition) = self.transitions.back_mut().filter(began_it) {
                transition.fence = Some(report.clone());
            }
            self.last_fence = Some(LastFence { report, closed_at: rfc3339() });
        }
        all
    }
}

/// The addresses that a failover moves: as configured, or as keepalived's own configuration has them.
fn known_addresses(mechanism: &Mechanism) -> Vec<IpAddr> {
    if let (true, Some(subject)) = (mechanism.addresses().is_empty(), mechanism.subject()) {
        let text = std::fs::read_to_string(config::KEEPALIVED_CONF).unwrap_or_default();
        return config::virtual_addresses(subject, &text);
    }
    mechanism.addresses().to_vec()
}

/// How many addresses are known, and how many of them are here. Of the mechanism `vip` only those count that
/// are on an interface that works: FRR's vrrpd leaves a backup its address and takes the interface down. One
/// is as good as all with `require any`.
fn count_here(mechanism: &Mechanism, known: &[IpAddr], held: &[Held]) -> (usize, usize) {
    let is_here = |address: &&IpAddr| {
        held.iter().filter(|held| held.address == **address).any(|held| match mechanism {
            Mechanism::Vip { interface, .. } => {
                held.works && interface.as_ref().is_none_or(|interface| held.interface == *interface)
            }
            _ => true,
        })
    };
    let here = known.iter().filter(is_here).count();
    match mechanism {
        Mechanism::Vip { any: true, .. } => (1, here.min(1)),
        _ => (known.len(), here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_where_its_interface_works() {
        let held = |address: &str, interface: &str, works| Held {
            address: address.parse().unwrap(),
            interface: interface.to_owned(),
            index: 1,
            works,
        };
        let wanted: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let both = [held("10.0.0.1", "vrrp4", true), held("fd00::1", "vrrp6", true)];
        let one = [held("10.0.0.1", "vrrp4", true), held("fd00::1", "vrrp6", false)];
        for (interface, any, held, counted) in [
            (None, false, &both[..], (2, 2)),
            (None, false, &one, (2, 1)),
            (None, true, &one, (1, 1)),
            (Some("vrrp4"), true, &one, (1, 1)),
            (Some("vrrp6"), true, &one, (1, 0)),
            (Some("vrrp4"), false, &both, (2, 1)),
            (None, true, &[], (1, 0)),
        ] {
            let mechanism = Mechanism::Vip {
                group: "vip".into(),
                address: wanted.clone(),
                interface: interface.map(str::to_owned),
                any,
            };
            assert_eq!(count_here(&mechanism, &wanted, held), counted, "{interface:?} any {any}");
        }
        // keepalived's are its own affair: an interface that is down has them all the same.
        let manual = Mechanism::Manual { group: "G".into(), virtual_address: wanted.clone() };
        assert_eq!(count_here(&manual, &wanted, &one), (2, 2));
    }
}
