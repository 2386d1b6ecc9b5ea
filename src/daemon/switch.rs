//! A planned move: this node stands aside, so that VRRP elects another one, and stays so until an operator, a
//! restart of the daemon or an election without anybody else ends it.
//!
//! Called by `operator` (asked for), `report` (goes on) and by the group for its track file. Only when it is
//! safe, unless it is forced: by the verdict, and by equal digests. What moves the addresses decides who
//! takes over; nothing here touches entries.

use std::time::{Duration, Instant};

use serde_json::json;

use super::aside::Aside;
use super::clock;
use super::group::Group;
use crate::config::Mechanism;
use crate::control::Reply;
use crate::engine::replica::Role;

/// Nobody has taken over for so long: this node may be elected again.
const GIVEN_UP: Duration = Duration::from_secs(30);

impl Group {
    /// An operator wants another node to take over, or, where this one stands aside, that it may again. A
    /// sentence if that is not done.
    pub(super) fn begin_switch(&mut self, to: Option<&str>, force: bool, now: Instant) -> Result<(), String> {
        if matches!(self.aside, Aside::Away(_)) && !self.replica.owner() {
            tracing::info!(group = self.name, "stands aside no more: an operator says so");
            self.aside = Aside::No;
            return Ok(());
        }
        self.may_switch(to, force, now)?;
        tracing::info!(group = self.name, to, force, "stands aside: an operator moves the group");
        self.aside = Aside::Moving { since: now };
        Ok(())
    }

    fn may_switch(&self, to: Option<&str>, force: bool, now: Instant) -> Result<(), String> {
        let name = &self.name;
        if !self.replica.owner() {
            return Err(match self.replica.owner_name() {
                None => format!("nobody owns {name}: there is nothing to move"),
                Some(owner) => format!("{owner} owns {name}, not this router: `ctsync switch` there"),
            });
        }
        match &self.mechanism {
            Mechanism::Vrrp { .. } => {}
            Mechanism::Cluster { .. } => {
                return Err(format!(
                    "{name} is moved by its cluster: `crm node standby` here (Pacemaker), or `hb_standby` (heartbeat); \
                     ctsync follows"
                ));
            }
            Mechanism::Manual { .. } => {
                return Err(format!(
                    "the role of {name} is told by hand: `ctsync notify primary {name}` on the router that takes \
                     over, then `ctsync notify backup {name}` here"
                ));
            }
            Mechanism::Vip { .. } => {
                return Err(format!(
                    "the role of {name} is where its addresses are: lower the priority of what moves them here"
                ));
            }
        }
        let view = self.replica.view(now);
        let living: Vec<&str> =
            view.peers.iter().filter(|peer| peer.alive).map(|peer| peer.name.as_str()).collect();
        if let Some(to) = to.filter(|to| !living.contains(to)) {
            return Err(format!("no living peer is called {to}; there are: {}", or_nobody(&living)));
        }
        if force {
            return if living.is_empty() {
                Err("no peer lives: nobody could take over".into())
            } else {
                Ok(())
            };
        }
        let verdict = self.verdict();
        if !verdict.protected {
            let cures: Vec<&str> =
                verdict.reasons.iter().map(|reason| reason.finding.cure.as_str()).collect();
            return Err(format!(
                "not safe: {} ({}). --force moves it all the same",
                verdict.verdict,
                cures.join("; ")
            ));
        }
        if let Some(to) = to.filter(|to| !verdict.backups.is_fit(to)) {
            return Err(format!(
                "not safe: {to} would not carry everything on. --force moves it all the same"
            ));
        }
        let meant = |name: &str| to.is_none_or(|to| to == name) && verdict.backups.is_fit(name);
        if !view.peers.iter().any(|peer| peer.equal && meant(&peer.name)) {
            return Err(format!(
                "not safe: {} has not been seen to hold just what this router holds; try again in a moment. --force \
                 moves it all the same",
                to.unwrap_or("the backup that would take over")
            ));
        }
        Ok(())
    }

    /// Whatever of a planned move has happened.
    pub(super) fn step_switch(&mut self, now: Instant) {
        let (owner, role) = (self.replica.owner(), self.replica.role());
        match &self.aside {
            Aside::Moving { since } if !owner && role != Role::Primary => {
                let Some(carrier) = self.replica.owner_name().map(str::to_owned) else { return };
                let milliseconds = (clock() - *since).as_secs_f64() * 1e3;
                tracing::info!(group = self.name, carrier, milliseconds, "moved");
                let view = self.replica.view(now);
                self.aside = Aside::Away(json!({
                    "group": self.name, "from": view.node, "to": carrier,
                    "milliseconds": milliseconds, "entries": view.external,
                }));
            }
            Aside::Moving { since } if now >= *since + GIVEN_UP => {
                tracing::warn!(group = self.name, "nobody took over: this router may be elected again");
                self.aside = Aside::GivenUp;
            }
            Aside::Away(_) if owner && role == Role::Primary => {
                tracing::warn!(group = self.name, "elected although it stands aside: nobody else is there");
                self.aside = Aside::No;
            }
            Aside::No | Aside::GivenUp | Aside::Moving { .. } | Aside::Away(_) => {}
        }
    }

    /// What `switch` is answered, once the other one carries, or nobody does; `to`: who should.
    pub(super) fn answer_switch(&self, to: Option<&str>) -> Option<Reply> {
        match &self.aside {
            Aside::Moving { .. } => None,
            Aside::Away(moved) => match to.filter(|to| moved["to"] != *to) {
                Some(to) => Some(Reply::Error(format!(
                    "{} took over, not {to}: who does is the election's business, give {to} the higher priority",
                    moved["to"].as_str().unwrap_or_default()
                ))),
                None => Some(Reply::Ok(moved.clone())),
            },
            Aside::GivenUp => Some(Reply::Error(format!(
                "nobody took over within {} s, and this router goes on: does VRRP get through, and does its \
                 configuration have the track_file and preempt? `ctsync config check --keepalived FILE` looks at that",
                GIVEN_UP.as_secs()
            ))),
            Aside::No => Some(Reply::Ok(json!({
                "group": self.name, "returned": true, "owner": self.replica.owner_name(),
            }))),
        }
    }
}

fn or_nobody(names: &[&str]) -> String {
    if names.is_empty() { "nobody".into() } else { names.join(", ") }
}
