//! What a takeover costs beside how many entries: the same fence over tables of very different sizes, with
//! the changes of the last moment in flight. Beside it a cold standby, and conntrackd's commit.
//!
//! Called as `run fence` with two sizes, and by `soak fence`, which writes a plot. keepalived does not run:
//! the lab writes its lines into the FIFO and moves the addresses, so that every fence begins equally long
//! after the cut. The cut is a real one: both cables of the owner.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::stage::{Checks, PATIENCE, Stage};
use crate::load::entries;
use crate::load::traffic::{Clients, Kind, Life, Server, serve};
use crate::machine::wait::{now, until};
use crate::routers::incumbent;
use crate::routers::options::Options;
use crate::routers::topology::{SERVER, Topology};
use crate::story::narrator::Narrator;

mod plot;

/// Changes made just before the cut.
const CHANGES: u32 = 1_000;
/// From the cut to the role: what VRRP needs with 100 ms adverts (RFC 9568: three of them and the skew of
/// priority 100). Told earlier, the daemon would ask the owner for its last changes first, and wait for the
/// answer.
const DETECTION: Duration = Duration::from_millis(361);
/// Real connections that must speak afterwards.
const SAMPLED: usize = 100;
/// The number of the first entry made as a change.
const FIRST_CHANGE: u32 = 3_000_000;
/// A million entries take a while.
const LONG: Duration = Duration::from_secs(180);
/// Entries made at once: conntrackd's event buffer holds some seven thousand, and it is to lose none here.
const PORTION: u32 = 20_000;
/// A fence over fifty times the entries may cost this much more: the clock's and the machine's noise.
const FLAT: f64 = 5.0;
const NOISE: f64 = 2.0;
/// At least this many times ours is what conntrackd's commit takes.
const INCUMBENT: f64 = 10.0;

/// Who takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Hot,
    Cold,
    Conntrackd,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            How::Hot => "ctsync",
            How::Cold => "ctsync, cold",
            How::Conntrackd => "conntrackd -c",
        }
    }
}

/// What to measure.
pub(crate) struct Plan {
    pub sizes: Vec<u32>,
    /// Takeovers of each size.
    pub runs: u32,
    /// Takeovers of each size by a cold standby and by conntrackd: each needs two newly booted routers.
    pub beside: u32,
    /// Where the plot goes.
    pub plot: Option<PathBuf>,
}

/// Takeovers of one kind over one size.
struct Row {
    how: How,
    entries: u32,
    /// Milliseconds as the daemon tells them; of conntrackd as its command takes.
    told: Vec<f64>,
    /// Milliseconds from the line in the FIFO to the first answer that tells of the fence.
    seen: Vec<f64>,
    /// Milliseconds from the line in the FIFO to the time at which the fence was closed, by the machine's
    /// clock.
    closed: Vec<f64>,
    /// Entries that were not in the kernel when it began.
    pending: Vec<f64>,
    /// Changes of the last moment that had arrived.
    arrived: Vec<f64>,
    /// Connections that spoke afterwards, and that were there.
    alive: usize,
    of: usize,
}

/// One takeover.
struct Takeover {
    told: f64,
    seen: f64,
    closed: f64,
    pending: f64,
    arrived: f64,
    alive: usize,
}

pub(crate) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    let plan = Plan { sizes: vec![1_000, 50_000], runs: 3, beside: 0, plot: None };
    let mut bench = Bench::build(stage).await?;
    let mut checks = Checks::new(narrator);
    let mut rows = bench.hot(&plan, checks.narrator).await?;
    rows.push(bench.beside(How::Conntrackd, 50_000, 1).await?);
    for row in &rows {
        checks.note(row.how.word(), all_alive(row));
    }
    checks.note("a fence over 50000 entries costs what one over 1000 costs", flat(&rows));
    checks.note("conntrackd's commit", dwarfed(&rows));
    Ok(checks.end())
}

/// Takeovers by a hot standby, and one by conntrackd beside the least of the sizes: milliseconds as they tell
/// them.
pub(crate) async fn milliseconds(
    stage: &Stage<'_>,
    sizes: &[u32],
    runs: u32,
    narrator: &Narrator,
) -> Result<Vec<(bool, u32, Vec<f64>)>> {
    let plan = Plan { sizes: sizes.to_vec(), runs, beside: 0, plot: None };
    let mut bench = Bench::build(stage).await?;
    let mut rows = bench.hot(&plan, narrator).await?;
    let least = sizes.iter().min().context("no size")?;
    rows.push(bench.beside(How::Conntrackd, *least, 1).await?);
    for row in rows.iter().filter(|row| row.how == How::Hot) {
        all_alive(row)?;
    }
    Ok(rows.into_iter().map(|row| (row.how == How::Hot, row.entries, row.told)).collect())
}

