//! Where a takeover is measured: two routers without keepalived, whose part the lab plays.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{CHANGES, How, Plan, Row, SAMPLED, Takeover};
use crate::load::entries;
use crate::load::traffic::{Clients, Kind, Life, Server, serve};
use crate::machine::wait::{now, until};
use crate::routers::incumbent;
use crate::routers::options::Options;
use crate::routers::topology::{SERVER, Topology};
use crate::scenario::stage::{PATIENCE, Stage};
use crate::story::narrator::Narrator;

/// From the cut to the role: what VRRP needs with 100 ms adverts (RFC 9568: three of them and the skew of
/// priority 100). Told earlier, the daemon would ask the owner for its last changes first, and wait for the
/// answer.
const DETECTION: Duration = Duration::from_millis(361);
/// The number of the first entry made as a change.
const FIRST_CHANGE: u32 = 3_000_000;
/// Entries made at once: conntrackd's event buffer holds some seven thousand, and it is to lose none here.
const PORTION: u32 = 20_000;
/// A million entries take a while.
const LONG: Duration = Duration::from_secs(180);

/// Two routers without keepalived, a client and a server.
pub(super) struct Bench {
    topology: Topology,
    options: Options,
    /// The writing ends of both FIFOs: the daemon takes it for keepalived's end when one is closed.
    fifos: Vec<File>,
    clients: Option<Clients>,
    next_change: u32,
    _server: Server,
}

impl Bench {
    pub(super) async fn build(stage: &Stage<'_>) -> Result<Bench> {
        let options = stage.usual();
        let topology = Topology::build(stage.directory, &options).await?;
        let server = serve(&topology.server.net)?;
        let fifos = Vec::new();
        Ok(Bench { topology, options, fifos, clients: None, next_change: FIRST_CHANGE, _server: server })
    }

    /// Both routers boot anew; router1 owns the addresses, `SAMPLED` connections go through it.
    async fn boot(&mut self, how: How) -> Result<()> {
        self.clients = None;
        self.fifos.clear();
        self.topology.options = Options {
            install: how == How::Hot,
            sync: how != How::Conntrackd,
            incumbent: how == How::Conntrackd,
            ..self.options.clone()
        };
        for number in [1, 2] {
            if self.topology.router(number).is_ok() {
                self.empty(number)?;
                self.topology.power_off(number).await?;
            }
            self.topology.boot_router(number).await?;
            let router = self.topology.router_mut(number)?;
            router.load_firewall()?;
            if how == How::Conntrackd {
                router.start_incumbent().await?;
                continue;
            }
            router.start_ctsync()?;
            until("ctsync answers", PATIENCE, async || Ok(Some(router.status().await?))).await?;
            let fifo = router.node.run_directory().join("ctsync/vrrp.fifo");
            self.fifos.push(OpenOptions::new().write(true).open(&fifo).context("the daemon's FIFO")?);
        }
        self.hold_addresses(1, true)?;
        if how != How::Conntrackd {
            self.tell_role(1, "MASTER")?;
            self.tell_role(2, "BACKUP")?;
            self.wait_in_step(1, 2).await?;
        }
        let clients = Clients::open(&self.topology.client.net, Kind::Tcp, SERVER.parse()?, SAMPLED)?;
        clients.mark_echoes();
        self.clients = Some(clients);
        let alive = self.wait_alive(PATIENCE).await;
        ensure!(alive == SAMPLED, "{alive} of {SAMPLED} connections speak before anything happened");
        Ok(())
    }

    /// The kernel takes a namespace's entries away when it has time, and would do so while the next takeover
    /// is measured: they go now.
    fn empty(&mut self, number: u8) -> Result<()> {
        let router = self.topology.router_mut(number)?;
        for program in ["ctsync", "conntrackd"] {
            if router.node.runs(program) {
                router.node.kill(program)?;
            }
        }
        router.node.output("conntrack", &["-F"]).map(|_| ())
    }

