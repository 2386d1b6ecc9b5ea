//! Replication under trouble, with real kernels: loss, a cut, daemons killed and stopped, an event buffer of
//! 64 KiB, each under churn. Judged by `conntrack -L` of both kernels; conntrackd beside it where it has the
//! same trouble.
//!
//! Called as `run repair`, and by `soak repair` with more entries and for longer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::churn::Churn;
use crate::load::{entries, judge};
use crate::machine::net::Links;
use crate::machine::wait::{now, until};
use crate::routers::hands::Events;
use crate::routers::incumbent;
use crate::story::narrator::Narrator;

/// Entries that are there all the time.
const FIRST_OF_CHURN: u32 = 2_000_000;
/// Less than the datagrams before it, and no less than IPv6 allows.
const SMALL_MTU: u32 = 1280;
/// Fragments of what was on its way when the MTU changed; without a look at it there would be thousands.
const LATE: u64 = 20;
/// conntrackd gets this long to become equal.
const INCUMBENT: Duration = Duration::from_secs(15);
/// Between a kill and the restart.
const DOWN: Duration = Duration::from_secs(1);
/// The small event buffer, as the kernel counts it: some fifty events.
const SMALL: usize = 64 * 1024;
/// What the daemon had before: it does not know that somebody made it small.
const LARGE: usize = 16 * 1024 * 1024;

/// How much is going on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Entries beside those that change.
    pub entries: u32,
    /// Entries that change.
    pub changing: u32,
    /// Changes a second.
    pub rate: u32,
    /// For how long.
    pub lasts: Duration,
}

const USUAL: Load = Load { entries: 10_000, changing: 20_000, rate: 10_000, lasts: Duration::from_secs(4) };
/// As many changes as the issue of a cut is about.
const HEAVY: Load = Load { rate: 30_000, lasts: Duration::from_secs(10), ..USUAL };

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Loss(u32),
    Cut,
    Killed(u8),
    Stopped(u8),
    /// The channel's interfaces get a smaller MTU.
    SmallMtu,
    SmallBuffer,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&match self {
            Trouble::None => "churn alone".to_owned(),
            Trouble::Loss(percent) => format!("{percent} % loss"),
            Trouble::Cut => "cut".to_owned(),
            Trouble::Killed(number) => format!("kill -9 on router{number}"),
            Trouble::Stopped(number) => format!("stopped on router{number}"),
            Trouble::SmallBuffer => "64 KiB of events".to_owned(),
            Trouble::SmallMtu => "a smaller MTU".to_owned(),
        })
    }
}

/// What one trouble came to.
struct Row {
    changes: u64,
    /// Bytes on the wire of the channel while it lasted.
    during: u64,
    /// From its end to equality, or until it was given up.
    took: Duration,
    bytes: u64,
    held: usize,
    /// Entries that the backup lacks, and that it has and should not.
    missing: usize,
    stale: usize,
    remark: String,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} changes, {:.1} MB meanwhile; then {:.2} s and {:.2} MB; {} entries, {} missing, {} stale{}",
            self.changes,
            self.during as f64 / 1e6,
            self.took.as_secs_f64(),
            self.bytes as f64 / 1e6,
            self.held,
            self.missing,
            self.stale,
            self.remark
        )
    }
}

pub(crate) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Replication under trouble");
    let troubles = [
        (Trouble::None, USUAL),
        (Trouble::Loss(5), USUAL),
        (Trouble::Loss(30), USUAL),
        (Trouble::Cut, HEAVY),
        (Trouble::Killed(1), USUAL),
        (Trouble::Killed(2), USUAL),
        (Trouble::SmallBuffer, USUAL),
        (Trouble::SmallMtu, USUAL),
        (Trouble::Stopped(1), Load { lasts: Duration::from_secs(5), ..USUAL }),
        (Trouble::Stopped(2), Load { lasts: Duration::from_secs(5), ..USUAL }),
    ];
    tell(stage, narrator, &troubles).await
}

