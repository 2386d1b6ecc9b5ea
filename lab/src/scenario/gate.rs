//! The readiness gate: a router that returns with an empty kernel is not elected before it holds what its
//! peer holds, one that is alone is elected all the same, and no churn takes a healthy primary's fitness
//! away. Without the gate it is elected early and connections die.
//!
//! On a fast channel a fetch is over before VRRP has elected anybody, so the channel is a slow one.
//! `soak gate` tells the same with more entries.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::churn::Churn;
use crate::load::entries;
use crate::load::traffic::{Clients, Kind};
use crate::machine::node::Node;
use crate::machine::wait::{now, until};
use crate::routers::options::Options;
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

/// Entries to be fetched in `run`.
const ENTRIES: u32 = 200_000;
/// What the channel carries, and how long the fetch must take over it for the story to mean anything.
const CHANNEL: &str = "16mbit";
const LEAST: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 60;
const EXCHANGES: usize = 20;
/// For how long entries change at full rate, and how many of them.
const CHURN: Duration = Duration::from_secs(8);
const CHANGING: u32 = 20_000;
/// Without their entries connections get so long to speak again; ready or not, the fetch is over by then.
const LAST_CHANCE: Duration = Duration::from_secs(20);

pub(crate) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    tell(stage, narrator, ENTRIES).await
}

/// The story with so many entries.
pub(crate) async fn tell(stage: &Stage<'_>, narrator: &mut Narrator, entries: u32) -> Result<bool> {
    let usual = Options { advert: 0.1, ..stage.usual() };
    narrator.chapter("Churn on a healthy primary");
    let mut pair = Pair::start_with(stage, usual.clone(), 0).await?;
    let mut checks = Checks::new(narrator);
    checks.note("its gate stays open, it stays MASTER", churn(&pair).await);

    checks.narrator.chapter("Router1 returns with an empty kernel, preemption on");
    fill(&mut pair, entries).await?;
    pair.lose_router1(checks.narrator).await?;
    pair.wait_alive().await?;
    let came_back = timeline(&mut pair).await.and_then(|times| {
        ensure!(times.elected >= times.ready, "elected before it was ready: {}", times.told());
        ensure!(times.ready >= LEAST, "the fetch took only {:.2} s", times.ready.as_secs_f64());
        Ok(times.told())
    });
    checks.note("it is elected when it is ready", came_back);
    let alive = pair.wait_alive().await;
    checks.note("every connection lives", alive.map(|alive| alive.to_string()));

    checks.narrator.chapter("It returns, and its peer dies while it fetches");
    checks.note("not ready and alone, it becomes MASTER", alone(&mut pair).await);

    checks.narrator.chapter("The same return without the gate");
    pair.clients.clear();
    pair.topology.options = Options { gate: false, ..usual };
    pair.topology.reboot().await?;
    fill(&mut pair, entries).await?;
    pair.lose_router1(checks.narrator).await?;
    pair.wait_alive().await?;
    pair.clients.iter().for_each(Clients::mark);
    let early = timeline(&mut pair).await.and_then(|times| {
        ensure!(times.elected < times.ready, "elected after it was ready: {}", times.told());
        Ok(times.told())
    });
    checks.note("it is elected early", early);
    pair.clients.iter().for_each(Clients::mark_echoes);
    let began = now();
    until("their last chance is over", PATIENCE, async || Ok((began.elapsed() > LAST_CHANCE).then_some(())))
        .await?;
    let lives: Vec<_> = pair.clients.iter().flat_map(Clients::lives).collect();
    let dead = lives.iter().filter(|life| !life.alive()).count();
    let all = lives.len();
    checks.note(
        "and connections die",
        if dead > 0 { Ok(format!("{dead} of {all}")) } else { Err(anyhow::anyhow!("all {all} live")) },
    );
    Ok(checks.end())
}

async fn fill(pair: &mut Pair, entries: u32) -> Result<()> {
    // A fetch begins with what came first: the connections come last.
    entries::create(&pair.topology.router(1)?.node.net, 0, entries)?;
    pair.wait_equal().await?;
    pair.open(CONNECTIONS).await?;
    pair.clients.push(Clients::open(&pair.topology.client.net, Kind::Udp, SERVER.parse()?, EXCHANGES)?);
    pair.wait_alive().await?;
    pair.wait_equal().await?;
    pair.wait_ready(2).await?;
    slow_channel(&pair.topology.router(2)?.node)
}

