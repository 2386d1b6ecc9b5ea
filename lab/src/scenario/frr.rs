//! FRR's vrrpd elects and moves the documented addresses: what it shows of that in the kernel is what the mechanism must
//! read. ctsync does not take part yet.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{Checks, PATIENCE, Stage};
use crate::documented::Instance;
use crate::frr;
use crate::narrator::Narrator;
use crate::router::Options;
use crate::topology::Topology;
use crate::wait::{now, until};

pub async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("FRR's vrrpd: what a backup's address looks like");
    let options = Options { sync: false, ..Options::usual(stage.ctsync.clone()) };
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
    Ok(checks.end())
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