/// Churn for long over many entries, a cut of the same size, and conntrackd beside it.
pub(crate) async fn run_long(stage: &Stage<'_>, narrator: &mut Narrator, load: Load) -> Result<bool> {
    narrator.chapter("Replication for long");
    let cut = Load { lasts: Duration::from_secs(10), rate: 30_000, ..load };
    tell(stage, narrator, &[(Trouble::None, load), (Trouble::Cut, cut), (Trouble::Killed(1), cut)]).await
}

/// The owner's daemon is killed under churn and started again, some times: seconds until the tables are
/// equal, and how many entries are wrong then. How many conntrackd's peer has wrong at the end of its
/// patience.
pub(crate) async fn after_a_kill(stage: &Stage<'_>, runs: u32) -> Result<(Vec<(f64, usize)>, usize)> {
    let mut pair = Pair::start(stage, 20).await?;
    let own = pair.topology.own_addresses()?;
    let mut ours = Vec::new();
    entries::create(&pair.topology.router(1)?.node.net, 0, USUAL.entries)?;
    for _ in 0..runs {
        let row = suffer(&mut pair, Trouble::Killed(1), &USUAL, &own, false).await?;
        must_be_equal(&row)?;
        ours.push((row.took.as_secs_f64(), row.missing + row.stale));
    }
    pair.start_incumbent().await?;
    entries::create(&pair.topology.router(1)?.node.net, 0, USUAL.entries)?;
    let row = suffer(&mut pair, Trouble::Killed(1), &USUAL, &own, true).await?;
    Ok((ours, row.missing + row.stale))
}

async fn tell(stage: &Stage<'_>, narrator: &mut Narrator, troubles: &[(Trouble, Load)]) -> Result<bool> {
    let mut pair = Pair::start(stage, 20).await?;
    let own = pair.topology.own_addresses()?;
    let mut checks = Checks::new(narrator);
    let mut rows = Vec::new();
    for (number, (trouble, load)) in troubles.iter().enumerate() {
        if number == 0 {
            entries::create(&pair.topology.router(1)?.node.net, 0, load.entries)?;
        }
        let row = suffer(&mut pair, *trouble, load, &own, false).await;
        rows.push(format!("ctsync      {trouble:<20} {}", told(&row)));
        checks.note(&trouble.to_string(), row.and_then(|row| must_be_equal(&row)));
    }
    checks.note("every connection speaks", pair.wait_alive().await.map(|alive| alive.to_string()));
    pair.start_incumbent().await?;
    for (number, (trouble, load)) in troubles.iter().enumerate() {
        if number == 0 {
            entries::create(&pair.topology.router(1)?.node.net, 0, load.entries)?;
        }
        if matches!(trouble, Trouble::Loss(_) | Trouble::Cut | Trouble::Killed(_)) {
            let row = suffer(&mut pair, *trouble, load, &own, true).await;
            rows.push(format!("conntrackd  {trouble:<20} {}", told(&row)));
        }
    }
    checks.narrator.say("side by side, conntrackd in mode FTFW:");
    for row in &rows {
        checks.narrator.say(row);
    }
    checks.narrator.fact("rows", rows);
    Ok(checks.end())
}

fn told(row: &Result<Row>) -> String {
    row.as_ref().map_or_else(|error| format!("{error:#}"), ToString::to_string)
}

fn must_be_equal(row: &Row) -> Result<String> {
    ensure!(row.missing + row.stale == 0, "{row}");
    ensure!(row.changes > 0 && row.held > 0, "nothing happened: {row}");
    Ok(row.to_string())
}

