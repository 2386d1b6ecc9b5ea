//! Too little of something: room for events, or a channel that carries a quarter of what is needed.

use std::time::Duration;

use anyhow::Result;

use super::figures::Figures;
use super::work::{Wanted, Work};
use crate::load::churn::Churn;
use crate::load::entries;
use crate::machine::wait::now;

/// How long changes are made at full rate, without and with the limit.
const FREE: Duration = Duration::from_secs(5);
const LIMITED: Duration = Duration::from_secs(10);
/// Entries that are changed.
const NUMBERS: u32 = 100_000;
/// The pair's own connections come and go while it is counted.
const OWN: u64 = 20;

/// Creates at full rate into the event buffer that both documentations name.
pub(super) async fn buffer(work: &Work<'_>, events: u32, figures: &mut Figures) -> Result<()> {
    let (lost, heard) = (work.lost()?, work.heard());
    let began = now();
    let made = entries::create(&work.node(1)?.net, 0, events)?;
    let took = began.elapsed();
    let wanted = Wanted { entries: made.into(), mark: None, heard: heard + u64::from(made) };
    let lacking = work.settle(wanted).await?;
    let mut note =
        |row: &str, value: f64| figures.note(work.subject, format!("8 MB of events: {row}"), value);
    note("k creates/s", f64::from(made) / took.as_secs_f64() / 1e3);
    note("events lost", (work.lost()? - lost) as f64);
    note("equal after the last one, s", (began.elapsed() - took).as_secs_f64());
    note("not equal at the end", lacking as f64);
    Ok(())
}

/// Changes at full rate, and the channel limited to a quarter of the bytes that they needed.
pub(super) async fn channel(work: &Work<'_>, figures: &mut Figures) -> Result<()> {
    let net = work.node(1)?.net.clone();
    let own = work.held(1)? + OWN;
    let bytes = work.topology.channel_bytes()?;
    let churn = Churn::start(&net, 0..NUMBERS, None);
    let began = now();
    tokio::time::sleep(FREE).await;
    let changes = churn.stop()?;
    let need = (work.topology.channel_bytes()? - bytes) as f64 / began.elapsed().as_secs_f64();
    settle(work, own).await?;
    let limit = 8.0 * need / 4.0;
    let rate = format!("{limit:.0}bit");
    let node = work.node(1)?;
    // A second of it may wait, as in a switch with deep buffers.
    let queue = format!("{:.0}", limit / 8.0);
    node.output(
        "tc",
        &["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "64k", "limit", &queue],
    )?;
    let memory = work.memory(1)?;
    let churn = Churn::start(&net, NUMBERS..2 * NUMBERS, None);
    let began = now();
    let (mut behind, mut grown) = (0, 0);
    while began.elapsed() < LIMITED {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if work.subject.is_ctsync() {
            let status = work.topology.router(1)?.status().await?;
            behind = behind.max(status["state"]["unsent"].as_u64().unwrap_or(0));
        }
        grown = grown.max(work.memory(1)?.saturating_sub(memory));
    }
    let limited = churn.stop()?;
    let ended = now();
    let lacking = settle(work, own).await?;
    let mut note =
        |row: &str, value: f64| figures.note(work.subject, format!("quarter channel: {row}"), value);
    note("needed, Mbit/s", need * 8.0 / 1e6);
    note("limit, Mbit/s", limit / 1e6);
    note("k changes/s, free", changes as f64 / FREE.as_secs_f64() / 1e3);
    note("k changes/s, limited", limited as f64 / LIMITED.as_secs_f64() / 1e3);
    if work.subject.is_ctsync() {
        note("most changes waiting", behind as f64);
    }
    note("memory grown, MB", grown as f64 / 1e6);
    note("equal after the last change, s", ended.elapsed().as_secs_f64());
    note("not equal at the end", lacking as f64);
    work.node(1)?.output("tc", &["qdisc", "del", "dev", "eth0", "root"])?;
    Ok(())
}

async fn settle(work: &Work<'_>, own: u64) -> Result<u64> {
    work.settle(Wanted { entries: work.held(1)?.saturating_sub(own), mark: None, heard: 0 }).await
}
