//! The channel's interface and the path behind it: deleted and made again, renamed, down, without its
//! address; a switch that drops what is long. The channel is taken up by itself, and what is sent in vain is
//! bounded.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::entries;
use crate::machine::wait::{now, until};
use crate::routers::options::Options;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 20;
/// Entries to be carried over the narrow path, and how long that is watched.
const ENTRIES: u32 = 3_000;
const WATCHED: Duration = Duration::from_secs(20);
/// Bytes that router1 may send meanwhile: ten times what the entries take. It was 6 MB a second once.
const PLENTY: u64 = 1_000_000;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    let options = Options { channel: true, lines: &["interface chan0"], ..stage.usual() };
    let mut pair = Pair::start_with(stage, options, CONNECTIONS).await?;
    let mut checks = Checks::new(narrator);
    checks.narrator.chapter("The channel's interface changes");
    for (what, breaks, mends) in [
        ("it is deleted and made again", &["link del chan0"][..], true),
        ("it is set down and up", &["link set chan0 down"], false),
    ] {
        let told = change(&mut pair, breaks, mends).await;
        checks.note(what, told);
    }
    checks
        .note("its address is removed and comes back: the channel goes on", without_address(&mut pair).await);
    checks.note("it is renamed: the channel goes on, and says so", renamed(&pair).await);

    checks.narrator.chapter("A switch that drops what is longer than 1280 bytes");
    checks.note("the tables become equal, and no storm", narrow(&pair).await);
    let alive = pair.wait_alive().await;
    checks.note("every connection speaks", alive.map(|alive| alive.to_string()));
    Ok(checks.end())
}

fn ip(pair: &Pair, number: u8, command: &str) -> Result<()> {
    pair.topology.router(number)?.node.output("ip", &command.split(' ').collect::<Vec<_>>()).map(|_| ())
}

/// Router2 loses its channel, entries are made meanwhile; it comes back.
async fn change(pair: &mut Pair, breaks: &[&str], made_anew: bool) -> Result<String> {
    for command in breaks {
        ip(pair, 2, command)?;
    }
    for number in [1, 2] {
        let router = pair.topology.router(number)?;
        until(&format!("router{number} is not protected"), PATIENCE, async || {
            Ok((router.status().await?["protected"] == false).then_some(()))
        })
        .await?;
    }
    let told = pair.topology.router(2)?.status().await?["verdict"].clone();
    pair.clients.clear();
    pair.open(CONNECTIONS).await?;
    let second = pair.topology.router(2)?;
    if made_anew {
        second.make_channel()?;
    } else {
        second.raise_channel()?;
    }
    let began = now();
    pair.wait_ready(2).await?;
    for number in [1, 2] {
        let router = pair.topology.router(number)?;
        until(&format!("router{number} is protected again"), PATIENCE, async || {
            let status = router.status().await?;
            if status["protected"] == true { Ok(Some(())) } else { bail!("{}", status["verdict"]) }
        })
        .await?;
    }
    let held = pair.wait_equal().await?;
    Ok(format!("{told}; protected again after {:.1} s, {held} entries", began.elapsed().as_secs_f64()))
}

async fn without_address(pair: &mut Pair) -> Result<String> {
    ip(pair, 2, "address flush dev chan0")?;
    pair.clients.clear();
    pair.open(CONNECTIONS).await?;
    let held = pair.wait_equal().await?;
    pair.topology.router(2)?.raise_channel()?;
    pair.clients.clear();
    pair.open(CONNECTIONS).await?;
    let then = pair.wait_equal().await?;
    pair.wait_ready(2).await?;
    Ok(format!("{held} entries, then {then}"))
}

async fn renamed(pair: &Pair) -> Result<String> {
    for command in ["link set chan0 down", "link set chan0 name chan9", "link set chan9 up"] {
        ip(pair, 2, command)?;
    }
    let second = pair.topology.router(2)?;
    let remark = until("status names the new name", PATIENCE, async || {
        let status = second.status().await?;
        let remarks = status["remarks"].as_array().cloned().unwrap_or_default();
        let found =
            remarks.iter().filter_map(|remark| remark.as_str()).find(|remark| remark.contains("chan9"));
        Ok(found.map(str::to_owned))
    })
    .await?;
    until("router2 is protected", PATIENCE, async || {
        let status = second.status().await?;
        if status["protected"] == true { Ok(Some(())) } else { bail!("{}", status["verdict"]) }
    })
    .await?;
    for command in ["link set chan9 down", "link set chan9 name chan0", "link set chan0 up"] {
        ip(pair, 2, command)?;
    }
    pair.wait_ready(2).await?;
    Ok(remark)
}

/// A bridge with a smaller MTU tells nobody what it drops.
async fn narrow(pair: &Pair) -> Result<String> {
    pair.topology.channel_carries(1280)?;
    let first = pair.topology.router(1)?;
    let before = first.statistics().await?["bytes"][0].as_u64().context("no count")?;
    let began = now();
    entries::create(&first.node.net, 0, ENTRIES)?;
    pair.wait_equal().await?;
    pair.wait_ready(2).await?;
    let equal = began.elapsed();
    let remark = until("status says that the path is narrow", PATIENCE, async || {
        let status = first.status().await?;
        let remarks = status["remarks"].as_array().cloned().unwrap_or_default();
        let found =
            remarks.iter().filter_map(|remark| remark.as_str()).find(|remark| remark.contains("get through"));
        Ok(found.map(str::to_owned))
    })
    .await?;
    until("it has been watched", PATIENCE, async || Ok((began.elapsed() > WATCHED).then_some(()))).await?;
    let sent = first.statistics().await?["bytes"][0].as_u64().context("no count")? - before;
    ensure!(sent < PLENTY, "{sent} bytes were sent in {} s", WATCHED.as_secs());
    ensure!(first.status().await?["protected"] == true, "{}", first.status().await?["verdict"]);
    Ok(format!(
        "{ENTRIES} entries after {:.1} s, {sent} bytes sent in {} s; {remark}",
        equal.as_secs_f64(),
        WATCHED.as_secs()
    ))
}