/// The channel alone: VRRP and the connections share its wire.
fn slow_channel(node: &Node) -> Result<()> {
    for arguments in [
        "qdisc add dev eth0 root handle 1: htb default 1",
        &format!("class add dev eth0 parent 1: classid 1:2 htb rate {CHANNEL}"),
        "filter add dev eth0 protocol ip parent 1: u32 match ip dport 3780 0xffff flowid 1:2",
    ] {
        node.output("tc", &arguments.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

async fn churn(pair: &Pair) -> Result<String> {
    let first = pair.topology.router(1)?;
    let track = first.node.run_directory().join("ctsync/vrrp.track");
    let churn = Churn::start(&first.node.net, 0..CHANGING, None);
    let began = now();
    let mut looks = 0;
    while began.elapsed() < CHURN {
        let status = first.status().await?;
        ensure!(status["state"]["gate-open"] == true, "the gate is closed: {}", status["state"]["readiness"]);
        ensure!(status["state"]["role"] == "primary", "its role is {}", status["state"]["role"]);
        ensure!(std::fs::read_to_string(&track)?.trim() == "0", "the track file lowers it");
        ensure!(first.has_vip().await?, "its addresses are gone");
        looks += 1;
    }
    let changes = churn.stop()?;
    entries::end(&first.node.net, 0, CHANGING)?;
    Ok(format!("{changes} changes in {} s, {looks} looks", CHURN.as_secs()))
}

/// Since the daemon was started on the router that returns.
struct Times {
    ready: Duration,
    elected: Duration,
    log: String,
}

impl Times {
    fn told(&self) -> String {
        format!(
            "ready after {:.2} s, elected after {:.2} s\n{}",
            self.ready.as_secs_f64(),
            self.elected.as_secs_f64(),
            self.log
        )
    }
}

async fn timeline(pair: &mut Pair) -> Result<Times> {
    pair.topology.boot_router(1).await?;
    let began = now();
    pair.topology.rejoin(1).await?;
    let first = pair.topology.router(1)?;
    let mut steps: Vec<(Duration, String)> = Vec::new();
    let (mut ready, mut elected): (Option<Instant>, Option<Instant>) = (None, None);
    let (ready, elected) = until("router1 is ready and elected", PATIENCE, async || {
        let status = first.status().await?;
        let readiness = status["state"]["readiness"].as_str().unwrap_or_default().to_owned();
        let gate = if status["state"]["gate-open"] == true { "open" } else { "closed" };
        let seen = format!("{readiness}, gate {gate}");
        if steps.last().is_none_or(|(_, last)| *last != seen) {
            steps.push((began.elapsed(), seen));
        }
        // As owner it was ready, or was elected too early: then its table is complete when the peer has
        // offered all.
        let complete = status["state"]["equal-for"].is_f64() || readiness == "ready";
        if complete {
            ready.get_or_insert(now());
        }
        if first.has_vip().await? {
            elected.get_or_insert(now());
        }
        match (ready, elected) {
            (Some(ready), Some(elected)) => Ok(Some((ready, elected))),
            _ => bail!("{readiness}"),
        }
    })
    .await?;
    let log = std::fs::read_to_string(first.node.log_path("keepalived"))?;
    let told = |line: &&str| line.contains("STATE") || line.contains("effective priority");
    let lines: Vec<&str> = log.lines().filter(told).collect();
    let log = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n");
    let steps: Vec<String> =
        steps.iter().map(|(at, what)| format!("{:.2} s {what}", at.as_secs_f64())).collect();
    let log = format!("{}\n{log}", steps.join("; "));
    Ok(Times { ready: ready - began, elected: elected - began, log })
}

async fn alone(pair: &mut Pair) -> Result<String> {
    pair.clients.clear();
    pair.wait_ready(2).await?;
    pair.topology.power_off(1).await?;
    pair.topology.wait_elected(2).await?;
    pair.topology.boot_router(1).await?;
    pair.topology.rejoin(1).await?;
    let first = pair.topology.router(1)?;
    // A daemon that fetches is slow to answer: its files tell at once.
    let track = first.node.run_directory().join("ctsync/vrrp.track");
    until("router1 follows and is not ready", PATIENCE, async || {
        let heard = std::fs::read_to_string(first.node.log_path("ctsync"))?.contains("peer heard");
        let lowered = std::fs::read_to_string(&track)?.trim() != "0";
        ensure!(heard && lowered, "peer heard: {heard}, not ready: {lowered}");
        Ok(Some(()))
    })
    .await?;
    pair.topology.power_off(2).await?;
    let first = pair.topology.router(1)?;
    until("router1 owns the group and holds the addresses", PATIENCE, async || {
        let owner = first.status().await?["state"]["owner"] == true;
        Ok((owner && first.has_vip().await?).then_some(()))
    })
    .await?;
    let held = first.status().await?["state"]["internal"].clone();
    Ok(format!("its peer died when it held {held} entries"))
}
