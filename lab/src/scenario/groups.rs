//! Two failover groups that share the load and back each other up: each router dies once, and only its own
//! group moves.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::traffic::{Clients, Kind, Life};
use crate::machine::net::Links;
use crate::machine::node::Node;
use crate::machine::wait::until;
use crate::routers::documented::Figure;
use crate::routers::options::Options;
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

/// A client whose gateway is GREEN's address.
const GREEN_CLIENT: [u8; 4] = [10, 0, 1, 200];
const GREEN_GATEWAY: [u8; 4] = [10, 0, 1, 2];
const CONNECTIONS: usize = 50;
/// What a connection of the other group may miss while a router dies: its lines come every 100 ms.
const UNTOUCHED: Duration = Duration::from_millis(600);

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Two groups: BLUE is router1's, GREEN is router2's");
    let options = Options { figure: Figure::TwoGroups, ..stage.usual() };
    let mut pair = Pair::start_with(stage, options, 0).await?;
    let green = pair.topology.plug_in("green", "lan", GREEN_CLIENT.into()).await?;
    Links::open(&green.net)?.add_default_route(std::net::IpAddr::from(GREEN_GATEWAY)).await?;
    let mut checks = Checks::new(narrator);
    checks.note("each router owns one group, and is ready in the other", shared(&pair).await);
    pair.open(CONNECTIONS).await?;
    open_green(&mut pair, &green)?;
    let alive = pair.wait_alive().await;
    checks.note("both groups' connections speak", alive.map(|alive| alive.to_string()));
    checks.note("each router has its own in the internal cache", counted(&pair).await);
    for number in [1, 2] {
        let status = pair.typed(number, &["status"], 0);
        checks.note(&format!("router{number} tells of both groups"), status.and_then(|out| both_told(&out)));
    }
    for number in [1, 2] {
        let (moved, stayed) = if number == 1 { ("BLUE", "GREEN") } else { ("GREEN", "BLUE") };
        checks.narrator.typed("lab", &format!("destroy router{number}'s namespace"));
        pair.clients.iter().for_each(Clients::mark);
        pair.clients.iter().for_each(Clients::mark_echoes);
        pair.topology.power_off(number).await?;
        let all = until("every connection speaks", PATIENCE, async || {
            let lives: Vec<Life> = pair.clients.iter().flat_map(Clients::lives).collect();
            Ok(lives.iter().all(Life::alive).then_some(lives.len()))
        });
        checks
            .note(&format!("{moved} goes on"), all.await.map(|alive| format!("{alive} alive, both groups")));
        let untouched = pair.clients.get(if number == 1 { 1 } else { 0 });
        let gap =
            untouched.into_iter().flat_map(Clients::lives).map(|life| life.gap).max().unwrap_or_default();
        let told = format!("longest gap {:.2} s", gap.as_secs_f64());
        checks.note(
            &format!("{stayed} is untouched"),
            if gap < UNTOUCHED { Ok(told) } else { Err(anyhow::anyhow!(told)) },
        );
        pair.topology.boot_router(number).await?;
        pair.topology.rejoin(number).await?;
        checks.note(&format!("router{number} returns: the load is shared again"), shared(&pair).await);
        let alive = pair.wait_alive().await;
        checks.note("every connection lives", alive.map(|alive| alive.to_string()));
    }
    Ok(checks.end())
}

fn open_green(pair: &mut Pair, green: &Node) -> Result<()> {
    pair.clients.push(Clients::open(&green.net, Kind::Tcp, SERVER.parse()?, CONNECTIONS)?);
    Ok(())
}

/// BLUE at the top of router1's status, GREEN below it; the other router the other way around.
async fn shared(pair: &Pair) -> Result<String> {
    until("each router owns one group and is ready in the other", PATIENCE, async || {
        let mut found = Vec::new();
        for number in [1, 2] {
            let status = pair.topology.router(number)?.status().await?;
            found.push([
                status["state"]["readiness"].clone(),
                status["groups"][0]["state"]["readiness"].clone(),
            ]);
        }
        if found == [["owner", "ready"], ["ready", "owner"]] {
            return Ok(Some(()));
        }
        anyhow::bail!("{found:?}")
    })
    .await?;
    Ok(String::new())
}

async fn counted(pair: &Pair) -> Result<String> {
    until("each router counts its own", PATIENCE, async || {
        for number in [1, 2] {
            let statistics = pair.topology.router(number)?.statistics().await?;
            let counts = [&statistics["internal"]["active"], &statistics["external"]["active"]];
            ensure!(counts.iter().all(|count| **count == CONNECTIONS), "router{number}: {counts:?}");
        }
        Ok(Some(()))
    })
    .await?;
    Ok(format!("internal {CONNECTIONS} and external {CONNECTIONS} on both"))
}

fn both_told(out: &str) -> Result<String> {
    for words in ["vrrp [sync-group BLUE]", "vrrp [sync-group GREEN]", "group                 : GREEN"] {
        ensure!(out.contains(words), "{words} is missing: {out}");
    }
    Ok(String::new())
}
