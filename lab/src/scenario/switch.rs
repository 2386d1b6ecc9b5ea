//! Planned moves: `ctsync switch` on the owner, there and back, under TCP and UDP; and what it says when a
//! move would lose something.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::traffic::{Clients, Kind};
use crate::machine::wait::until;
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

/// Connections of each kind.
const CONNECTIONS: usize = 50;
/// There and back so often.
const MOVES: u32 = 3;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Planned moves");
    let mut pair = Pair::start(stage, CONNECTIONS).await?;
    let client = &pair.topology.client.net;
    pair.clients.push(Clients::open(client, Kind::Udp, SERVER.parse()?, CONNECTIONS)?);
    pair.wait_alive().await?;
    let mut checks = Checks::new(narrator);
    for number in 1..=MOVES {
        checks.note(&format!("there, move {number}"), there(&pair).await);
        checks.note(&format!("and back, move {number}"), back(&pair).await);
    }

    checks.narrator.chapter("What is refused");
    checks
        .note("the backup has nothing to move", refused(&pair, 2, &[], "router1 owns SYNC, not this router"));
    checks.note(
        "a router that is not there",
        refused(&pair, 1, &["--to", "router9"], "no living peer is called router9"),
    );
    checks.note("another group", refused(&pair, 1, &["BLUE"], "no failover group \"BLUE\" here"));
    pair.topology.router_mut(2)?.node.signal("keepalived", Signal::SIGTERM)?;
    verdict(&pair, "NOT protected: router2 cannot be elected").await?;
    checks.note(
        "a standby that cannot be elected",
        refused(&pair, 1, &[], "not safe: NOT protected: router2 cannot"),
    );
    let alive = pair.wait_alive().await;
    checks.note("every connection lives", alive.map(|alive| alive.to_string()));
    Ok(checks.end())
}

/// Until router1 says this.
async fn verdict(pair: &Pair, wanted: &str) -> Result<()> {
    until(&format!("router1 says \"{wanted}\""), PATIENCE, async || {
        let status = pair.topology.router(1)?.status().await?;
        let found = status["verdict"].as_str().unwrap_or_default();
        if found.starts_with(wanted) { Ok(Some(())) } else { bail!("{found}") }
    })
    .await
}

/// Router1 stands aside, router2 carries.
async fn there(pair: &Pair) -> Result<String> {
    pair.clients.iter().for_each(Clients::mark);
    let moved = pair.json(1, &["switch", "--to", "router2"])?;
    ensure!(moved["to"] == "router2" && moved["from"] == "router1", "{moved}");
    ensure!(pair.topology.holders().await? == [2], "router2 holds the addresses alone");
    ensure!(pair.typed(1, &["status"], 0)?.contains("stands aside"), "router1 says that it stands aside");
    told(pair, &moved["milliseconds"]).await
}

/// Router1 may be elected again, and is: its priority is the higher one.
async fn back(pair: &Pair) -> Result<String> {
    pair.wait_ready(1).await?;
    pair.clients.iter().for_each(Clients::mark);
    let told_back = pair.typed(1, &["switch"], 0)?;
    ensure!(told_back.contains("may be elected again"), "{told_back}");
    pair.topology.wait_elected(1).await?;
    pair.topology.wait_owner(1).await?;
    verdict(pair, "protected:").await?;
    told(pair, &serde_json::Value::Null).await
}

/// All live; how long the longest silence was.
async fn told(pair: &Pair, milliseconds: &serde_json::Value) -> Result<String> {
    let alive = until("every connection speaks", PATIENCE, async || {
        let lives: Vec<_> = pair.clients.iter().flat_map(Clients::lives).collect();
        Ok(lives.iter().all(crate::load::traffic::Life::alive).then_some(lives))
    })
    .await?;
    let gap = alive.iter().map(|life| life.gap).max().unwrap_or(Duration::ZERO);
    let took = milliseconds.as_f64().map_or(String::new(), |took| format!("after {took:.0} ms, "));
    Ok(format!("{took}{} connections live, longest silence {:.2} s", alive.len(), gap.as_secs_f64()))
}

fn refused(pair: &Pair, number: u8, arguments: &[&str], why: &str) -> Result<String> {
    let arguments: Vec<&str> = ["switch"].iter().chain(arguments).copied().collect();
    let said = pair.typed(number, &arguments, 1)?;
    ensure!(said.contains(why), "{said}");
    said.lines().next().map(str::to_owned).context("it says nothing")
}