    /// What keepalived writes.
    fn tell_role(&mut self, number: u8, role: &str) -> Result<()> {
        let fifo = self.fifos.get_mut(usize::from(number) - 1).context("no FIFO")?;
        fifo.write_all(format!("GROUP \"SYNC\" {role} 200\n").as_bytes()).context("cannot tell the role")
    }

    /// The virtual addresses come or go; both hosts then look for them.
    fn hold_addresses(&self, number: u8, here: bool) -> Result<()> {
        let router = self.topology.router(number)?;
        let verb = if here { "add" } else { "del" };
        for instance in &router.told.instances {
            for address in instance.addresses.iter().chain(&instance.excluded) {
                router.node.output("ip", &["address", verb, address, "dev", &instance.interface])?;
            }
        }
        if here {
            for host in [&self.topology.client, &self.topology.server] {
                host.output("ip", &["neigh", "flush", "dev", "eth0"])?;
            }
        }
        Ok(())
    }

    async fn status(&self, number: u8) -> Result<Value> {
        self.topology.router(number)?.status().await
    }

    /// Until one owns and the other is ready with as many entries.
    async fn wait_in_step(&self, owner: u8, backup: u8) -> Result<()> {
        until("the backup is ready", LONG, async || {
            let (first, second) = (self.status(owner).await?, self.status(backup).await?);
            let (first, second) = (&first["state"], &second["state"]);
            let same = first["owner"] == true && first["root"] == second["root"] && first["unsent"] == 0;
            if same && second["readiness"] == "ready" {
                return Ok(Some(()));
            }
            bail!("owner {first}, backup {second}")
        })
        .await
    }

    async fn wait_alive(&self, limit: Duration) -> usize {
        let Some(clients) = &self.clients else { return 0 };
        let count = || clients.lives().iter().filter(|life| Life::alive(life)).count();
        let all =
            until("every connection speaks", limit, async || Ok((count() == SAMPLED).then_some(SAMPLED)));
        all.await.unwrap_or_else(|_| count())
    }

