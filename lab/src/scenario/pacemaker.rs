//! The mechanism `cluster`: Corosync and Pacemaker elect, the agent in `cluster/ocf/` tells the daemons. The
//! resource is moved, a node is set to standby, a daemon dies, a node loses its power: each time every
//! connection lives, and the addresses come after the fence.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::traffic::{Clients, Life};
use crate::machine::wait::{now, until};
use crate::routers::cluster::{self, CLONE, GROUP, call_agent, settle};
use crate::routers::options::Options;
use crate::routers::router::Router;
use crate::routers::topology::Topology;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 50;
/// An instance of the agent that the cluster knows nothing of.
const BY_HAND: &str = "by-hand";

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Corosync and Pacemaker in keepalived's place");
    let options = Options { lines: &["failover-mechanism cluster group GROUP"], ..stage.usual() };
    let mut topology = Topology::build(stage.directory, &options).await?;
    for number in [1, 2] {
        topology.wake(number).await?;
        watch_addresses(topology.router_mut(number)?)?;
    }
    let mut pair = Pair::around(topology)?;
    let mut checks = Checks::new(narrator);
    let told = tell(&mut pair, &mut checks).await;
    if told.is_err() || !checks.failed.is_empty() {
        eprintln!("{}", diagnosis(&pair));
    }
    told.map(|()| checks.end())
}

async fn tell(pair: &mut Pair, checks: &mut Checks<'_>) -> Result<()> {
    let first = form(pair, checks).await?;
    let second = other(first);
    ask_the_agent(pair, checks, first)?;
    move_promotion(pair, checks, first).await?;
    set_standby(pair, checks, second).await?;
    lose_daemon(pair, checks, first).await?;
    restart_under_maintenance(pair, checks, second).await?;
    lose_power(pair, checks, second).await
}

/// The cluster comes up: who was promoted.
async fn form(pair: &mut Pair, checks: &mut Checks<'_>) -> Result<u8> {
    checks.narrator.say("corosync and pacemakerd start on both routers; the resources are loaded");
    cluster::form(&mut pair.topology).await?;
    let holder = async || Ok(pair.topology.holders().await?.first().copied());
    let first = until("a router holds the virtual addresses", PATIENCE, holder).await?;
    checks.narrator.say(&format!("router{first} was promoted, though nobody was ready"));
    pair.wait_ready(other(first)).await?;
    pair.open(CONNECTIONS).await?;
    judge_state(pair, checks, first);
    Ok(first)
}

fn ask_the_agent(pair: &Pair, checks: &mut Checks<'_>, first: u8) -> Result<()> {
    checks.narrator.chapter("The agent by hand");
    checks.note("monitor: 8 where promoted, 0 where not", monitors(pair, first));
    for (what, result) in by_hand(pair, other(first))? {
        checks.note(what, result);
    }
    Ok(())
}

async fn move_promotion(pair: &mut Pair, checks: &mut Checks<'_>, first: u8) -> Result<()> {
    checks.narrator.chapter("The promoted role is moved");
    let name = pair.topology.router(first)?.told.name.clone();
    cross(pair, checks, first, async |pair, checks| {
        let ban = ["--resource", CLONE, "--ban", "--promoted", "--node", &name];
        typed(pair, checks, other(first), "crm_resource", &ban)
    })
    .await?;
    typed(pair, checks, first, "crm_resource", &["--resource", CLONE, "--clear"])?;
    checks.note("nothing moves back", stays(pair, other(first)).await);
    Ok(())
}

async fn set_standby(pair: &mut Pair, checks: &mut Checks<'_>, second: u8) -> Result<()> {
    let first = other(second);
    checks.narrator.chapter("A node is set to standby");
    let name = pair.topology.router(second)?.told.name.clone();
    let standby = ["--node", &name, "--name", "standby"];
    pair.wait_ready(first).await?;
    cross(pair, checks, second, async |pair, checks| {
        typed(pair, checks, first, "crm_attribute", &[&standby[..], &["--update", "on"]].concat())
    })
    .await?;
    settle(pair.topology.router(first)?)?;
    checks.note("monitor there: 7", code(pair, second, CLUSTERS, "monitor", &[], 7));
    typed(pair, checks, first, "crm_attribute", &[&standby[..], &["--delete"]].concat())?;
    checks.note("nothing moves back", stays(pair, first).await);
    Ok(())
}