/// Trouble under churn, its end, and how long the two then take to be equal.
async fn suffer(
    pair: &mut Pair,
    trouble: Trouble,
    load: &Load,
    own: &[String],
    incumbent: bool,
) -> Result<Row> {
    let numbers = FIRST_OF_CHURN..FIRST_OF_CHURN + load.changing;
    entries::end(&pair.topology.router(1)?.node.net, numbers.start, load.changing)?;
    let before_it = if incumbent { None } else { Some(Counted::of(pair).await?) };
    let before = pair.topology.channel_bytes()?;
    let churn = Churn::start(&pair.topology.router(1)?.node.net, numbers, Some(load.rate));
    begin(pair, trouble, incumbent).await?;
    let end = now() + load.lasts;
    let mut squeezed = match trouble {
        Trouble::SmallBuffer => Some(Events::of(&pair.topology.router(1)?.node)?),
        _ => None,
    };
    while now() < end {
        if let Some(events) = &mut squeezed {
            // An overrun makes the daemon ask for more.
            events.set_buffer(SMALL)?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if let Some(events) = squeezed.take() {
        events.set_buffer(LARGE)?;
    }
    if let Trouble::Killed(number) = trouble {
        pair.topology.router_mut(number)?.node.kill(program(incumbent))?;
        tokio::time::sleep(DOWN).await;
    }
    // What was lost while it lasted is what is to be repaired: nothing changes any more.
    let changes = churn.stop()?;
    let (during, ended) = (pair.topology.channel_bytes()?, now());
    finish(pair, trouble, incumbent).await?;
    let (took, missing, stale, held) = if incumbent {
        incumbent_equal(pair, own, ended).await?
    } else {
        let took = wait_equal(pair, ended).await?;
        let (missing, stale, held) = differing(pair, own)?;
        (took, missing, stale, held)
    };
    let bytes = pair.topology.channel_bytes()?;
    // The loss is over only now: equality had to come through it.
    pair.topology.channel_passes(true)?;
    let remark = match before_it {
        Some(before) => {
            let counted = Counted::of(pair).await?.since(&before);
            ensure!(trouble != Trouble::SmallBuffer || counted.0[0] > 0, "the small buffer was never full");
            counted.to_string()
        }
        None => String::new(),
    };
    Ok(Row { changes, during: during - before, took, bytes: bytes - during, held, missing, stale, remark })
}

/// What both daemons have counted together.
struct Counted([u64; 5]);

impl Counted {
    const NAMES: [&str; 5] =
        ["overruns", "nacks", "resent_datagrams", "repairs", "repaired_entries_received"];

    async fn of(pair: &Pair) -> Result<Counted> {
        let mut all = [0; 5];
        for number in [1, 2] {
            for (name, sum) in Counted::NAMES.iter().zip(&mut all) {
                *sum += pair.topology.router(number)?.counter(name).await?;
            }
        }
        Ok(Counted(all))
    }

    /// A daemon that was started again counts from nothing.
    fn since(&self, before: &Counted) -> Counted {
        let mut all = self.0;
        for (now, before) in all.iter_mut().zip(before.0) {
            *now = now.saturating_sub(before);
        }
        Counted(all)
    }
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, count) in Counted::NAMES.iter().zip(self.0).filter(|(_, count)| *count > 0) {
            write!(f, "; {count} {}", name.replace('_', " "))?;
        }
        Ok(())
    }
}

fn program(incumbent: bool) -> &'static str {
    if incumbent { "conntrackd" } else { "ctsync" }
}

async fn begin(pair: &mut Pair, trouble: Trouble, incumbent: bool) -> Result<()> {
    match trouble {
        Trouble::None | Trouble::SmallBuffer | Trouble::Killed(_) => Ok(()),
        Trouble::Loss(percent) => pair.topology.channel_loses(percent),
        Trouble::Cut => pair.topology.channel_passes(false),
        Trouble::SmallMtu => {
            for number in [1, 2] {
                Links::open(&pair.topology.router(number)?.node.net)?.set_mtu("eth0", SMALL_MTU).await?;
            }
            Ok(())
        }
        Trouble::Stopped(number) => {
            pair.topology.router(number)?.node.signal(program(incumbent), Signal::SIGSTOP)
        }
    }
}

