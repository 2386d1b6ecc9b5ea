//! A hundred differences beside 500,000 entries: between a table and its kernel, and between two tables.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::bulk::WHOLE;
use super::figures::Figures;
use super::work::{OWN, Wanted, Work};
use crate::load::entries;
use crate::machine::wait::{now, until};
use crate::scenario::differences;

const PATIENCE: Duration = Duration::from_secs(60);

/// What the budget is about.
pub(super) const TABLES_SECONDS: &str = "repair of 100 of 500000 between two tables, s";
pub(super) const TABLES_BYTES: &str = "repair of 100 of 500000 between two tables, kB";

/// A hundred differences between table and kernel that nobody heard of, half of them on each side: ended
/// entries and marked ones. Most of its time is the two dumps.
pub(super) async fn kernels(work: &Work<'_>, figures: &mut Figures) -> Result<()> {
    const EACH: u32 = 25;
    const MARK: u32 = 77;
    let step = WHOLE / (4 * EACH);
    let numbers = |kind: u32| (0..EACH).map(move |at| (4 * at + kind) * step).collect::<Vec<u32>>();
    for (number, kinds) in [(1, [0, 1]), (2, [2, 3])] {
        let [ended, marked] = kinds.map(numbers);
        differences::plant(work.node(number)?, &ended, &marked, MARK)?;
    }
    let bytes = work.topology.channel_bytes()?;
    let began = now();
    for number in [1, 2] {
        let router = work.topology.router(number)?;
        router.node.output(&router.binary()?, &["resync"])?;
    }
    // router1's kernel is the truth: what it has lost is gone, what router2 has lost comes back, its marks
    // go.
    let held = u64::from(WHOLE - EACH);
    until("both kernels are as router1's was", PATIENCE, async || {
        let marks = [1, 2].map(|number| differences::marked(work.node(number)?, MARK));
        let [one, two] = marks;
        let (one, two) = (one?, two?);
        ensure!(one == EACH as usize && two == one, "marked {one} and {two}");
        ensure!((held..held + OWN).contains(&work.held(2)?), "router2 holds {}", work.held(2)?);
        Ok(Some(()))
    })
    .await?;
    let row = |unit: &str| format!("resync of {} planted in {WHOLE}, {unit}", 4 * EACH);
    figures.note(work.subject, row("s"), began.elapsed().as_secs_f64());
    figures.note(work.subject, row("kB"), (work.topology.channel_bytes()? - bytes) as f64 / 1e3);
    Ok(())
}

/// What two tables differ in after a cut: more has changed meanwhile than the owner keeps, and all but a
/// hundred entries are as they were. Nothing can be sent again: the digests have to find them.
pub(super) async fn tables(work: &Work<'_>, figures: &mut Figures) -> Result<()> {
    const FEW: u32 = 25;
    let net = work.node(1)?.net.clone();
    // An entry without a mark and one whose mark is 0 again are not told in the same words.
    ensure!(entries::change_spread(&net, (0, 1), WHOLE, 0)? == WHOLE, "not all entries were marked");
    settled(work).await?;
    work.topology.channel_passes(false)?;
    for mark in [9, 0] {
        ensure!(entries::change_spread(&net, (0, 1), WHOLE, mark)? == WHOLE, "not all entries were marked");
    }
    let changed = entries::change_spread(&net, (0, WHOLE / (3 * FEW)), 2 * FEW, 5)?;
    let (ended, created) = (entries::end(&net, WHOLE - FEW, FEW)?, entries::create(&net, WHOLE, FEW)?);
    ensure!(changed + ended + created == 4 * FEW, "{changed}, {ended} and {created} were done");
    let one = work.topology.router(1)?;
    until("router1 has told of everything", PATIENCE, async || {
        Ok((one.status().await?["state"]["unsent"] == 0).then_some(()))
    })
    .await?;
    let (repaired, bytes) = (repaired_by(work).await?, work.topology.channel_bytes()?);
    let began = now();
    work.topology.channel_passes(true)?;
    let lacking = settled(work).await?;
    figures.note(work.subject, TABLES_SECONDS, began.elapsed().as_secs_f64());
    figures.note(work.subject, TABLES_BYTES, (work.topology.channel_bytes()? - bytes) as f64 / 1e3);
    // Whole buckets would be more than differ; none, and it was not the digests that found them.
    let sent = repaired_by(work).await? - repaired;
    ensure!((u64::from(3 * FEW)..u64::from(40 * FEW)).contains(&sent), "{sent} entries were sent");
    figures.note(work.subject, "repair between two tables: not equal at the end", lacking as f64);
    Ok(())
}

/// Both tables, and router2's kernel, hold all of them; how many are missing.
async fn settled(work: &Work<'_>) -> Result<u64> {
    work.settle(Wanted { entries: WHOLE.into(), mark: None, heard: 0 }).await
}

/// Entries that router2 has got by repair.
async fn repaired_by(work: &Work<'_>) -> Result<u64> {
    work.topology.router(2)?.counter("repaired_entries_received").await
}