async fn lose_daemon(pair: &mut Pair, checks: &mut Checks<'_>, first: u8) -> Result<()> {
    let second = other(first);
    checks.narrator.chapter("The promoted node's daemon dies");
    pair.wait_ready(second).await?;
    cross(pair, checks, first, async |pair, checks| {
        checks.narrator.typed(&format!("router{first}"), "kill -9 ctsync");
        pair.topology.router_mut(first)?.node.kill("ctsync")
    })
    .await?;
    checks.note("its score is taken back", score(pair, second, first, None).await);
    let never = never_promoted(pair, checks, first).await;
    checks.note("without its daemon the node is not promoted, though no other is there", never);
    checks.note("and the connections go on where they were", echoes(pair, second).await);
    checks.narrator.typed(&format!("router{first}"), "ctsync run");
    pair.topology.router_mut(first)?.start_ctsync()?;
    pair.wait_ready(first).await?;
    checks.note("it remembers that it was primary, and claims nothing", owner(pair, second));
    let name = pair.topology.router(first)?.told.name.clone();
    typed(pair, checks, second, "crm_resource", &["--cleanup", "--resource", CLONE, "--node", &name])?;
    checks.note("it is in the cluster again", score(pair, second, first, Some("100")).await);
    checks.note("nothing moves back", stays(pair, second).await);
    Ok(())
}

async fn restart_under_maintenance(pair: &mut Pair, checks: &mut Checks<'_>, second: u8) -> Result<()> {
    checks.narrator.chapter("A daemon is restarted under maintenance");
    let maintenance = ["--name", "maintenance-mode"];
    typed(pair, checks, second, "crm_attribute", &[&maintenance[..], &["--update", "true"]].concat())?;
    settle(pair.topology.router(second)?)?;
    checks.narrator.typed(&format!("router{second}"), "kill -9 ctsync; ctsync run");
    let router = pair.topology.router_mut(second)?;
    router.node.kill("ctsync")?;
    router.start_ctsync()?;
    until("its daemon is owner again", PATIENCE, async || owner(pair, second).map(Some)).await?;
    typed(pair, checks, second, "crm_attribute", &[&maintenance[..], &["--delete"]].concat())?;
    checks.note("nothing moves", stays(pair, second).await);
    checks.note("every connection lives", echoes(pair, second).await);
    pair.wait_ready(other(second)).await?;
    Ok(())
}

async fn lose_power(pair: &mut Pair, checks: &mut Checks<'_>, second: u8) -> Result<()> {
    checks.narrator.chapter("The promoted node loses its power");
    cross(pair, checks, second, async |pair, checks| {
        checks.narrator.typed("lab", &format!("destroy router{second}'s namespace"));
        pair.topology.power_off(second).await
    })
    .await?;
    checks.narrator.typed("lab", &format!("boot router{second} with an empty kernel"));
    pair.topology.boot_router(second).await?;
    pair.topology.wake(second).await?;
    watch_addresses(pair.topology.router_mut(second)?)?;
    cluster::join(pair.topology.router_mut(second)?)?;
    pair.wait_ready(second).await?;
    until("the cluster has started its instance there", PATIENCE, async || {
        Ok((call_agent(pair.topology.router(second)?, CLUSTERS, "monitor", &told())? == 0).then_some(()))
    })
    .await?;
    checks.note("it returns, ready, and nothing moves back", stays(pair, other(second)).await);
    Ok(())
}

/// The cluster's own instance of the agent.
const CLUSTERS: &str = "ctsync";

fn other(number: u8) -> u8 {
    3 - number
}

/// The agent's parameters as the cluster has them, the program apart.
fn told() -> [(&'static str, &'static str); 1] {
    [("group", GROUP)]
}

/// A command of the cluster, told.
fn typed(pair: &Pair, checks: &Checks<'_>, number: u8, program: &str, arguments: &[&str]) -> Result<()> {
    checks.narrator.typed(&format!("router{number}"), &format!("{program} {}", arguments.join(" ")));
    cluster::run(pair.topology.router(number)?, program, arguments).map(|_| ())
}

