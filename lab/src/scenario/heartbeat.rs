//! The documentation's example in its literal form, `failover-mechanism cluster group 'GROUP'`, with Debian's
//! heartbeat: router1 dies, returns, and hands over by hand; no connection dies, and the entries are there
//! before the addresses. A daemon that is dead or hangs does not prevent a takeover. Without ctsync all
//! connections die.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::machine::net::Links;
use crate::machine::wait::{now, until};
use crate::routers::documented::Figure;
use crate::routers::heartbeat;
use crate::routers::options::{Mover, Options};
use crate::routers::router::Router;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 50;
/// The log of addresses as they come and go.
const WATCH: &str = "addresses";
/// How long a dead connection is given to prove otherwise.
const DIES: Duration = Duration::from_secs(20);
/// How long the resource script waits for a daemon that hangs.
const HANGS: Duration = Duration::from_secs(5);
/// heartbeat's own share, and what it asks our script beside.
const OWN: Duration = Duration::from_secs(15);

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("The documentation's cluster, with Debian's heartbeat");
    let options = Options { figure: Figure::Cluster, mover: Mover::Heartbeat, ..stage.usual() };
    let mut pair = Pair::start_with(stage, options, CONNECTIONS).await?;
    let mut checks = Checks::new(narrator);
    let told = tell(&mut pair, &mut checks).await;
    if let Err(error) = told {
        eprintln!("{}", pair.topology.diagnosis());
        return Err(error);
    }
    Ok(checks.end())
}

async fn tell(pair: &mut Pair, checks: &mut Checks<'_>) -> Result<()> {
    checks.note("the documented output", documented(pair, checks.narrator));

    checks.narrator.chapter("router1 dies");
    watch_addresses(pair.topology.router_mut(2)?)?;
    let took = lose_router1(pair, checks.narrator).await?;
    checks.narrator.say(&format!("both addresses are on router2 after {:.2} s", took.as_secs_f64()));
    checks.note("the entries were there before the addresses", fence_before(pair.topology.router(2)?).await);
    checks.note("every connection lives", all_live(pair).await);

    checks.narrator.chapter("router1 returns and takes over again");
    router1_returns(pair).await?;
    checks.note("every connection lives", all_live(pair).await);
    checks.note("router2 says backup", pair_is(pair, 1, 2).await);

    checks.narrator.chapter("Each stands by");
    for (from, to) in [(1, 2), (2, 1)] {
        pair.wait_ready(to).await?;
        checks.narrator.typed(&format!("router{from}"), "hb_standby all");
        heartbeat::stand_by(pair.topology.router(from)?).await?;
        wait_holder(pair, to).await?;
        checks.note("every connection lives", all_live(pair).await);
        checks.note(&format!("router{from} says backup"), pair_is(pair, to, from).await);
    }

    checks.narrator.chapter("router1 dies while router2's daemon is dead");
    pair.wait_ready(2).await?;
    pair.topology.router_mut(2)?.node.kill("ctsync")?;
    let took = lose_router1(pair, checks.narrator).await?;
    checks.note("the addresses move all the same", loud(pair.topology.router(2)?, took, Duration::ZERO));
    checks.note("every connection lives", all_live(pair).await);
    checks.note("a daemon that starts later hears of it", told_again(pair).await);

    checks.narrator.chapter("router1 returns; it dies while router2's daemon hangs");
    router1_returns(pair).await?;
    pair.wait_ready(2).await?;
    pair.topology.router(2)?.node.signal("ctsync", Signal::SIGSTOP)?;
    let took = lose_router1(pair, checks.narrator).await?;
    checks.note("the addresses move later", loud(pair.topology.router(2)?, took, HANGS));
    checks.note("every connection lives", all_live(pair).await);
    pair.topology.router(2)?.node.signal("ctsync", Signal::SIGCONT)?;
    checks.note("the daemon that goes on hears of it", says(pair, 2, "primary").await);

    checks.narrator.chapter("The same without ctsync");
    pair.start_control().await?;
    pair.open(CONNECTIONS).await?;
    pair.lose_router1(checks.narrator).await?;
    wait_holder(pair, 2).await?;
    checks.note("every connection dies", all_die(pair).await);
    Ok(())
}

/// `show conntrack-sync status` names the mechanism as VyOS 1.2 does.
fn documented(pair: &Pair, narrator: &Narrator) -> Result<String> {
    for number in [1, 2] {
        let (code, out) =
            pair.topology.router(number)?.tell(narrator, &["show", "conntrack-sync", "status"])?;
        ensure!(code == 0, "exit code {code}");
        ensure!(out.contains("failover-mechanism    : cluster [group GROUP]\n"), "{out}");
    }
    Ok(String::new())
}

