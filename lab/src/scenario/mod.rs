//! Scenarios beside the demo: `run NAME`, `list`. Each builds the documented figure, does one thing to it,
//! and judges.
//!
//! Called by `main` and by `test`. A scenario is good when every check of it is.

mod attack;
mod channel;
mod clients;
mod commands;
pub(crate) mod demo;
pub(crate) mod differences;
pub(crate) mod fence;
pub(crate) mod first_packet;
mod frr;
pub(crate) mod gate;
mod groups;
mod heartbeat;
mod idle;
mod iperf3;
mod key;
mod layouts;
mod masquerade;
pub(crate) mod memory;
mod metrics;
mod migrate;
mod noise;
mod pacemaker;
mod programs;
pub(crate) mod repair;
mod roles;
pub(crate) mod stage;
mod stream;
mod switch;
mod three;
pub(crate) mod verdict;
mod vrrp;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::machine::sandbox;
use crate::scenario::stage::Stage;
use crate::story::narrator::Narrator;

/// What can be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Scenario {
    /// Every command on a running pair, and what it says when something is not there.
    Commands,
    /// The documented layouts beside conntrackd's own output.
    Layouts,
    /// Control clients that say nothing or never read, beside replication.
    Clients,
    /// A sealed channel: keys rotated under traffic, a wrong key, a takeover.
    Key,
    /// Connections that say nothing for a minute around a takeover speak again.
    Idle,
    /// iperf3 at full rate goes on across a takeover.
    Iperf3,
    /// Connections of the routers themselves are not counted.
    Noise,
    /// UDP exchanges under a short timeout, long before a takeover.
    Stream,
    /// Corosync and Pacemaker in keepalived's place: a move, a standby, a dead daemon, a dead node. Needs
    /// root.
    Pacemaker,
    /// FTP, SIP, TFTP, PPTP, SCTP, ESP, NAT66, zones, marks and fragments across a takeover.
    Programs,
    /// Loss, a cut, daemons killed and stopped, a tiny event buffer, all under churn; conntrackd beside it.
    Repair,
    /// Replayed, forged, cut and changed datagrams at full rate during a takeover; what an open channel lets
    /// in.
    Attack,
    /// A hundred differences planted in both kernels behind the daemons' backs: found and repaired.
    Differences,
    /// keepalived in its other shapes: VRRPv2, unicast, without a sync group, IPv6; programs that end and
    /// come back.
    Vrrp,
    /// A router that returns is not elected before it is ready; without the gate it is, and connections die.
    Gate,
    /// A hundred role changes in a minute under load; an owner that is lost for good.
    Roles,
    /// Two groups share the load and back each other up.
    Groups,
    /// FRR's vrrpd moves the documented addresses: what its backup looks like, and a pair that learns its
    /// roles from that alone.
    Frr,
    /// The documentation's cluster, with Debian's heartbeat: router1 dies, returns, hands over; a daemon
    /// hangs.
    Heartbeat,
    /// A takeover beside 50000 entries costs what it costs beside 1000; conntrackd's commit does not.
    Fence,
    /// Clients that speak each millisecond through a takeover: no RST, no ICMP error, no entry made anew;
    /// conntrackd beside it.
    FirstPacket,
    /// A standby that cannot be elected, keepalived reloaded or there first, files removed: the verdict
    /// tells, connections live.
    Verdict,
    /// Masquerade to a virtual address that leaves its router in every way there is: every connection lives.
    Masquerade,
    /// The channel's interface deleted, renamed, down; a switch that drops long datagrams: taken up again, no
    /// storm.
    Channel,
    /// From conntrackd to ctsync under load, as docs/migration.md has it.
    Migrate,
    /// `ctsync switch` there and back under load; refused when it is not safe.
    Switch,
    /// Three routers: one after the other dies and returns, and one that is behind takes over.
    Three,
    /// Prometheus scrapes both routers while router1 dies and returns; it knows the verdict.
    Metrics,
}

impl Scenario {
    /// Its daemons become other users, of whom a user namespace has none.
    pub(crate) fn needs_root(self) -> bool {
        matches!(self, Scenario::Frr | Scenario::Heartbeat | Scenario::Pacemaker)
    }

    /// It measures no time and loads nothing: another one may run beside it.
    pub(crate) fn mostly_waits(self) -> bool {
        matches!(self, Scenario::Idle | Scenario::Stream | Scenario::Heartbeat | Scenario::Pacemaker)
    }

    /// As it is named on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Run one. True: everything was as it should be.
pub(crate) async fn run(scenario: Scenario, stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    if scenario.needs_root() && sandbox::is_rootless() {
        bail!("this scenario needs root: its daemons become other users");
    }
    match scenario {
        Scenario::Commands => commands::run(stage, narrator).await,
        Scenario::Layouts => layouts::run(stage, narrator).await,
        Scenario::Clients => clients::run(stage, narrator).await,
        Scenario::Key => key::run(stage, narrator).await,
        Scenario::Idle => idle::run(stage, narrator).await,
        Scenario::Iperf3 => iperf3::run(stage, narrator).await,
        Scenario::Noise => noise::run(stage, narrator).await,
        Scenario::Stream => stream::run(stage, narrator).await,
        Scenario::Pacemaker => pacemaker::run(stage, narrator).await,
        Scenario::Programs => programs::run(stage, narrator).await,
        Scenario::Repair => repair::run(stage, narrator).await,
        Scenario::Attack => attack::run(stage, narrator).await,
        Scenario::Differences => differences::run(stage, narrator).await,
        Scenario::Vrrp => vrrp::run(stage, narrator).await,
        Scenario::Gate => gate::run(stage, narrator).await,
        Scenario::Roles => roles::run(stage, narrator).await,
        Scenario::Groups => groups::run(stage, narrator).await,
        Scenario::Frr => frr::run(stage, narrator).await,
        Scenario::Heartbeat => heartbeat::run(stage, narrator).await,
        Scenario::Fence => fence::run(stage, narrator).await,
        Scenario::FirstPacket => first_packet::run(stage, narrator).await,
        Scenario::Verdict => verdict::run(stage, narrator).await,
        Scenario::Masquerade => masquerade::run(stage, narrator).await,
        Scenario::Channel => channel::run(stage, narrator).await,
        Scenario::Migrate => migrate::run(stage, narrator).await,
        Scenario::Switch => switch::run(stage, narrator).await,
        Scenario::Three => three::run(stage, narrator).await,
        Scenario::Metrics => metrics::run(stage, narrator).await,
    }
}