/// Something happens to the router that holds the addresses, until the other one carries every connection.
async fn cross(
    pair: &mut Pair,
    checks: &mut Checks<'_>,
    from: u8,
    fault: impl AsyncFnOnce(&mut Pair, &mut Checks<'_>) -> Result<()>,
) -> Result<()> {
    let to = other(from);
    settle(pair.topology.router(to)?)?;
    pair.clients.iter().for_each(Clients::mark);
    let began = now();
    fault(pair, checks).await?;
    until(&format!("router{to} holds the virtual address, nobody else"), PATIENCE, async || {
        Ok((pair.topology.holders().await? == [to]).then_some(()))
    })
    .await?;
    let moved = began.elapsed().as_secs_f64();
    let seen = echoes(pair, to).await.map(|seen| format!("{seen}; the address moved within {moved:.2} s"));
    checks.note("every connection lives", seen);
    judge_state(pair, checks, to);
    Ok(())
}

/// Right echoes of every connection through this router alone, and the longest silence since the last mark.
///
/// A router that has lost the addresses goes on to forward what its neighbours send it, until they have heard
/// of the other one: echoes of that time prove nothing.
async fn echoes(pair: &Pair, through: u8) -> Result<String> {
    let beside = || match pair.topology.router(other(through)) {
        Ok(router) => router.carried(),
        Err(_) => Ok(0),
    };
    let lives = || -> Vec<Life> { pair.clients.iter().flat_map(Clients::lives).collect() };
    let carried = pair.topology.router(through)?.carried()?;
    let mut before = None;
    let waited = until("every connection speaks, and through this router alone", PATIENCE, async || {
        let count = beside()?;
        if before != Some(count) {
            before = Some(count);
            pair.clients.iter().for_each(Clients::mark_echoes);
        }
        Ok(lives().iter().all(Life::alive).then_some(()))
    })
    .await;
    let (all, dead) = (lives(), lives().iter().filter(|life| !life.alive()).count());
    let gap = all.iter().map(|life| life.gap).max().unwrap_or(Duration::ZERO);
    let carried = pair.topology.router(through)?.carried()?.saturating_sub(carried);
    ensure!(waited.is_ok() && all.len() == CONNECTIONS, "{dead} of {} are dead", all.len());
    Ok(format!(
        "{} alive, 0 dead, longest gap {:.2} s, {carried} packets through router{through}",
        all.len(),
        gap.as_secs_f64()
    ))
}

/// Owner, promoted instance and addresses are in one place, and came there in the right order.
fn judge_state(pair: &Pair, checks: &mut Checks<'_>, number: u8) {
    checks.note("the owner is who holds the addresses", owner(pair, number));
    checks.note("the fence was closed before the addresses came", fence_first(pair, number));
}

fn owner(pair: &Pair, number: u8) -> Result<String> {
    let router = pair.topology.router(number)?;
    let (code, out) = router.type_command(&["status"])?;
    ensure!(code != 1 && out.contains("role                  : primary, owner\n"), "{out}");
    let promoted = cluster::promoted(router)?;
    ensure!(promoted.as_deref() == Some(&router.told.name), "the cluster says: promoted on {promoted:?}");
    Ok(router.told.name.clone())
}

/// A program that writes down when addresses come and go, by the same clock as the daemon.
fn watch_addresses(router: &mut Router) -> Result<()> {
    router.node.start("addresses", "env", &["TZ=UTC", "ip", "-tshort", "-o", "monitor", "address"])
}

/// Both are written as `2026-11-25T12:00:00.000000`, which sorts as time does.
fn fence_first(pair: &Pair, number: u8) -> Result<String> {
    let router = pair.topology.router(number)?;
    let (_, out) = router.type_command(&["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&out)?;
    let closed = status["last-fence"]["closed-at"].as_str().context("no fence")?.trim_end_matches('Z');
    let log = std::fs::read_to_string(router.node.log_path("addresses"))?;
    let mut after = Duration::MAX;
    for address in router.vips()?.iter().filter(|address| address.is_ipv4()) {
        let words = format!(" inet {address}/");
        let line = log.lines().rfind(|line| line.contains(&words) && !line.contains("Deleted"));
        let line = line.with_context(|| format!("{address} never came"))?;
        let came = line.trim_start_matches('[').split(']').next().unwrap_or_default();
        ensure!(came > closed, "{address} came at {came}, the fence was closed at {closed}");
        let [came, closed] = [came, closed].map(|text| format!("{text}Z").parse::<jiff::Timestamp>());
        after = after.min(Duration::try_from(came?.duration_since(closed?))?);
    }
    Ok(format!("by {} ms", after.as_millis()))
}

/// The cluster has nothing to do, and this router has the addresses.
async fn stays(pair: &Pair, number: u8) -> Result<String> {
    settle(pair.topology.router(number)?)?;
    let found = pair.topology.holders().await?;
    ensure!(found == [number], "they are on {found:?}");
    owner(pair, number)
}

/// Until the cluster has this promotion score of a router, or none, as another one sees it.
async fn score(pair: &Pair, at: u8, of: u8, expected: Option<&str>) -> Result<String> {
    let name = format!("router{of}");
    let asked = ["--promotion=ctsync", "--node", &name, "--query", "--quiet"];
    let router = pair.topology.router(at)?;
    until(&format!("the score is {expected:?}"), PATIENCE, async || {
        let (code, out, _) = router.node.try_run("crm_attribute", &asked, "")?;
        let found = (code == 0).then_some(out.trim());
        ensure!(found == expected, "it is {found:?}");
        Ok(Some(expected.unwrap_or("none").to_owned()))
    })
    .await
}

/// The exit code of the agent.
fn code(
    pair: &Pair,
    number: u8,
    instance: &str,
    action: &str,
    parameters: &[(&str, &str)],
    expected: i32,
) -> Result<String> {
    let all = [&told()[..], parameters].concat();
    let found = call_agent(pair.topology.router(number)?, instance, action, &all)?;
    ensure!(found == expected, "exit code {found}, expected {expected}");
    Ok(String::new())
}

fn monitors(pair: &Pair, promoted: u8) -> Result<String> {
    code(pair, promoted, CLUSTERS, "monitor", &[], 8)?;
    code(pair, other(promoted), CLUSTERS, "monitor", &[], 0)
}

/// An instance on the backup from before its start to after its stop.
fn by_hand(pair: &Pair, backup: u8) -> Result<Vec<(&'static str, Result<String>)>> {
    let nowhere = [("control", "/run/nothing.sock")];
    let wrong = [("group", "OTHER")];
    let call = |action, parameters: &[(&str, &str)], expected| {
        code(pair, backup, BY_HAND, action, parameters, expected)
    };
    let metadata =
        pair.topology.router(backup)?.node.output("crm_resource", &["--show-metadata", "ocf:ctsync:ctsync"]);
    Ok(vec![
        ("the cluster reads its meta-data", metadata.map(|_| String::new())),
        ("validate-all: 0", call("validate-all", &[], 0)),
        ("validate-all without a group: 6", call("validate-all", &[("group", "")], 6)),
        ("validate-all without the program: 5", call("validate-all", &[("binary", "/nothing")], 5)),
        ("an action that there is not: 3", call("nothing", &[], 3)),
        ("monitor before start: 7", call("monitor", &[], 7)),
        ("promote before start: 7", call("promote", &[], 7)),
        ("start without a daemon: 1", call("start", &nowhere, 1)),
        ("start with another group's name: 1", call("start", &wrong, 1)),
        ("monitor still: 7", call("monitor", &[], 7)),
        ("start: 0", call("start", &[], 0)),
        ("monitor: 0", call("monitor", &[], 0)),
        ("monitor without a daemon: 1", call("monitor", &nowhere, 1)),
        ("promote with another group's name: 1", call("promote", &wrong, 1)),
        ("promote without a daemon: 1", call("promote", &nowhere, 1)),
        ("demote without a daemon: 0", call("demote", &nowhere, 0)),
        ("stop: 0, and again: 0", call("stop", &[], 0).and_then(|_| call("stop", &[], 0))),
        ("monitor after stop: 7", call("monitor", &[], 7)),
    ])
}

/// The other node may not hold anything either: nothing runs anywhere, then it may again.
async fn never_promoted(pair: &Pair, checks: &Checks<'_>, without: u8) -> Result<String> {
    let there = other(without);
    let name = pair.topology.router(there)?.told.name.clone();
    settle(pair.topology.router(there)?)?;
    let standby = ["--node", &name, "--name", "standby"];
    typed(pair, checks, there, "crm_attribute", &[&standby[..], &["--update", "on"]].concat())?;
    settle(pair.topology.router(there)?)?;
    let found = pair.topology.holders().await?;
    let promoted = cluster::promoted(pair.topology.router(there)?)?;
    ensure!(found.is_empty() && promoted.is_none(), "addresses on {found:?}, promoted on {promoted:?}");
    typed(pair, checks, there, "crm_attribute", &[&standby[..], &["--delete"]].concat())?;
    until("the addresses are back", PATIENCE, async || {
        Ok((pair.topology.holders().await? == [there]).then_some(()))
    })
    .await?;
    Ok(String::new())
}

fn diagnosis(pair: &Pair) -> String {
    let mut all = pair.topology.diagnosis();
    for number in [1, 2] {
        if let Ok(router) = pair.topology.router(number) {
            all += &cluster::diagnosis(&router.node);
        }
    }
    all
}
