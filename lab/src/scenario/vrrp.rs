//! keepalived in its other shapes, and keepalived or ctsync killed and started again: the role is known, the
//! takeover loses nothing. The demo has the usual shape.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::traffic::{Clients, Kind};
use crate::machine::wait::until;
use crate::routers::options::{Options, Vrrp};
use crate::routers::topology::SERVER6;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 40;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    let usual = || stage.usual();
    let plain = Vrrp::default();
    let mut pair = Pair::start(stage, 0).await?;
    let mut checks = Checks::new(narrator);
    for (what, options) in [
        (
            "VRRPv2, a second between adverts",
            Options { advert: 1.0, vrrp: Vrrp { version: 2, ..plain }, ..usual() },
        ),
        (
            "unicast VRRP, 100 ms, nobody preempts",
            Options { advert: 0.1, vrrp: Vrrp { unicast: true, preempt: false, ..plain }, ..usual() },
        ),
        (
            "one instance without a sync group",
            Options {
                vrrp: Vrrp { grouped: false, ..plain },
                lines: &[
                    "failover-mechanism vrrp instance WAN",
                    "failover-mechanism vrrp virtual-address 10.0.0.1",
                ],
                ..usual()
            },
        ),
        (
            "IPv6 addresses in instances of their own",
            Options { vrrp: Vrrp { native6: true, ..plain }, ..usual() },
        ),
        (
            "the role by the addresses that keepalived moves",
            Options {
                lines: &[
                    "failover-mechanism vip address 10.0.0.1",
                    "failover-mechanism vip address 10.0.1.1",
                    "failover-mechanism vip address fd00:0:0:a::1",
                ],
                ..usual()
            },
        ),
    ] {
        checks.narrator.chapter(what);
        let told = shape(&mut pair, options, &mut checks).await;
        checks.note(what, told);
    }
    checks.narrator.chapter("Programs end and come back");
    let told = restarts(&mut pair, usual()).await;
    checks.note("ctsync killed on the owner, keepalived ended and started", told);
    Ok(checks.end())
}

/// Router1 dies, returns, and is elected again or is not.
async fn shape(pair: &mut Pair, options: Options, checks: &mut Checks<'_>) -> Result<String> {
    let preempts = options.vrrp.preempt;
    begin(pair, options).await?;
    let before = told_by_keepalived(pair, 1).await?;
    pair.lose_router1(checks.narrator).await?;
    let alive = pair.wait_alive().await.context("after router1's end")?;
    owner_is(pair, 2).await?;
    pair.topology.boot_router(1).await?;
    pair.topology.rejoin(1).await?;
    if preempts {
        owner_is(pair, 1).await.context("after router1's return")?;
        pair.wait_ready(2).await?;
    } else {
        pair.wait_ready(1).await?;
        owner_is(pair, 2).await.context("after router1's return")?;
    }
    let again = pair.wait_alive().await.context("after router1's return")?;
    ensure!(alive == again, "{alive} alive, then {again}");
    let then = if preempts { "router1 was elected again" } else { "router2 stays" };
    Ok(format!("{alive} alive after the takeover and after the return; {then}{before}"))
}

/// Both routers boot anew in this shape.
async fn begin(pair: &mut Pair, options: Options) -> Result<()> {
    pair.clients.clear();
    pair.topology.options = options;
    pair.topology.reboot().await?;
    owner_is(pair, 1).await?;
    pair.wait_ready(2).await?;
    pair.open(CONNECTIONS).await?;
    pair.clients.push(Clients::open(&pair.topology.client.net, Kind::Tcp, SERVER6.parse()?, 5)?);
    pair.wait_alive().await?;
    pair.wait_ready(2).await
}

/// The daemon's own word for how it knows.
async fn told_by_keepalived(pair: &Pair, number: u8) -> Result<String> {
    let status = pair.topology.router(number)?.status().await?;
    let causes: Vec<&str> = status["transitions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|told| told["cause"].as_str())
        .collect();
    let by_address = status["failover-mechanism"].as_str().is_some_and(|told| told.starts_with("vip"));
    let expected = if by_address { "address" } else { "keepalived" };
    ensure!(causes.last() == Some(&expected), "the cause is {causes:?}, expected {expected}");
    Ok(String::new())
}

async fn owner_is(pair: &Pair, number: u8) -> Result<()> {
    let router = pair.topology.router(number)?;
    until(&format!("router{number} owns the group and holds the addresses"), PATIENCE, async || {
        let status = router.status().await?;
        if status["state"]["owner"] == true && router.has_vip().await? {
            return Ok(Some(()));
        }
        bail!("role {}, {}", status["state"]["role"], status["state"]["readiness"])
    })
    .await
}

/// The FIFO replays nothing: a daemon that starts again knows its role from what it kept, and an end of
/// keepalived is no role at all.
async fn restarts(pair: &mut Pair, options: Options) -> Result<String> {
    begin(pair, options).await?;
    let first = pair.topology.router_mut(1)?;
    first.node.kill("ctsync")?;
    first.start_ctsync()?;
    owner_is(pair, 1).await.context("ctsync started again")?;
    pair.wait_ready(2).await?;
    pair.wait_alive().await.context("ctsync started again")?;

    pair.topology.router(1)?.node.signal("keepalived", Signal::SIGTERM)?;
    owner_is(pair, 2).await.context("keepalived ended on router1")?;
    let role = pair.topology.router(1)?.status().await?["state"]["role"].clone();
    ensure!(role == "unknown" || role == "fault", "router1's role is {role}");
    pair.wait_alive().await.context("keepalived ended on router1")?;
    pair.wait_ready(1).await.context("keepalived ended on router1: its daemon follows")?;
    let first = pair.topology.router_mut(1)?;
    first.node.kill("keepalived")?;
    first.start_keepalived()?;
    owner_is(pair, 1).await.context("keepalived started again")?;
    let alive = pair.wait_alive().await.context("keepalived started again")?;
    Ok(format!("{alive} alive throughout"))
}
