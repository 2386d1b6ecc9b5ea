//! Three routers, the third one a spare: router1 dies, router2 dies, both return; then router1 dies while
//! router2 is thousands of changes behind, which router3 has. Every connection lives through all of it.

use anyhow::{Context, Result, bail, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::entries;
use crate::load::traffic::{Clients, Kind};
use crate::machine::wait::{now, until};
use crate::routers::options::Options;
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 500;
/// Changes that router2 does not hear of, beside the connections opened then.
const UNHEARD: u32 = 4_950;
/// Connections opened then. They fit into the stream's window with it: past that the owner waits for router2,
/// for the peer timeout.
const LATE: usize = 50;
/// A peer that is silent for so long is lost, and who has more is elected: the story needs less.
const PEER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Three routers");
    let options = Options { routers: 3, lines: &["peer-timeout 3000"], ..stage.usual() };
    let mut trio = Pair::start_with(stage, options, CONNECTIONS).await?;
    trio.wait_ready(3).await?;
    let mut checks = Checks::new(narrator);
    checks.note(
        "router1 says that both hold what it holds",
        verdict(&trio, 1, "protected: 2 of 2 backups").await,
    );

    checks.narrator.chapter("Router1 dies, then router2");
    let first = lose(&mut trio, &checks, 1, 2).await;
    checks.note("router2 carries on", first);
    let one_left = verdict(&trio, 2, "protected by 1 of 2 backups: router3 holds").await;
    checks.note("router2 says that one of two is left", one_left);
    let second = lose(&mut trio, &checks, 2, 3).await;
    checks.note("router3 carries on", second);

    checks.narrator.chapter("Both return, router2 first");
    checks.note("router2 takes over", come_back(&mut trio, &checks, 2).await);
    checks.note("router1 takes over", come_back(&mut trio, &checks, 1).await);
    trio.wait_ready(2).await?;
    trio.wait_ready(3).await?;
    checks.note("router1 is protected by both again", verdict(&trio, 1, "protected: 2 of 2 backups").await);

    checks.narrator.chapter("Router1 dies while router2 is behind");
    checks.note("router2 takes over with what router3 has", behind(&mut trio, &checks).await);
    let alive = trio.wait_alive().await;
    checks.note("every connection lives", alive.map(|alive| alive.to_string()));
    // It would be asked what it holds.
    until("router1 counts as lost", PATIENCE, async || {
        let status = trio.topology.router(2)?.status().await?;
        let mut peers = status["state"]["peers"].as_array().into_iter().flatten();
        Ok(peers.any(|peer| peer["name"] == "router1" && peer["alive"] == false).then_some(()))
    })
    .await?;
    checks.note("both tables are equal", compared(&trio));

    checks.narrator.chapter("They return the other way round");
    checks.note("router1 takes over", come_back(&mut trio, &checks, 1).await);
    checks.note("router2 dies, router1 carries on", lose_spare(&mut trio, &checks).await);
    checks.note("router2 is a backup again", come_back(&mut trio, &checks, 2).await);
    Ok(checks.end())
}

/// What a router's verdict says, once it says this.
async fn verdict(trio: &Pair, number: u8, wanted: &str) -> Result<String> {
    let router = trio.topology.router(number)?;
    until(&format!("router{number}'s verdict"), PATIENCE, async || {
        let status = router.status().await?;
        let verdict = status["verdict"].as_str().unwrap_or_default();
        if status["protected"] == true && verdict.starts_with(wanted) {
            return Ok(Some(verdict.to_owned()));
        }
        bail!("{verdict}")
    })
    .await
}

/// The one that holds the addresses loses its power; until all connections speak through the next.
async fn lose(trio: &mut Pair, checks: &Checks<'_>, number: u8, next: u8) -> Result<String> {
    checks.narrator.typed("lab", &format!("destroy router{number}'s namespace"));
    trio.topology.power_off(number).await?;
    trio.topology.wait_elected(next).await?;
    trio.topology.wait_owner(next).await?;
    Ok(format!("{} connections live", trio.wait_alive().await?))
}

/// A backup loses its power: nothing happens.
async fn lose_spare(trio: &mut Pair, checks: &Checks<'_>) -> Result<String> {
    checks.narrator.typed("lab", "destroy router2's namespace");
    trio.topology.power_off(2).await?;
    verdict(trio, 1, "protected by 1 of 2 backups: router3 holds").await?;
    Ok(format!("{} connections live", trio.wait_alive().await?))
}

/// It boots with an empty kernel; the highest priority that is ready is elected.
async fn come_back(trio: &mut Pair, checks: &Checks<'_>, number: u8) -> Result<String> {
    checks.narrator.typed("lab", &format!("boot router{number}"));
    trio.topology.boot_router(number).await?;
    trio.topology.rejoin(number).await?;
    let higher = (1..number).any(|other| trio.topology.router(other).is_ok());
    if higher {
        trio.wait_ready(number).await?;
    } else {
        trio.topology.wait_elected(number).await?;
        trio.topology.wait_owner(number).await?;
    }
    Ok(format!("{} connections live", trio.wait_alive().await?))
}

/// Router2 hears nothing of router1 for a moment in which thousands of entries and more connections are made.
async fn behind(trio: &mut Pair, checks: &Checks<'_>) -> Result<String> {
    let held = entries_of(trio, 3).await?;
    let before = trio.topology.router(2)?.status().await?["last-fence"]["epoch"].as_u64();
    checks.narrator.typed("switch", "drop what router1 says to router2");
    let began = now();
    trio.topology.channel_is_deaf(1, 2)?;
    entries::create(&trio.topology.router(1)?.node.net, 1_000_000, UNHEARD)?;
    let client = &trio.topology.client.net;
    trio.clients.push(Clients::open(client, Kind::Tcp, SERVER.parse()?, LATE)?);
    let all = held + u64::from(UNHEARD) + LATE as u64;
    until("router3 has all of it", PATIENCE, async || {
        let found = entries_of(trio, 3).await?;
        if found >= all {
            return Ok(Some(()));
        }
        bail!("{found} entries of {all}")
    })
    .await?;
    checks.narrator.typed("lab", "destroy router1's namespace");
    trio.topology.power_off(1).await?;
    trio.topology.channel_passes(true)?;
    ensure!(began.elapsed() < PEER_TIMEOUT, "router2 had {:?} to notice", began.elapsed());
    trio.topology.wait_elected(2).await?;
    trio.topology.wait_owner(2).await?;
    let fence = until("the fence of router2", PATIENCE, async || {
        let status = trio.topology.router(2)?.status().await?;
        Ok(Some(status["last-fence"].clone()).filter(|fence| fence["epoch"].as_u64() > before))
    })
    .await?;
    let taken = fence["taken"].as_u64().context("what the fence took")?;
    ensure!(taken >= u64::from(UNHEARD), "router2 took {taken} entries of router3: {fence}");
    let took = fence["microseconds"].as_f64().unwrap_or_default() / 1000.0;
    Ok(format!("{taken} entries taken of router3 in {took:.1} ms"))
}

async fn entries_of(trio: &Pair, number: u8) -> Result<u64> {
    let statistics = trio.topology.router(number)?.statistics().await?;
    statistics["external"]["active"].as_u64().context("the cache's size")
}

/// `ctsync diff` finds nothing.
fn compared(trio: &Pair) -> Result<String> {
    trio.typed(2, &["diff"], 0)
}