/// Until a router holds every virtual address.
async fn wait_holder(pair: &Pair, number: u8) -> Result<()> {
    let router = pair.topology.router(number)?;
    let vips = router.vips()?;
    until(&format!("router{number} holds both addresses"), PATIENCE, async || {
        let links = Links::open(&router.node.net)?;
        for vip in &vips {
            if !links.has_address(*vip).await? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

async fn all_live(pair: &Pair) -> Result<String> {
    let alive = pair.wait_alive().await?;
    ensure!(alive == CONNECTIONS, "{alive} of {CONNECTIONS}");
    Ok(alive.to_string())
}

/// Both daemons agree who owns the group.
async fn pair_is(pair: &Pair, primary: u8, backup: u8) -> Result<String> {
    says(pair, primary, "primary").await?;
    says(pair, backup, "backup").await
}

async fn says(pair: &Pair, number: u8, role: &str) -> Result<String> {
    let router = pair.topology.router(number)?;
    until(&format!("router{number} says {role}"), PATIENCE, async || {
        Ok((router.status().await?["state"]["role"] == role).then(String::new))
    })
    .await
}

/// Router1 boots with an empty kernel; until it holds every address again.
async fn router1_returns(pair: &mut Pair) -> Result<()> {
    pair.topology.boot_router(1).await?;
    pair.topology.rejoin(1).await?;
    wait_holder(pair, 1).await
}

/// Router1's namespace is destroyed; how long until router2 holds every address.
///
/// It is never router2 that dies here: router1 then asks for its own resources in the same moment as it takes
/// over, and heartbeat 3.0.6 can garble the two messages in its pipe, and starts nothing.
async fn lose_router1(pair: &mut Pair, narrator: &Narrator) -> Result<Duration> {
    let began = now();
    pair.lose_router1(narrator).await?;
    wait_holder(pair, 2).await?;
    Ok(began.elapsed())
}

/// What the drop-in of `docs/operation.md` does after ctsync has started.
async fn told_again(pair: &mut Pair) -> Result<String> {
    pair.topology.router_mut(2)?.start_ctsync()?;
    let router = pair.topology.router(2)?;
    until("ctsync answers", PATIENCE, async || Ok(Some(router.status().await?))).await?;
    let before = router.status().await?["state"]["role"].to_string();
    heartbeat::tell(router)?;
    says(pair, 2, "primary").await?;
    Ok(format!("{before} before"))
}

/// The kernel's own word on when an address came, in UTC.
fn watch_addresses(router: &mut Router) -> Result<()> {
    router.node.start(WATCH, "env", &["TZ=UTC", "ip", "-tshort", "monitor", "address"])
}

/// By the clock: the fence closed before the first address came.
async fn fence_before(router: &Router) -> Result<String> {
    let status = router.status().await?;
    let closed = status["last-fence"]["closed-at"].as_str().context("no takeover in its status")?;
    let seen = std::fs::read_to_string(router.node.log_path(WATCH))?;
    let vips = router.vips()?;
    let is_vip = |line: &&str| vips.iter().any(|vip| line.contains(&format!(" {vip}/")));
    let line = seen.lines().find(|line| is_vip(line) && !line.contains("Deleted"));
    // [2026-11-25T22:57:54.123456] and 2026-11-25T22:57:54.123456Z
    let came = line.and_then(|line| line.strip_prefix('[')?.split(']').next()).context("no address came")?;
    let (closed, came): (jiff::Timestamp, jiff::Timestamp) = (closed.parse()?, format!("{came}Z").parse()?);
    ensure!(closed < came, "closed at {closed}, the address came at {came}");
    Ok(format!("{} ms before", came.duration_since(closed).as_millis()))
}

/// heartbeat's log says that the daemon was not told; it was waited for so long.
fn loud(router: &Router, took: Duration, waited: Duration) -> Result<String> {
    let log = std::fs::read_to_string(router.node.log_path("heartbeat"))?;
    ensure!(log.contains("CRIT: ctsync: GROUP start: the daemon was not told"), "no loud line");
    let told = format!("after {:.1} s", took.as_secs_f64());
    ensure!(took > waited && took < waited + OWN, "{told}");
    Ok(told)
}

/// Nothing is right any more on any connection.
async fn all_die(pair: &Pair) -> Result<String> {
    let alive = pair.wait_alive();
    let lives = match tokio::time::timeout(DIES, alive).await {
        Ok(Ok(alive)) => anyhow::bail!("{alive} live all the same"),
        Ok(Err(_)) | Err(_) => pair.clients.iter().flat_map(crate::load::traffic::Clients::lives),
    };
    let all: Vec<_> = lives.collect();
    let alive = all.iter().filter(|life| life.alive()).count();
    ensure!(alive == 0, "{alive} of {} live all the same", all.len());
    Ok(format!("{} of {}", all.len() - alive, all.len()))
}
