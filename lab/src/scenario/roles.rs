//! Roles change, again and again, under load: the virtual addresses wander between the routers, told by
//! nobody but the addresses themselves (`vip`). Then the owner is lost for good and nobody takes its place.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::churn::Churn;
use crate::load::traffic::{Clients, Kind};
use crate::load::{entries, judge};
use crate::machine::wait::{now, until};
use crate::routers::options::{Mover, Options};
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 100;
/// Changes of the role, and between two of them.
const CHANGES: u64 = 100;
const PAUSE: Duration = Duration::from_millis(600);
/// Entries that change beside them, and how many a second.
const CHANGING: u32 = 2_000;
const RATE: u32 = 500;
/// `owner-lost-timeout`, and what the sysctl gives a UDP exchange in one direction.
const OWNER_LOST: Duration = Duration::from_secs(6);
const UDP_TIMEOUT: Duration = Duration::from_secs(12);
/// A timeout as long as this is a lease.
const LEASE: u64 = 3_000;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("The virtual addresses wander");
    let options = Options {
        mover: Mover::Story,
        gate: false,
        lines: &[
            "failover-mechanism vip address 10.0.0.1",
            "failover-mechanism vip address 10.0.1.1",
            "owner-lost-timeout 6",
        ],
        ..stage.usual()
    };
    let mut pair = Pair::start_with(stage, options, CONNECTIONS).await?;
    let mut checks = Checks::new(narrator);
    let changed = wander(&pair, &mut checks).await;
    checks.note(&format!("{CHANGES} role changes under load"), changed);
    checks.note("then quiet: both tables are equal", equal(&pair).await);
    let alive = pair.wait_alive().await;
    checks.note("every connection lives", alive.map(|alive| alive.to_string()));
    checks.note("nothing is left waiting", nothing_left(&pair).await);

    checks.narrator.chapter("The owner is lost for good");
    checks.note("no entry ends before, every entry by its own timeout after", lose_owner(&mut pair).await);
    Ok(checks.end())
}

async fn wander(pair: &Pair, checks: &mut Checks<'_>) -> Result<String> {
    let began = now();
    let churn = Churn::start(&pair.topology.router(1)?.node.net, 0..CHANGING, Some(RATE));
    for change in 0..CHANGES {
        let (from, to) = if change % 2 == 0 { (1, 2) } else { (2, 1) };
        pair.topology.router(from)?.move_addresses(false)?;
        pair.topology.router(to)?.move_addresses(true)?;
        pair.topology.forget_neighbours()?;
        let due = began + PAUSE * u32::try_from(change + 1)?;
        until("the next change is due", PATIENCE, async || Ok((now() >= due).then_some(()))).await?;
        checks.narrator.progress(change + 1, CHANGES, "role changes");
    }
    let seconds = began.elapsed().as_secs_f64();
    let changes = churn.stop()?;
    let mut claims = 0;
    for number in [1, 2] {
        claims += pair.topology.router(number)?.counter("claims").await?;
    }
    ensure!(claims > CHANGES / 2, "only {claims} claims");
    Ok(format!("{seconds:.0} s, {changes} changes of entries, {claims} claims"))
}

async fn equal(pair: &Pair) -> Result<String> {
    pair.wait_ready(2).await?;
    let own = pair.topology.own_addresses()?;
    until("conntrack -L of both routers is equal", PATIENCE, async || {
        let one = judge::entries(&pair.topology.router(1)?.node, &own)?;
        let two = judge::entries(&pair.topology.router(2)?.node, &own)?;
        if one == two {
            return Ok(Some(format!("{} entries", one.len())));
        }
        bail!("{} and {} entries", one.len(), two.len())
    })
    .await
}

async fn nothing_left(pair: &Pair) -> Result<String> {
    for number in [1, 2] {
        let state = pair.topology.router(number)?.status().await?["state"].clone();
        for what in ["pending", "unsent", "offers", "failed", "orphans"] {
            ensure!(state[what] == 0, "router{number}: {what} {}", state[what]);
        }
    }
    Ok(String::new())
}

/// UDP exchanges whose timeouts are short, and entries of TCP whose are long.
async fn lose_owner(pair: &mut Pair) -> Result<String> {
    for number in [1, 2] {
        let net = &pair.topology.router(number)?.node.net;
        for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            net.sysctl(&format!("net/netfilter/{name}"), &UDP_TIMEOUT.as_secs().to_string())?;
        }
    }
    let exchanges = Clients::open(&pair.topology.client.net, Kind::Udp, SERVER.parse()?, 20)?;
    pair.clients.push(exchanges);
    pair.wait_alive().await?;
    entries::create(&pair.topology.router(1)?.node.net, 1_000_000, 500)?;
    equal(pair).await?;
    pair.clients.clear();
    let held = pair.wait_equal().await?;
    pair.topology.power_off(1).await?;
    let lost = now();
    let second = pair.topology.router(2)?;
    let udp = || -> Result<Vec<u64>> {
        let listing = second.node.output("conntrack", &["-L", "-p", "udp", "-d", SERVER])?;
        Ok(listing.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse().ok()).collect())
    };
    while lost.elapsed() + Duration::from_secs(1) < OWNER_LOST {
        let timeouts = udp()?;
        ensure!(timeouts.len() == 20, "{} of 20 UDP entries after {:?}", timeouts.len(), lost.elapsed());
        ensure!(timeouts.iter().all(|left| *left > LEASE), "a lease is gone too early: {timeouts:?}");
    }
    until("the leases go back", PATIENCE, async || {
        let timeouts = udp()?;
        Ok(timeouts.iter().all(|left| *left <= UDP_TIMEOUT.as_secs()).then_some(()))
    })
    .await?;
    let gave_up = lost.elapsed();
    until("UDP entries end by their own timeout", PATIENCE, async || Ok(udp()?.is_empty().then_some(())))
        .await?;
    let ended = lost.elapsed();
    ensure!(gave_up >= OWNER_LOST, "given up after {gave_up:?}");
    ensure!(ended >= gave_up + UDP_TIMEOUT / 2, "ended after {ended:?}");
    let left = second.statistics().await?["external"]["active"].as_u64().unwrap_or(0);
    ensure!(left < held && left >= 500, "{left} entries left of {held}");
    Ok(format!(
        "{held} entries; leases went back after {:.1} s, UDP entries ended after {:.1} s, {left} of TCP stay",
        gave_up.as_secs_f64(),
        ended.as_secs_f64()
    ))
}