/// All sizes, and the plot.
pub(crate) async fn tell(stage: &Stage<'_>, narrator: &mut Narrator, plan: &Plan) -> Result<bool> {
    narrator.chapter("A takeover beside how many entries");
    let mut bench = Bench::build(stage).await?;
    let mut checks = Checks::new(narrator);
    let mut rows = bench.hot(plan, checks.narrator).await?;
    for how in [How::Cold, How::Conntrackd] {
        for entries in &plan.sizes {
            // A million entries are loaded for each of these: once is enough to see where the line goes.
            let runs = if *entries >= 1_000_000 { plan.beside.min(1) } else { plan.beside };
            if runs == 0 {
                continue;
            }
            match bench.beside(how, *entries, runs).await {
                Ok(row) => {
                    checks.narrator.say(&row.to_string());
                    rows.push(row);
                }
                // The other rows are still worth having.
                Err(error) => checks.note(&format!("{}, {entries} entries", how.word()), Err(error)),
            }
        }
    }
    checks.narrator.say("milliseconds: median and worst");
    for row in &rows {
        checks.narrator.say(&row.to_string());
    }
    let buckets = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_buckets")?;
    checks.narrator.say(&format!("the kernel's hash table has {} buckets", buckets.trim()));
    for row in rows.iter().filter(|row| row.how != How::Conntrackd) {
        checks.note(&format!("{}, {} entries", row.how.word(), row.entries), all_alive(row));
    }
    checks.note("the fence does not depend on the table", flat(&rows));
    if let Some(file) = &plan.plot {
        plot::draw(&rows, file)?;
    }
    Ok(checks.end())
}

fn all_alive(row: &Row) -> Result<String> {
    let text = format!("{} of {} connections speak afterwards", row.alive, row.of);
    ensure!(row.alive == row.of, "{text}");
    // A median forgives the one takeover that found everything still to be installed.
    let waited = worst(&row.pending);
    ensure!(
        row.how != How::Hot || waited <= f64::from(CHANGES),
        "{waited} entries were not in the kernel: {row}"
    );
    Ok(format!("{text}; {row}"))
}

/// The largest table against the smallest.
fn flat(rows: &[Row]) -> Result<String> {
    let mut hot = rows.iter().filter(|row| row.how == How::Hot);
    let first = hot.next().context("nothing was measured")?;
    let last = hot.next_back().unwrap_or(first);
    let (small, large) = (median(&first.told), median(&last.told));
    let text =
        format!("{small:.2} ms beside {} entries, {large:.2} ms beside {}", first.entries, last.entries);
    ensure!(large <= small * FLAT + NOISE, "{text}");
    Ok(text)
}

fn dwarfed(rows: &[Row]) -> Result<String> {
    let of = |how: How| {
        rows.iter()
            .rev()
            .find(|row| row.how == how)
            .map(|row| median(&row.told))
            .context("nothing was measured")
    };
    let (ours, theirs) = (of(How::Hot)?, of(How::Conntrackd)?);
    let text = format!("{theirs:.1} ms, ctsync {ours:.2} ms");
    ensure!(theirs >= ours * INCUMBENT, "{text}");
    Ok(text)
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:<14} {:>8} entries, {:>2} runs: told {:>9.2} / {:>9.2}, closed {:>9.2} / {:>9.2}, seen {:>9.2} / {:>9.2}; \
             pending {:>7}, \
             arrived {:>5}, alive {} of {}",
            self.how.word(),
            self.entries,
            self.told.len(),
            median(&self.told),
            worst(&self.told),
            median(&self.closed),
            worst(&self.closed),
            median(&self.seen),
            worst(&self.seen),
            median(&self.pending),
            median(&self.arrived),
            self.alive,
            self.of,
        )
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// Two routers without keepalived, a client and a server.
struct Bench {
    topology: Topology,
    options: Options,
    /// The writing ends of both FIFOs: the daemon takes it for keepalived's end when one is closed.
    fifos: Vec<File>,
    clients: Option<Clients>,
    next_change: u32,
    _server: Server,
}

impl Bench {
    async fn build(stage: &Stage<'_>) -> Result<Bench> {
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
    async fn hot(&mut self, plan: &Plan, narrator: &Narrator) -> Result<Vec<Row>> {
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
    async fn beside(&mut self, how: How, entries: u32, runs: u32) -> Result<Row> {
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

impl Row {
    fn new(how: How, entries: u32) -> Row {
        Row {
            how,
            entries,
            told: vec![],
            seen: vec![],
            closed: vec![],
            pending: vec![],
            arrived: vec![],
            alive: 0,
            of: 0,
        }
    }

    fn note(&mut self, takeover: &Takeover) {
        self.told.push(takeover.told);
        self.seen.push(takeover.seen);
        self.closed.push(takeover.closed);
        self.pending.push(takeover.pending);
        self.arrived.push(takeover.arrived);
        self.alive += takeover.alive;
        self.of += SAMPLED;
    }
}