async fn finish(pair: &mut Pair, trouble: Trouble, incumbent: bool) -> Result<()> {
    match trouble {
        Trouble::None | Trouble::SmallBuffer | Trouble::Loss(_) => Ok(()),
        Trouble::SmallMtu => {
            let fragments = fragments(pair)?;
            ensure!(fragments <= LATE, "the owner's datagrams were cut into {fragments} fragments");
            Ok(())
        }
        Trouble::Cut => pair.topology.channel_passes(true),
        Trouble::Stopped(number) => {
            pair.topology.router(number)?.node.signal(program(incumbent), Signal::SIGCONT)
        }
        Trouble::Killed(number) => {
            let router = pair.topology.router_mut(number)?;
            if incumbent { router.restart_incumbent().await } else { router.start_ctsync() }
        }
    }
}

/// Fragments that router1 has made: the second line of `Ip:` has the numbers to the names in the first.
fn fragments(pair: &Pair) -> Result<u64> {
    let table = pair.topology.router(1)?.node.output("cat", &["/proc/net/snmp"])?;
    let mut lines = table.lines().filter(|line| line.starts_with("Ip: "));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { bail!("no Ip: in snmp") };
    let mut all = names.split_whitespace().zip(numbers.split_whitespace());
    let (_, count) = all.find(|(name, _)| *name == "FragCreates").context("no FragCreates")?;
    Ok(count.parse()?)
}

/// Until both daemons say that they are equal; since when they have been.
async fn wait_equal(pair: &Pair, ended: Instant) -> Result<Duration> {
    let (one, two) = (pair.topology.router(1)?, pair.topology.router(2)?);
    until("both say that they are equal", PATIENCE, async || {
        let (owner, backup) = (one.status().await?, two.status().await?);
        let (owner, backup) = (&owner["state"], &backup["state"]);
        let at = ended.elapsed();
        let equal = owner["root"] == backup["root"]
            && owner["unsent"] == 0
            && owner["protected"] == true
            && backup["readiness"] == "ready"
            && backup["pending"] == 0;
        if equal {
            return Ok(Some(at));
        }
        bail!("owner {owner}, backup {backup}")
    })
    .await
}

/// Entries that router2's kernel lacks, that it has beyond router1's, and how many router1's has.
fn differing(pair: &Pair, own: &[String]) -> Result<(usize, usize, usize)> {
    let owner = judge::entries(&pair.topology.router(1)?.node, own)?;
    let backup = judge::entries(&pair.topology.router(2)?.node, own)?;
    Ok((owner.difference(&backup).count(), backup.difference(&owner).count(), owner.len()))
}

/// conntrackd installs at a takeover only: what counts is its external cache, and of that the tuples.
async fn incumbent_equal(
    pair: &Pair,
    own: &[String],
    ended: Instant,
) -> Result<(Duration, usize, usize, usize)> {
    let tuples = |line: &str| -> String {
        let kept = line
            .split_whitespace()
            .filter(|word| ["src=", "dst=", "sport=", "dport="].iter().any(|name| word.starts_with(name)));
        // Of the reply direction it shows nothing translated: the original one tells them apart.
        kept.take(4).collect::<Vec<_>>().join(" ")
    };
    loop {
        let owner: BTreeSet<String> =
            judge::entries(&pair.topology.router(1)?.node, own)?.iter().map(|line| tuples(line)).collect();
        let shown = incumbent::external(&pair.topology.router(2)?.node)?;
        let wanted = shown.lines().filter(|line| !judge::is_noise(line, own));
        let backup: BTreeSet<String> = wanted.map(tuples).filter(|line| !line.is_empty()).collect();
        let (missing, stale) = (owner.difference(&backup).count(), backup.difference(&owner).count());
        if missing + stale == 0 || ended.elapsed() > INCUMBENT {
            return Ok((ended.elapsed(), missing, stale, owner.len()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
