//! Masquerade to a virtual address: the kernel ends such connections when the address or its interface goes,
//! and a standby that were told so would end its good copies. The address goes in every way that it goes in a
//! router's life; every connection lives.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::traffic::{Clients, Kind};
use crate::machine::wait::{now, until};
use crate::routers::options::Options;
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 30;
const EXCHANGES: usize = 10;
/// In which keepalived notices that an address is gone.
const A_MOMENT: Duration = Duration::from_secs(2);

/// How router1 loses the address, and how it gets it back.
struct Way {
    what: &'static str,
    lose: &'static [&'static str],
    back: &'static [&'static str],
    /// keepalived is stopped with SIGTERM before, or behind.
    keepalived: Option<bool>,
    /// keepalived puts the address back, and router1 stays.
    stays: bool,
}

const WAYS: [Way; 5] = [
    Way { what: "keepalived is stopped", lose: &[], back: &[], keepalived: Some(true), stays: false },
    Way {
        what: "the address is removed by hand",
        lose: &["address del 10.0.0.1/24 dev eth0"],
        back: &[],
        keepalived: None,
        stays: true,
    },
    Way {
        what: "its interface is set down",
        lose: &["link set eth1 down"],
        back: &["link set eth1 up"],
        keepalived: None,
        stays: false,
    },
    Way {
        what: "the channel's interface is set down",
        lose: &["link set eth0 down"],
        back: &["link set eth0 up"],
        keepalived: None,
        stays: false,
    },
    Way {
        what: "the machine is shut down, its network first",
        lose: &["address flush dev eth0 scope global", "link set eth0 down", "link set eth1 down"],
        back: &[],
        keepalived: Some(false),
        stays: false,
    },
];

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    let options = Options { masquerade: true, ..stage.usual() };
    let mut pair = Pair::start_with(stage, options, 0).await?;
    let mut checks = Checks::new(narrator);
    for way in &WAYS {
        checks.narrator.chapter(way.what);
        let told = lose(&mut pair, way).await;
        checks.note(
            if way.stays {
                "keepalived puts it back: every connection lives"
            } else {
                "router2 carries every connection"
            },
            told,
        );
        if way.stays {
            continue;
        }
        checks.note("router1 returns: every connection lives", come_back(&mut pair, way).await);
    }
    checks.narrator.chapter("A connection is translated to router1's own address");
    checks.note("status and `config check --system` name it", own_address(&pair).await);
    Ok(checks.end())
}

/// What cannot live is told, with the address that binds it.
async fn own_address(pair: &Pair) -> Result<String> {
    const ENTRY: &str = "-I -p tcp -s 10.0.1.100 -d 10.0.0.100 --sport 40001 --dport 7001 --src-nat 10.0.0.10 --state ESTABLISHED \
                         -t 600 -u SEEN_REPLY,ASSURED";
    let first = pair.topology.router(1)?;
    first.node.output("conntrack", &ENTRY.split_whitespace().collect::<Vec<_>>())?;
    until("router1's status names it", PATIENCE, async || {
        let told = first.status().await?["verdict"].as_str().unwrap_or_default().to_owned();
        Ok(told.contains("1 entries are translated to 10.0.0.10").then_some(()))
    })
    .await?;
    let (_, out) = first.type_command(&["config", "check", &first.config_path(), "--system"])?;
    ensure!(out.contains("1 entries are translated to 10.0.0.10, an address of this router alone"), "{out}");
    Ok(out.lines().find(|line| line.contains("translated")).unwrap_or_default().to_owned())
}

async fn lose(pair: &mut Pair, way: &Way) -> Result<String> {
    pair.clients.clear();
    pair.open(CONNECTIONS).await?;
    let exchanges = Clients::open(&pair.topology.client.net, Kind::Udp, SERVER.parse()?, EXCHANGES)?;
    pair.clients.push(exchanges);
    pair.wait_alive().await?;
    pair.wait_equal().await?;
    let first = pair.topology.router(1)?;
    let translated = first.node.output("conntrack", &["-L", "-p", "tcp", "-q", "10.0.0.1"])?;
    let translated = translated.lines().filter(|line| line.contains("ESTABLISHED")).count();
    ensure!(
        translated >= CONNECTIONS,
        "only {translated} connections are masqueraded to the virtual address"
    );
    if way.keepalived == Some(true) {
        first.node.signal("keepalived", Signal::SIGTERM)?;
    }
    for command in way.lose {
        first.node.output("ip", &command.split(' ').collect::<Vec<_>>())?;
    }
    if way.keepalived == Some(false) {
        first.node.signal("keepalived", Signal::SIGTERM)?;
        first.node.signal("ctsync", Signal::SIGTERM)?;
    }
    if way.stays {
        // The kernel has ended them by now, or never will.
        let began = now();
        until("a moment is over", PATIENCE, async || Ok((began.elapsed() > A_MOMENT).then_some(()))).await?;
        ensure!(pair.topology.router(1)?.has_vip().await?, "keepalived has not put the address back");
        let alive = pair.wait_alive().await?;
        let held = pair.topology.router(1)?.counter("held_back_ends").await?;
        return Ok(format!("{alive} alive; {held} ends held back so far"));
    }
    pair.topology.wait_elected(2).await?;
    pair.topology.wait_owner(2).await?;
    let alive = pair.wait_alive().await?;
    Ok(format!("{alive} alive, {translated} of them masqueraded TCP"))
}

async fn come_back(pair: &mut Pair, way: &Way) -> Result<String> {
    if way.keepalived == Some(false) {
        pair.topology.power_off(1).await?;
        pair.topology.boot_router(1).await?;
        pair.topology.rejoin(1).await?;
    } else {
        let first = pair.topology.router_mut(1)?;
        for command in way.back {
            first.node.output("ip", &command.split(' ').collect::<Vec<_>>())?;
        }
        if way.keepalived.is_some() {
            until("keepalived has ended", PATIENCE, async || {
                Ok((!first.node.runs("keepalived")).then_some(()))
            })
            .await?;
            first.node.kill("keepalived")?;
            first.start_keepalived()?;
        }
    }
    pair.topology.wait_elected(1).await?;
    pair.topology.wait_owner(1).await?;
    let alive = pair.wait_alive().await?;
    pair.wait_ready(2).await.context("after the return")?;
    let held = pair.topology.router(1)?.counter("held_back_ends").await?;
    Ok(format!("{alive} alive; {held} ends held back so far"))
}
