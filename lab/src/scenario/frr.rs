//! FRR's vrrpd elects and moves the documented addresses: what it shows of that in the kernel, which is what
//! the mechanism `vip` reads; then a pair whose roles are told by nothing else.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::traffic::{Clients, Life};
use crate::machine::wait::{now, until};
use crate::routers::documented::Instance;
use crate::routers::frr;
use crate::routers::options::{Mover, Options};
use crate::routers::topology::Topology;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 50;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("FRR's vrrpd: what a backup's address looks like");
    let options = Options { sync: false, ..stage.usual() };
    let mut topology = Topology::build(stage.directory, &options).await?;
    for number in [1, 2] {
        frr::start(topology.router_mut(number)?).await?;
    }
    let mut checks = Checks::new(narrator);
    checks.note("router1 is elected", owner(&topology, 1).await);
    checks.note("router2 has the addresses too, on interfaces that are down", is_backup(&topology, 2));
    checks.note("packets to the virtual MAC come in on the macvlan", comes_in(&topology));

    checks.narrator.typed("lab", "cut router1's cables");
    topology.cables(1, false).await?;
    let began = now();
    let owns = owner(&topology, 2).await;
    let took = began.elapsed().as_millis();
    checks.note("router2 takes over", owns.map(|_| format!("after {took} ms")));
    topology.cables(1, true).await?;
    checks.note("router1 preempts", owner(&topology, 1).await);
    checks.note("router2's interfaces go down", until_backup(&topology, 2).await);

    checks.narrator.typed("router1", "kill -KILL vrrpd");
    topology.router_mut(1)?.node.kill("vrrpd")?;
    checks.note("router2 takes over", owner(&topology, 2).await);
    checks.note("router1 looks like an owner all the same", owner(&topology, 1).await);
    frr::start_vrrpd(topology.router_mut(1)?)?;
    checks.note("until vrrpd runs there again", until_backup(&topology, 2).await);

    checks.narrator.typed("router1", "kill -TERM vrrpd");
    topology.router(1)?.node.signal("vrrpd", Signal::SIGTERM)?;
    checks.note("its interfaces go down", until_backup(&topology, 1).await);
    checks.note("router2 takes over", owner(&topology, 2).await);
    for number in [1, 2] {
        topology.power_off(number).await?;
    }
    drop(topology);

    checks.narrator.chapter("The role by the addresses alone");
    let told = takeover(stage, checks.narrator).await;
    checks.note("every connection lives", told);
    Ok(checks.end())
}

/// Router1 dies, returns, and is started as a candidate when it is ready.
async fn takeover(stage: &Stage<'_>, narrator: &Narrator) -> Result<String> {
    let options = Options {
        mover: Mover::Frr,
        gate: false,
        lines: &["failover-mechanism vip address 10.0.0.1", "failover-mechanism vip address 10.0.1.1"],
        rules: "add rule inet vyos forward iifname \"vrrp4-*\" oifname eth0 ct state new counter accept\n",
        ..stage.usual()
    };
    let mut pair = Pair::start_with(stage, options, 0).await?;
    owns_group(&pair, 1).await?;
    pair.topology.forget_neighbours()?;
    pair.open(CONNECTIONS).await?;
    pair.wait_ready(2).await?;
    // Both routers have the addresses: who carries the connections has to be seen.
    let carried = [pair.topology.router(1)?.carried()?, pair.topology.router(2)?.carried()?];
    ensure!(carried[0] > 0 && carried[1] == 0, "packets through router1 and router2: {carried:?}");
    narrator.typed("lab", "destroy router1's namespace");
    pair.clients.iter().for_each(Clients::mark);
    pair.topology.power_off(1).await?;
    pair.clients.iter().for_each(Clients::mark_echoes);
    let alive = until("every connection speaks after router1's end", PATIENCE, async || {
        let lives: Vec<_> = pair.clients.iter().flat_map(Clients::lives).collect();
        Ok(lives.iter().all(Life::alive).then_some(lives.len()))
    })
    .await?;
    owns_group(&pair, 2).await?;
    let gap = pair.clients.iter().flat_map(Clients::lives).map(|life| life.gap).max().unwrap_or_default();
    narrator.typed("router1", "ctsync wait-ready; systemctl start frr");
    pair.topology.boot_router(1).await?;
    pair.topology.rejoin(1).await?;
    owns_group(&pair, 1).await.context("after router1's return")?;
    let again = pair.wait_alive().await.context("after router1's return")?;
    Ok(format!(
        "{alive} after router1's end, longest gap {:.2} s; {again} after its return",
        gap.as_secs_f64()
    ))
}

async fn owns_group(pair: &Pair, number: u8) -> Result<()> {
    let router = pair.topology.router(number)?;
    until(&format!("router{number} owns the group"), PATIENCE, async || {
        let status = router.status().await?;
        Ok((status["state"]["owner"] == true).then_some(()))
    })
    .await
}

fn all(topology: &Topology, number: u8, up: bool) -> Result<bool> {
    let router = topology.router(number)?;
    for instance in &router.told.instances {
        if frr::seen(router, instance)? != (true, up) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Until a router has every address on an interface that is up.
async fn owner(topology: &Topology, number: u8) -> Result<String> {
    until(&format!("router{number} owns every address"), PATIENCE, async || {
        Ok(all(topology, number, true)?.then(String::new))
    })
    .await
}

async fn until_backup(topology: &Topology, number: u8) -> Result<String> {
    until(&format!("router{number} is backup of every address"), PATIENCE, async || {
        Ok(all(topology, number, false)?.then(String::new))
    })
    .await
}

fn is_backup(topology: &Topology, number: u8) -> Result<String> {
    let router = topology.router(number)?;
    let shown = router.node.output("ip", &["-brief", "link", "show", "type", "macvlan"])?;
    ensure!(all(topology, number, false)?, "{shown}");
    Ok(shown.split_whitespace().filter(|word| word.contains('<')).collect::<Vec<_>>().join(" "))
}

/// The client pings the LAN's virtual address; which interface router1 has counted it on.
fn comes_in(topology: &Topology) -> Result<String> {
    let router = topology.router(1)?;
    let lan = |instance: &&Instance| instance.interface == "eth1";
    let instance = router.told.instances.iter().find(lan);
    let device = instance.map(frr::device).unwrap_or_default();
    let count = |name: &str| format!("iifname {name} icmp type echo-request counter");
    let rules = format!(
        "table ip seen {{ chain input {{ type filter hook input priority 0; {}; {}; }}; }}\n",
        count("eth1"),
        count(&device)
    );
    router.node.feed("nft", &["-f", "-"], &rules)?;
    topology.client.output("ping", &["-c", "3", "-i", "0.2", "-W", "2", "10.0.1.1"])?;
    let seen = router.node.output("nft", &["list", "table", "ip", "seen"])?;
    let on = |name: &str| {
        let line = seen.lines().find(|line| line.contains(&format!("iifname \"{name}\"")));
        line.is_some_and(|line| line.contains("packets 3 "))
    };
    ensure!(on(&device) && !on("eth1"), "{seen}");
    let neighbour = topology.client.output("ip", &["neighbour", "show", "10.0.1.1"])?;
    ensure!(neighbour.contains("00:00:5e:00:01:"), "{neighbour}");
    Ok(device)
}
