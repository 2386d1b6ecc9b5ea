//! From conntrackd to ctsync under load, as docs/migration.md has it, step by step: both beside each other
//! until the new one holds everything, then conntrackd off and keepalived's file changed, the backup first.
//! No connection is lost.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::traffic::{Clients, Kind};
use crate::machine::wait::until;
use crate::routers::options::Options;
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 80;
const EXCHANGES: usize = 20;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    let before = Options { sync: false, incumbent: true, ..stage.usual() };
    let after = Options { lines: &["interface eth0 port 3781"], ..stage.usual() };
    let mut pair = Pair::start_with(stage, before, CONNECTIONS).await?;
    let exchanges = Clients::open(&pair.topology.client.net, Kind::Udp, SERVER.parse()?, EXCHANGES)?;
    pair.clients.push(exchanges);
    pair.wait_alive().await?;
    let mut checks = Checks::new(narrator);
    checks.note("2: ctsync beside conntrackd", start(&mut pair, &after).await);
    checks.note("3: roles told by hand", tell_roles(&pair).await);
    checks.note("4: router2 is ready, no differences", in_step(&pair).await);
    checks.note("5: router2 leaves conntrackd", leave(&mut pair, 2).await);
    checks.note("6: router1 leaves conntrackd", leave(&mut pair, 1).await);
    checks.note("7: protected", protected(&pair).await);
    let alive = pair.wait_alive().await;
    checks.note("every connection lives", alive.map(|alive| alive.to_string()));
    pair.lose_router1(checks.narrator).await?;
    let alive = pair.wait_alive().await;
    checks.note("then router1 dies: every connection lives", alive.map(|alive| alive.to_string()));
    Ok(checks.end())
}

async fn start(pair: &mut Pair, options: &Options) -> Result<String> {
    let mut verdicts = Vec::new();
    for number in [2, 1] {
        let router = pair.topology.router_mut(number)?;
        router.set_options(options);
        router.start_ctsync()?;
        let router = pair.topology.router(number)?;
        let status = until("ctsync answers", PATIENCE, async || Ok(Some(router.status().await?))).await?;
        verdicts.push(format!("router{number} {}", status["state"]["role"]));
        ensure!(router.node.runs("conntrackd"), "conntrackd has ended on router{number}");
    }
    Ok(verdicts.join(", "))
}

async fn tell_roles(pair: &Pair) -> Result<String> {
    pair.typed(2, &["notify", "backup", "SYNC"], 0)?;
    pair.typed(1, &["notify", "primary", "SYNC"], 0)?;
    pair.topology.wait_owner(1).await?;
    Ok(String::new())
}

async fn in_step(pair: &Pair) -> Result<String> {
    pair.typed(2, &["wait-ready"], 0)?;
    pair.typed(2, &["diff"], 0).map(|out| out.trim().to_owned())
}

/// conntrackd is stopped, keepalived's file is changed and it is started again.
async fn leave(pair: &mut Pair, number: u8) -> Result<String> {
    for program in ["conntrackd", "keepalived"] {
        let router = pair.topology.router(number)?;
        router.node.signal(program, Signal::SIGTERM)?;
        until(&format!("{program} has ended"), PATIENCE, async || {
            Ok((!router.node.runs(program)).then_some(()))
        })
        .await?;
        pair.topology.router_mut(number)?.node.kill(program)?;
    }
    pair.topology.router_mut(number)?.start_keepalived()?;
    let router = pair.topology.router(number)?;
    let expected = if number == 1 { "primary" } else { "backup" };
    until(&format!("keepalived has told router{number} that it is {expected}"), PATIENCE, async || {
        let status = router.status().await?;
        let state = &status["state"];
        let told = state["role"] == expected && state["seat"]["mover"] == "present";
        if told { Ok(Some(())) } else { bail!("{}, {}", state["role"], status["verdict"]) }
    })
    .await?;
    let alive = pair.wait_alive().await.with_context(|| format!("router{number} has left conntrackd"))?;
    Ok(format!("{alive} alive"))
}

async fn protected(pair: &Pair) -> Result<String> {
    let mut verdicts = Vec::new();
    for number in [1, 2] {
        let router = pair.topology.router(number)?;
        let verdict = until(&format!("router{number} is protected"), PATIENCE, async || {
            let status = router.status().await?;
            if status["protected"] == true {
                Ok(Some(status["verdict"].clone()))
            } else {
                bail!("{}", status["verdict"])
            }
        })
        .await?;
        verdicts.push(verdict.to_string());
    }
    Ok(verdicts.join("; "))
}
