//! One failover group of this node: its engine, who tells its role, what of it outlives the daemon, what became of it.
//!
//! Each group has a whole engine of its own, with its own table, stream, epoch and digest; they share the daemon's
//! sockets. An entry is in one group only. Called by the daemon's loop.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::operator::verdict;
use super::{DaemonError, clock, local_time, rfc3339, start};
use crate::addresses::Held;
use crate::config::{Config, FurtherGroup, Mechanism};
use crate::control::Reply;
use crate::replica::{Compared, FenceReport, Replica, Role};
use crate::role::TrackFile;
use crate::runstate::RunState;
use crate::seal::Key;

/// Transitions that are remembered.
const TRANSITIONS: usize = 16;

/// Who told a role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cause {
    /// A line in the notify FIFO.
    Keepalived,
    /// keepalived closed its FIFO.
    KeepalivedGone,
    /// `ctsync notify`: a script, a cluster's agent, the operator.
    Notify,
    /// Virtual addresses came, went, or their interface did.
    Address,
}

impl Cause {
    fn word(self) -> &'static str {
        match self {
            Cause::Keepalived => "keepalived said so",
            Cause::KeepalivedGone => "keepalived is gone",
            Cause::Notify => "ctsync notify",
            Cause::Address => "the virtual addresses",
        }
    }
}

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
    /// What the last comparison with the peer found.
    pub compared: Option<Compared>,
    /// Roles told and not yet taken.
    told: VecDeque<(Role, Cause)>,
    /// When the role became primary, until the fence that follows is reported.
    told_primary: Option<Instant>,
    /// Role, ownership and readiness as last logged.
    pub shown: Option<(Role, bool, &'static str)>,
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
    pub fn open(common: &Common<'_>, further: Option<&FurtherGroup>) -> Result<Group, DaemonError> {
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
        let mut settings = start::settings(config, *mtu, &state)?;
        settings.node_group = further.map_or(config.node_group, |group| start::group_number(config, group));
        settings.restored.role = start::check_role(&mechanism, settings.restored.role, held);
        settings.keys = keys.to_vec();
        let local = held.iter().map(|held| held.address).collect();
        Ok(Group {
            name,
            mechanism,
            replica: Replica::new(settings, start::filter(config, local), clock()),
            state,
            track,
            last_fence: None,
            transitions: VecDeque::new(),
            transitions_by_role: [0; Role::ALL.len()],
            compared: None,
            told: VecDeque::new(),
            told_primary: None,
            shown: None,
        })
    }

    /// Somebody says what the role is; taken in the next turn, after channel and event socket have been read: what was
    /// received counts.
    pub fn tell(&mut self, role: Role, cause: Cause) {
        self.told.push_back((role, cause));
    }

    /// Whether an operator or a script means this group.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.mechanism.group() == name
    }

    /// What `notify` is answered, once the role is taken and a takeover complete.
    pub fn answer_notify(&self, role: Role) -> Option<Reply> {
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
    pub fn status(&self, now: Instant) -> Value {
        let view = self.replica.view(now);
        json!({
            "group": self.name,
            "verdict": verdict(&view),
            "failover-mechanism": self.mechanism.told(),
            "mechanism-group": self.mechanism.group(),
            "owner": self.replica.owner_name(),
            "last-transition": self.state.transition(),
            "last-transition-at": self.state.transition_at(),
            "transitions": self.transitions,
            "last-fence": self.last_fence,
            "overruns": self.replica.counters().overruns,
            "state": view,
        })
    }

    /// The mechanism `vip`: the addresses tell the role.
    pub fn look_at_addresses(&mut self, held: &[Held]) {
        let Mechanism::Vip { address, interface, any, .. } = &self.mechanism else { return };
        let role = role_by_address(address, interface.as_deref(), *any, held);
        let last = self.told.back().map_or(self.replica.role(), |(role, _)| *role);
        if role != last {
            self.tell(role, Cause::Address);
        }
    }

    /// Take the roles told. Channel and event socket have been read in this turn.
    pub fn take_roles(&mut self, now: Instant) {
        while let Some((role, cause)) = self.told.pop_front() {
            let before = self.replica.role();
            if role != before {
                tracing::info!(
                    group = self.name,
                    from = before.word(),
                    to = role.word(),
                    "role: {}",
                    cause.word()
                );
                if let Some(count) = self.transitions_by_role.get_mut(role as usize) {
                    *count += 1;
                }
                let at = rfc3339();
                self.state.note_transition(role, &local_time(), &at);
                if self.transitions.len() == TRANSITIONS {
                    self.transitions.pop_front();
                }
                let (from, to) = (before.word(), role.word());
                self.transitions.push_back(Transition { at, from, to, cause, fence: None });
            }
            if role == Role::Primary {
                self.told_primary = Some(clock());
            }
            self.replica.handle_role(role, now);
        }
    }

    /// Log finished takeovers; how long each took.
    pub fn report_fences(&mut self) -> Vec<Duration> {
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
                milliseconds = report.took.as_secs_f64() * 1e3,
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

/// Primary while the addresses are here, on an interface that works: FRR's vrrpd leaves a backup its address and takes
/// the interface down.
fn role_by_address(wanted: &[std::net::IpAddr], interface: Option<&str>, any: bool, held: &[Held]) -> Role {
    let here = |address: &std::net::IpAddr| {
        held.iter().any(|held| {
            held.address == *address
                && held.works
                && interface.is_none_or(|interface| held.interface == interface)
        })
    };
    let primary = if any { wanted.iter().any(here) } else { wanted.iter().all(here) };
    if primary { Role::Primary } else { Role::Backup }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_where_its_interface_works() {
        let held = |address: &str, interface: &str, works| Held {
            address: address.parse().unwrap(),
            interface: interface.to_owned(),
            works,
        };
        let wanted: Vec<std::net::IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let both = [held("10.0.0.1", "vrrp4", true), held("fd00::1", "vrrp6", true)];
        let one = [held("10.0.0.1", "vrrp4", true), held("fd00::1", "vrrp6", false)];
        for (interface, any, held, role) in [
            (None, false, &both[..], Role::Primary),
            (None, false, &one, Role::Backup),
            (None, true, &one, Role::Primary),
            (Some("vrrp4"), true, &one, Role::Primary),
            (Some("vrrp6"), true, &one, Role::Backup),
            (Some("vrrp4"), false, &both, Role::Backup),
            (None, true, &[], Role::Backup),
        ] {
            assert_eq!(role_by_address(&wanted, interface, any, held), role, "{interface:?} any {any}");
        }
    }
}
