//! A minute of nothing: what a pair spends that has entries and no events.

use std::time::Duration;

use anyhow::{Context, Result};

use super::bulk;
use super::figures::Figures;
use super::work::Work;
use crate::machine::wait::now;

const ENTRIES: u32 = 10_000;
const WATCHED: Duration = Duration::from_secs(60);

/// One subject.
pub(super) async fn measure(work: &Work<'_>, figures: &mut Figures) -> Result<()> {
    bulk::fill(work, ENTRIES).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = [(work.spent(1)?, work.switches(1)?), (work.spent(2)?, work.switches(2)?)];
    let bytes = work.topology.channel_bytes()?;
    let began = now();
    tokio::time::sleep(WATCHED).await;
    let took = began.elapsed().as_secs_f64();
    for (number, name) in [(1, "owner"), (2, "backup")] {
        let (spent, woken) = before.get(usize::from(number) - 1).context("two routers")?;
        let used = work.spent(number)?.all.saturating_sub(spent.all).as_secs_f64() * 1e3;
        figures.note(work.subject, format!("idle: {name}, ms in 60 s"), used);
        figures.note(
            work.subject,
            format!("idle: {name}, wake-ups/s"),
            (work.switches(number)? - woken) as f64 / took,
        );
    }
    let sent = work.topology.channel_bytes()? - bytes;
    figures.note(work.subject, "idle: wire, bytes/s", sent as f64 / took);
    Ok(())
}
