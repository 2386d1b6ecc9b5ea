//! What scenarios stand on: where they play, a pair at work, and the checks that make one good.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::load::traffic::{Clients, Kind, Server, serve};
use crate::machine::wait::until;
use crate::routers::options::Options;
use crate::routers::topology::{SERVER, Topology};
use crate::story::narrator::Narrator;

/// Longest wait for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

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
    pub(super) fn usual(&self) -> Options {
        Options { unprivileged: self.unprivileged, ..Options::usual(self.ctsync.clone()) }
    }
}

/// Verdicts of one scenario.
pub(super) struct Checks<'a> {
    pub(super) narrator: &'a mut Narrator,
    pub(super) failed: Vec<String>,
    count: u32,
}

impl<'a> Checks<'a> {
    pub(super) fn new(narrator: &'a mut Narrator) -> Checks<'a> {
        Checks { narrator, failed: Vec::new(), count: 0 }
    }

    /// One check: what was seen, or what was seen instead.
    pub(super) fn note(&mut self, what: &str, result: Result<String>) {
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

    pub(super) fn end(self) -> bool {
        self.narrator.fact("checks", self.count);
        let good = self.failed.is_empty();
        self.narrator.fact("failed", self.failed);
        self.narrator.fact("good", good);
        good
    }
}

/// The pair at work: router1 owns the group, router2 is ready, clients speak through them.
pub(super) struct Pair {
    pub(super) topology: Topology,
    pub(super) clients: Vec<Clients>,
    _server: Server,
}

impl Pair {
    /// Boot, elect router1, open connections.
    pub(super) async fn start(stage: &Stage<'_>, connections: usize) -> Result<Pair> {
        Pair::start_with(stage, stage.usual(), connections).await
    }

    /// The same with other options.
    pub(super) async fn start_with(stage: &Stage<'_>, options: Options, connections: usize) -> Result<Pair> {
        let mut topology = Topology::build(stage.directory, &options).await?;
        topology.start().await?;
        let mut pair = Pair::around(topology)?;
        if options.sync {
            pair.wait_ready(2).await?;
        }
        pair.open(connections).await?;
        Ok(pair)
    }

    /// Routers on which something else is still to happen; the server serves.
    pub(super) fn around(topology: Topology) -> Result<Pair> {
        let server = serve(&topology.server.net)?;
        Ok(Pair { topology, clients: Vec::new(), _server: server })
    }

    /// Both routers boot anew, with this key on the channel or without one.
    pub(super) async fn reboot(&mut self, key: Option<String>) -> Result<()> {
        self.clients.clear();
        self.topology.options.key = key;
        self.topology.reboot().await?;
        self.wait_ready(2).await
    }

    /// Both routers boot anew without ctsync: what happens then is what ctsync is for.
    pub(super) async fn start_control(&mut self) -> Result<()> {
        self.start_without(false).await
    }

    /// Both routers boot anew with conntrackd instead.
    pub(super) async fn start_incumbent(&mut self) -> Result<()> {
        self.start_without(true).await
    }

    pub(super) async fn start_without(&mut self, incumbent: bool) -> Result<()> {
        self.clients.clear();
        self.topology.options.sync = false;
        self.topology.options.incumbent = incumbent;
        self.topology.reboot().await
    }

    pub(super) async fn open(&mut self, connections: usize) -> Result<()> {
        if connections > 0 {
            let client = &self.topology.client.net;
            self.clients.push(Clients::open(client, Kind::Tcp, SERVER.parse()?, connections)?);
            self.wait_alive().await?;
        }
        Ok(())
    }

    /// Until every connection has spoken since now.
    pub(super) async fn wait_alive(&self) -> Result<usize> {
        self.clients.iter().for_each(Clients::mark);
        self.clients.iter().for_each(Clients::mark_echoes);
        until("every connection speaks", PATIENCE, async || {
            let lives: Vec<_> = self.clients.iter().flat_map(Clients::lives).collect();
            Ok(lives.iter().all(crate::load::traffic::Life::alive).then_some(lives.len()))
        })
        .await
    }

    /// Router1's namespace is destroyed; until router2 holds the virtual addresses.
    pub(super) async fn lose_router1(&mut self, narrator: &Narrator) -> Result<()> {
        narrator.typed("lab", "destroy router1's namespace");
        self.topology.power_off(1).await?;
        self.topology.wait_elected(2).await
    }

    pub(super) async fn wait_ready(&self, number: u8) -> Result<()> {
        let router = self.topology.router(number)?;
        until(&format!("router{number} is ready to take over"), PATIENCE, async || {
            Ok((router.status().await?["state"]["readiness"] == "ready").then_some(()))
        })
        .await
    }

    /// Until router1's internal cache and router2's external cache hold as many entries; how many.
    pub(super) async fn wait_equal(&self) -> Result<u64> {
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
    pub(super) fn typed(&self, number: u8, arguments: &[&str], code: i32) -> Result<String> {
        let (found, out) = self.topology.router(number)?.type_command(arguments)?;
        if found != code {
            bail!("exit code {found}, expected {code}: {}", out.trim());
        }
        Ok(out)
    }

    pub(super) fn json(&self, number: u8, arguments: &[&str]) -> Result<Value> {
        let all: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.typed(number, &all, 0)?).context("not JSON")
    }
}
