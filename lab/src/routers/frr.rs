//! FRR's vrrpd on a router: a macvlan for each VRRP instance, its configuration, zebra and vrrpd.
//!
//! Called by `topology` and the scenario `frr`. FRR's directories are the node's own; its daemons become
//! another user, so this needs root.
//!
//! What vrrpd does with its macvlans, seen with FRR 8.4.4 on Linux 6.18:
//! - The address stays on the macvlan for ever, on the backup too. What moves is the interface: the backup's
//!   is `protodown on`, `NO-CARRIER`, operstate DOWN; its administrative flag stays UP. The owner's is
//!   operstate UP. So the role is "the address is present **and** the interface is operationally up".
//! - On the way up the kernel tells two changes within half a millisecond, the first of them still DOWN.
//! - With advertisements every 100 ms a dead owner is replaced after 0.3 s. A preempted owner goes DOWN at
//!   once.
//! - vrrpd ended by SIGTERM takes its interfaces down with it. After SIGKILL they stay UP, and so does the
//!   other router's soon: two owners, until vrrpd runs there again.
//! - A new macvlan is UP until vrrpd has looked at it. Made with `protodown on` it is DOWN, and vrrpd lifts
//!   that when elected.
//! - There are no sync groups: WAN and LAN are elected each for itself.
//! - Packets to the virtual MAC come in on the macvlan: rules with `iifname eth1` do not see them. Packets to
//!   the network go out by `eth1`, whose own address came first.
//! - A macvlan that is `protodown` still takes frames in: when the owner's port is gone and the switch
//!   floods, a hot standby carries the connections on before it is elected.
//! - `arp_announce` must be 2, else the router's questions tell the neighbours its own MAC for the virtual
//!   address.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::machine::wait::until;
use crate::routers::documented::Instance;
use crate::routers::router::Router;

/// Milliseconds between two advertisements; vrrpd counts in tens.
pub(crate) const ADVERT: u32 = 100;

/// Longest wait for zebra's socket.
const START: Duration = Duration::from_secs(20);

/// Macvlans, configuration, zebra, vrrpd.
pub(crate) async fn start(router: &mut Router) -> Result<()> {
    for (name, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
        router.node.net.sysctl(&format!("net/ipv4/conf/all/{name}"), value)?;
    }
    let links: String = router.told.instances.iter().map(macvlan).collect();
    router.node.feed("ip", &["-batch", "-"], &links)?;
    let etc = router.node.own("/etc/frr")?;
    let file = etc.join("frr.conf");
    std::fs::write(&file, configuration(router)).context("cannot write frr.conf")?;
    // Both are read and written by the user frr.
    router.node.output("chown", &["frr:frr", "/etc/frr/frr.conf"])?;
    router.node.output("install", &["-d", "-o", "frr", "-g", "frr", "/run/frr"])?;
    let arguments = ["-f", "/etc/frr/frr.conf", "--log", "stdout"];
    router.node.start("zebra", "/usr/lib/frr/zebra", &arguments)?;
    let socket = router.node.run_directory().join("frr/zserv.api");
    until("zebra listens", START, async || Ok(socket.exists().then_some(()))).await?;
    start_vrrpd(router)
}

/// vrrpd alone, as after its end.
pub(crate) fn start_vrrpd(router: &mut Router) -> Result<()> {
    router.node.start("vrrpd", "/usr/lib/frr/vrrpd", &["-f", "/etc/frr/frr.conf", "--log", "stdout"])
}

/// The macvlan of an instance, as FRR's documentation names it.
pub(crate) fn device(instance: &Instance) -> String {
    format!("vrrp4-{}", instance.vrid)
}

/// Whether the instance's addresses are here, and whether the interface that has them is operationally up.
pub(crate) fn seen(router: &Router, instance: &Instance) -> Result<(bool, bool)> {
    let name = device(instance);
    let shown = router.node.output("ip", &["-json", "address", "show", "dev", &name])?;
    let shown: Value = serde_json::from_str(&shown).context("ip's JSON")?;
    let has = |address: &String| {
        let (address, _) = address.split_once('/').unwrap_or((address, ""));
        shown[0]["addr_info"].as_array().into_iter().flatten().any(|known| known["local"] == address)
    };
    let present = instance.addresses.iter().chain(&instance.excluded).all(has);
    Ok((present, shown[0]["operstate"] == "UP"))
}

/// Down until vrrpd says otherwise: it must not look like an owner's before an election.
fn macvlan(instance: &Instance) -> String {
    let name = device(instance);
    let Instance { interface, vrid, .. } = instance;
    let mut lines = format!(
        "link add {name} link {interface} type macvlan mode bridge\n\
         link set {name} address 00:00:5e:00:01:{vrid:02x}\nlink set {name} protodown on\n"
    );
    for address in instance.addresses.iter().chain(&instance.excluded) {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        lines += &format!("address add {address} dev {name}{nodad}\n");
    }
    lines + &format!("link set {name} up\n")
}

/// Only IPv4 is elected: IPv6 would need a macvlan of its own. Excluded addresses share the interface's fate.
fn configuration(router: &Router) -> String {
    let mut text = String::from("frr defaults traditional\n");
    for instance in &router.told.instances {
        let Instance { interface, vrid, priority, .. } = instance;
        text += &format!(
            "interface {interface}\n vrrp {vrid} version 3\n vrrp {vrid} priority {priority}\n \
             vrrp {vrid} advertisement-interval {ADVERT}\n"
        );
        for address in instance.addresses.iter().filter(|address| !address.contains(':')) {
            let address = address.split('/').next().unwrap_or_default();
            text += &format!(" vrrp {vrid} ip {address}\n");
        }
        text += "exit\n";
    }
    text
}
