//! What a takeover costs beside how many entries: the same fence over tables of very different sizes, with
//! the changes of the last moment in flight. Beside it a cold standby, and conntrackd's commit.
//!
//! Called as `run fence` with two sizes, and by `soak fence`, which writes a plot. keepalived does not run:
//! the lab writes its lines into the FIFO and moves the addresses, so that every fence begins equally long
//! after the cut. The cut is a real one: both cables of the owner.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::stage::{Checks, Stage};
use crate::story::narrator::Narrator;

mod bench;
mod plot;

use bench::Bench;

/// Changes made just before the cut.
const CHANGES: u32 = 1_000;
/// Real connections that must speak afterwards.
const SAMPLED: usize = 100;
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
