//! Scenarios beside the demo: `run NAME`, `list`. Each builds the documented figure, does one thing to it, and judges.
//!
//! Called by `main` and by `test`. A scenario is good when every check of it is.

mod attack;
mod channel;
mod clients;
mod commands;
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
mod stream;
pub(crate) mod verdict;
mod vrrp;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::narrator::Narrator;
use crate::router::Options;
use crate::sandbox;
use crate::topology::{SERVER, Topology};
use crate::traffic::{Clients, Kind, Server, serve};
use crate::wait::until;

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
    /// Corosync and Pacemaker in keepalived's place: a move, a standby, a dead daemon, a dead node. Needs root.
    Pacemaker,
    /// FTP, SIP, TFTP, PPTP, SCTP, ESP, NAT66, zones, marks and fragments across a takeover.
    Programs,
    /// Loss, a cut, daemons killed and stopped, a tiny event buffer, all under churn; conntrackd beside it.
    Repair,
    /// Replayed, forged, cut and changed datagrams at full rate during a takeover; what an open channel lets in.
    Attack,
    /// A hundred differences planted in both kernels behind the daemons' backs: found and repaired.
    Differences,
    /// keepalived in its other shapes: VRRPv2, unicast, without a sync group, IPv6; programs that end and come back.
    Vrrp,
    /// A router that returns is not elected before it is ready; without the gate it is, and connections die.
    Gate,
    /// A hundred role changes in a minute under load; an owner that is lost for good.
    Roles,
    /// Two groups share the load and back each other up.
    Groups,
    /// FRR's vrrpd moves the documented addresses: what its backup looks like, and a pair that learns its roles from that alone.
    Frr,
    /// The documentation's cluster, with Debian's heartbeat: router1 dies, returns, hands over; a daemon hangs.
    Heartbeat,
    /// A takeover beside 50000 entries costs what it costs beside 1000; conntrackd's commit does not.
    Fence,
    /// Clients that speak each millisecond through a takeover: no RST, no ICMP error, no entry made anew; conntrackd beside it.
    FirstPacket,
    /// A standby that cannot be elected, keepalived reloaded or there first, files removed: the verdict tells, connections live.
    Verdict,
    /// Masquerade to a virtual address that leaves its router in every way there is: every connection lives.
    Masquerade,
    /// The channel's interface deleted, renamed, down; a switch that drops long datagrams: taken up again, no storm.
    Channel,
    /// From conntrackd to ctsync under load, as docs/migration.md has it.
    Migrate,
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

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a scenario plays.
pub(crate) struct Stage<'a> {
    /// Everything it writes goes here.
    pub directory: &'a Path,
    /// The daemon it is about.
    pub ctsync: PathBuf,
    /// Whether it is a user of its own with CAP_NET_ADMIN alone.
    pub unprivileged: bool,
}

impl Stage<'_> {
    /// A pair as it should be, of this daemon.
    fn usual(&self) -> Options {
        Options { unprivileged: self.unprivileged, ..Options::usual(self.ctsync.clone()) }
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
        Scenario::Metrics => metrics::run(stage, narrator).await,
    }
}

/// Verdicts of one scenario.
struct Checks<'a> {
    narrator: &'a mut Narrator,
    failed: Vec<String>,
    count: u32,
}

impl<'a> Checks<'a> {
    fn new(narrator: &'a mut Narrator) -> Checks<'a> {
        Checks { narrator, failed: Vec::new(), count: 0 }
    }

    /// One check: what was seen, or what was seen instead.
    fn note(&mut self, what: &str, result: Result<String>) {
        self.count += 1;
        match result {
            Ok(seen) if seen.trim().is_empty() => self.narrator.verdict(true, what),
            Ok(seen) => self.narrator.verdict(true, &format!("{what}: {}", seen.trim())),
            Err(error) => {
                let text = format!("{what}: {error:#}");
                self.narrator.verdict(false, &text);
                self.failed.push(text);
            }
        }
    }

    fn end(self) -> bool {
        self.narrator.fact("checks", self.count);
        let good = self.failed.is_empty();
        self.narrator.fact("failed", self.failed);
        self.narrator.fact("good", good);
        good
    }
}

/// The pair at work: router1 owns the group, router2 is ready, clients speak through them.
struct Pair {
    topology: Topology,
    clients: Vec<Clients>,
    _server: Server,
}

impl Pair {
    /// Boot, elect router1, open connections.
    async fn start(stage: &Stage<'_>, connections: usize) -> Result<Pair> {
        Pair::start_with(stage, stage.usual(), connections).await
    }