    /// Takeovers by a hot standby over every size, there and back: whoever took over is the next to be cut
    /// off.
    pub(super) async fn hot(&mut self, plan: &Plan, narrator: &Narrator) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        self.boot(How::Hot).await?;
        let (mut owner, mut backup) = (1, 2);
        let mut loaded = 0;
        for entries in &plan.sizes {
            let net = &self.topology.router(owner)?.node.net;
            entries::create(net, loaded, entries.saturating_sub(loaded))?;
            loaded = loaded.max(*entries);
            self.wait_in_step(owner, backup).await?;
            let mut row = Row::new(How::Hot, *entries);
            for _ in 0..plan.runs {
                row.note(&self.take_over(owner, backup).await?);
                self.bring_back(owner, backup).await?;
                std::mem::swap(&mut owner, &mut backup);
            }
            narrator.say(&row.to_string());
            rows.push(row);
        }
        Ok(rows)
    }

    /// Takeovers that install everything: each from a pair that has just booted.
    pub(super) async fn beside(&mut self, how: How, entries: u32, runs: u32) -> Result<Row> {
        let mut row = Row::new(how, entries);
        for _ in 0..runs {
            self.boot(how).await?;
            let mut loaded = 0;
            while loaded < entries {
                let portion = PORTION.min(entries - loaded);
                loaded += entries::create(&self.topology.router(1)?.node.net, loaded, portion)?;
                if how == How::Conntrackd {
                    self.wait_heard(loaded).await?;
                }
            }
            row.note(&if how == How::Conntrackd {
                self.commit(entries).await?
            } else {
                self.wait_in_step(1, 2).await?;
                self.take_over(1, 2).await?
            });
        }
        Ok(row)
    }

    /// The owner's cables are cut with changes in flight, the other one is told.
    async fn take_over(&mut self, owner: u8, backup: u8) -> Result<Takeover> {
        let epoch = self.status(backup).await?["last-fence"]["epoch"].clone();
        let held = self.external(backup).await?;
        self.strike(owner).await?;
        tokio::time::sleep(DETECTION).await;
        let (began, wall) = (now(), SystemTime::now().duration_since(UNIX_EPOCH)?);
        self.tell_role(backup, "MASTER")?;
        let deadline = began + LONG;
        let fence = loop {
            // A daemon with much to install answers late.
            let status = self.status(backup).await.unwrap_or_default();
            let fence = &status["last-fence"];
            if status["state"]["owner"] == true && !fence.is_null() && fence["epoch"] != epoch {
                break fence.clone();
            }
            ensure!(now() < deadline, "no fence was reported: {status}");
        };
        let seen = began.elapsed().as_secs_f64() * 1e3;
        let alive = self.carry_on(owner, backup).await?;
        let closed: jiff::Timestamp = fence["closed-at"].as_str().context("no time of the fence")?.parse()?;
        let closed = closed.as_duration().as_secs_f64() - wall.as_secs_f64();
        let number = |name: &str| fence[name].as_f64().with_context(|| format!("no {name} in {fence}"));
        Ok(Takeover {
            told: number("microseconds")? / 1e3,
            seen,
            closed: closed * 1e3,
            pending: number("pending")?,
            arrived: number("held")? - held,
            alive,
        })
    }

    async fn external(&self, number: u8) -> Result<f64> {
        let statistics = self.topology.router(number)?.statistics().await?;
        statistics["external"]["active"].as_f64().context("its external cache")
    }

    /// The last changes, and the cut.
    async fn strike(&mut self, owner: u8) -> Result<()> {
        if let Some(clients) = &self.clients {
            clients.mark();
        }
        let from = self.next_change;
        self.next_change += CHANGES;
        entries::create(&self.topology.router(owner)?.node.net, from, CHANGES)?;
        self.topology.cables(owner, false).await
    }

    /// The addresses move. How many connections speak then.
    async fn carry_on(&self, owner: u8, backup: u8) -> Result<usize> {
        self.hold_addresses(owner, false)?;
        self.hold_addresses(backup, true)?;
        if let Some(clients) = &self.clients {
            clients.mark_echoes();
        }
        Ok(self.wait_alive(Duration::from_secs(30)).await)
    }

    /// Who was cut off is a backup from now on.
    async fn bring_back(&mut self, was: u8, owner: u8) -> Result<()> {
        self.tell_role(was, "BACKUP")?;
        self.topology.cables(was, true).await?;
        self.wait_in_step(owner, was).await
    }

    async fn wait_heard(&self, entries: u32) -> Result<()> {
        let node = &self.topology.router(2)?.node;
        until("conntrackd has heard of every entry", LONG, async || {
            let [_, external] = incumbent::numbers(node)?;
            Ok((external >= u64::from(entries)).then_some(()))
        })
        .await
    }

    /// conntrackd's way: what its script asks for first, until the kernel has it all.
    async fn commit(&mut self, entries: u32) -> Result<Takeover> {
        let [_, before] = incumbent::numbers(&self.topology.router(2)?.node)?;
        self.strike(1).await?;
        tokio::time::sleep(DETECTION).await;
        let router = self.topology.router(2)?;
        let [_, external] = incumbent::numbers(&router.node)?;
        let began = now();
        incumbent::commit(&router.node)?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        let held: u32 = router.node.output("conntrack", &["-C"])?.trim().parse().context("conntrack -C")?;
        ensure!(held >= entries, "conntrackd has committed {held} of {entries}");
        let alive = self.carry_on(1, 2).await?;
        Ok(Takeover {
            told: took,
            seen: took,
            closed: took,
            pending: external as f64,
            arrived: external.saturating_sub(before) as f64,
            alive,
        })
    }
}
