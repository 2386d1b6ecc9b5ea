//! The owner's memory while its peer stands still and changes go on: a function of the table, not of the
//! changes.
//!
//! Called as `soak memory`. Writes a plot.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use plotters::prelude::*;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::churn::Churn;
use crate::machine::node::Node;
use crate::machine::wait::until;
use crate::story::narrator::Narrator;

/// Connections that change.
const CHANGING: u32 = 50_000;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Growth that is still flat, in percent of what it was after half of the changes: until then every
/// connection has been there once.
const FLAT: u64 = 102;

/// One look.
struct Seen {
    changes: u64,
    /// Resident memory in kB.
    resident: u64,
}

/// So many changes with a peer that stands still; the plot goes to `plot`.
pub(crate) async fn tell(
    stage: &Stage<'_>,
    narrator: &mut Narrator,
    changes: u64,
    plot: &Path,
) -> Result<bool> {
    narrator.chapter(&format!("{changes} changes with a peer that stands still"));
    let pair = Pair::start(stage, 20).await?;
    let mut checks = Checks::new(narrator);
    let (owner, peer) = (&pair.topology.router(1)?.node, &pair.topology.router(2)?.node);
    peer.signal("ctsync", Signal::SIGSTOP)?;
    let churn = Churn::start(&owner.net, 0..CHANGING, None);
    let mut seen = Vec::new();
    while churn.made() < changes {
        tokio::time::sleep(LOOK).await;
        let last = Seen { changes: churn.made(), resident: resident(owner)? };
        checks.narrator.progress(last.changes, changes, &format!("{} kB", last.resident));
        seen.push(last);
    }
    churn.stop()?;
    checks.note("memory is flat", flat(&seen));
    draw(&seen, plot)?;
    peer.signal("ctsync", Signal::SIGCONT)?;
    let equal = until("both hold the same", PATIENCE, async || {
        let [one, two] = [pair.topology.router(1)?.status().await?, pair.topology.router(2)?.status().await?];
        let same = one["state"]["root"] == two["state"]["root"];
        Ok((same && two["state"]["readiness"] == "ready").then_some(()))
    });
    checks.note("the peer goes on, and both are equal", equal.await.map(|()| String::new()));
    Ok(checks.end())
}

fn resident(node: &Node) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid("ctsync")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().next().and_then(|number| number.parse().ok()).context("no VmRSS")
}

fn flat(seen: &[Seen]) -> Result<String> {
    let last = seen.last().context("nothing was seen")?.changes;
    let early = seen.iter().find(|look| look.changes >= last / 2).context("nothing was seen")?.resident;
    let most = seen.iter().map(|look| look.resident).max().unwrap_or(0);
    let told = format!("{early} kB after half of {last} changes, {most} kB at most");
    ensure!(most * 100 <= early * FLAT, "{told}");
    Ok(told)
}

fn draw(seen: &[Seen], plot: &Path) -> Result<()> {
    let root = SVGBackend::new(plot, (800, 320)).into_drawing_area();
    root.fill(&WHITE)?;
    let changes = |look: &Seen| look.changes as f64 / 1e6;
    let megabytes = |look: &Seen| look.resident as f64 / 1024.0;
    let right = seen.iter().map(changes).fold(0.0, f64::max);
    let top = seen.iter().map(megabytes).fold(0.0, f64::max) * 1.25;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart.configure_mesh().x_desc("million changes").y_desc("resident memory, MB").draw()?;
    chart.draw_series(LineSeries::new(seen.iter().map(|look| (changes(look), megabytes(look))), &BLUE))?;
    root.present().context("cannot write the plot")
}