    /// The same with other options.
    async fn start_with(stage: &Stage<'_>, options: Options, connections: usize) -> Result<Pair> {
        let mut topology = Topology::build(stage.directory, &options).await?;
        topology.start().await?;
        let server = serve(&topology.server.net)?;
        let mut pair = Pair { topology, clients: Vec::new(), _server: server };
        if options.sync {
            pair.wait_ready(2).await?;
        }
        pair.open(connections).await?;
        Ok(pair)
    }

    /// Both routers boot anew, with this key on the channel or without one.
    async fn reboot(&mut self, key: Option<String>) -> Result<()> {
        self.clients.clear();
        self.topology.options.key = key;
        self.topology.reboot().await?;
        self.wait_ready(2).await
    }

    /// Both routers boot anew without ctsync: what happens then is what ctsync is for.
    async fn start_control(&mut self) -> Result<()> {
        self.start_without(false).await
    }

    /// Both routers boot anew with conntrackd instead.
    async fn start_incumbent(&mut self) -> Result<()> {
        self.start_without(true).await
    }

    async fn start_without(&mut self, incumbent: bool) -> Result<()> {
        self.clients.clear();
        self.topology.options.sync = false;
        self.topology.options.incumbent = incumbent;
        self.topology.reboot().await
    }

    async fn open(&mut self, connections: usize) -> Result<()> {
        if connections > 0 {
            let client = &self.topology.client.net;
            self.clients.push(Clients::open(client, Kind::Tcp, SERVER.parse()?, connections)?);
            self.wait_alive().await?;
        }
        Ok(())
    }

    /// Until every connection has spoken since now.
    async fn wait_alive(&self) -> Result<usize> {
        self.clients.iter().for_each(Clients::mark);
        self.clients.iter().for_each(Clients::mark_echoes);
        until("every connection speaks", PATIENCE, async || {
            let lives: Vec<_> = self.clients.iter().flat_map(Clients::lives).collect();
            Ok(lives.iter().all(crate::traffic::Life::alive).then_some(lives.len()))
        })
        .await
    }

    /// Router1's namespace is destroyed; until router2 holds the virtual addresses.
    async fn lose_router1(&mut self, narrator: &Narrator) -> Result<()> {
        narrator.typed("lab", "destroy router1's namespace");
        self.topology.power_off(1).await?;
        self.topology.wait_elected(2).await
    }

    async fn wait_ready(&self, number: u8) -> Result<()> {
        let router = self.topology.router(number)?;
        until(&format!("router{number} is ready to take over"), PATIENCE, async || {
            Ok((router.status().await?["state"]["readiness"] == "ready").then_some(()))
        })
        .await
    }

    /// Until router1's internal cache and router2's external cache hold as many entries; how many.
    async fn wait_equal(&self) -> Result<u64> {
        let (one, two) = (self.topology.router(1)?, self.topology.router(2)?);
        until("router1's internal = router2's external", PATIENCE, async || {
            let internal = one.statistics().await?["internal"]["active"].as_u64();
            let external = two.statistics().await?["external"]["active"].as_u64();
            if internal == external {
                return Ok(internal);
            }
            bail!("internal {internal:?}, external {external:?}")
        })
        .await
    }

    /// Type a command on a router; it must end with this code. What it printed.
    fn typed(&self, number: u8, arguments: &[&str], code: i32) -> Result<String> {
        let (found, out) = self.topology.router(number)?.type_command(arguments)?;
        if found != code {
            bail!("exit code {found}, expected {code}: {}", out.trim());
        }
        Ok(out)
    }

    fn json(&self, number: u8, arguments: &[&str]) -> Result<Value> {
        let all: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.typed(number, &all, 0)?).context("not JSON")
    }
}
