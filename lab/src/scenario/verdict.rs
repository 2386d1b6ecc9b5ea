//! "Protected" means protected: what an operator's first week does to a pair with real keepalived. A standby
//! that cannot be elected or has no rules, a keepalived that was there first, that is reloaded, that writes
//! into a file that is gone: the verdict tells at once and on both routers, what brings it back is what it
//! says, and at the failover that follows every connection lives.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::machine::wait::{now, until};
use crate::routers::options::{Options, Vrrp};
use crate::routers::router::Router;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 50;
/// An alarm comes within what keepalived needs to notice, a look of the daemon, and a sign of life.
const AT_ONCE: Duration = Duration::from_secs(4);
/// Reloads of keepalived in `run`.
const RELOADS: u32 = 10;

pub(crate) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    tell(stage, narrator, RELOADS).await
}

/// The story with so many reloads of keepalived.
pub(crate) async fn tell(stage: &Stage<'_>, narrator: &mut Narrator, reloads: u32) -> Result<bool> {
    let mut pair = Pair::start(stage, CONNECTIONS).await?;
    let mut checks = Checks::new(narrator);
    checks.note("a pair as it should be", all_clear(&pair).await);

    checks.narrator.chapter("The standby cannot be elected");
    checks.note("its LAN cable is out", cable_out(&pair).await);
    checks.note("its keepalived is stopped", keepalived_stopped(&mut pair).await);
    checks.note("it has no ruleset", no_ruleset(&pair).await);

    for tells in [true, false] {
        checks.narrator.chapter(if tells {
            "keepalived is reloaded, with fifo_write_vrrp_states_on_reload"
        } else {
            "keepalived is reloaded, and tells nothing again"
        });
        let vrrp = Vrrp { tells_on_reload: tells, ..Vrrp::default() };
        begin(&mut pair, Options { vrrp, ..stage.usual() }).await?;
        let told = reload(&mut pair, reloads, tells).await;
        checks.note(&format!("{reloads} reloads on the master, ctsync started again after each tenth"), told);
        checks.note("then it dies: every connection lives", fail_over(&mut pair, checks.narrator).await);
    }

    checks.narrator.chapter("keepalived was started before ctsync");
    checks.note("its role is known all the same", keepalived_first(&mut pair, stage.usual()).await);
    checks.note("then it dies: every connection lives", fail_over(&mut pair, checks.narrator).await);

    checks.narrator.chapter("/run/ctsync is removed under a running keepalived");
    begin(&mut pair, stage.usual()).await?;
    checks.note("told on both, and everything is made again", run_removed(&mut pair).await);
    checks.note("router1 dies uncured: every connection lives", fail_over(&mut pair, checks.narrator).await);
    checks.note("it returns: every connection lives", return_of_router1(&mut pair).await);
    checks.note("cured as told", cured(&mut pair).await);
    Ok(checks.end())
}

/// Both routers boot anew, with connections through them.
async fn begin(pair: &mut Pair, options: Options) -> Result<()> {
    pair.clients.clear();
    pair.topology.options = options;
    pair.topology.reboot().await?;
    pair.wait_ready(2).await?;
    pair.open(CONNECTIONS).await?;
    all_clear(pair).await.map(|_| ())
}

fn words(status: &Value) -> Vec<String> {
    let reasons = status["reasons"].as_array().into_iter().flatten();
    reasons.filter_map(|reason| reason["word"].as_str()).map(str::to_owned).collect()
}

/// `ctsync status` of a router: exit code and whether it names this reason.
async fn says(router: &Router, word: &str) -> Result<bool> {
    let status = router.status().await?;
    Ok(status["protected"] == false && words(&status).iter().any(|found| found == word))
}

/// Until both routers name the reason; how long that took. The command's exit code says so, too.
async fn told(pair: &Pair, word: &str, began: Instant) -> Result<String> {
    for number in [1, 2] {
        let router = pair.topology.router(number)?;
        until(&format!("router{number} says {word}"), AT_ONCE, async || {
            if says(router, word).await? {
                return Ok(Some(()));
            }
            let status = router.status().await?;
            bail!("{}, {:?}", status["verdict"], words(&status))
        })
        .await?;
    }
    let took = began.elapsed();
    for number in [1, 2] {
        let (code, out) = pair.topology.router(number)?.type_command(&["status"])?;
        ensure!(code == 3, "router{number}: exit code {code}: {out}");
    }
    Ok(format!("{word} on both after {:.2} s", took.as_secs_f64()))
}

/// Both say that they are protected, and exit with 0.
async fn all_clear(pair: &Pair) -> Result<String> {
    let mut verdicts = Vec::new();
    for number in [1, 2] {
        let router = pair.topology.router(number)?;
        let verdict = until(&format!("router{number} gives the all-clear"), PATIENCE, async || {
            let status = router.status().await?;
            if status["protected"] == true {
                return Ok(Some(status["verdict"].as_str().unwrap_or_default().to_owned()));
            }
            bail!("{}", status["verdict"])
        })
        .await?;
        verdicts.push(verdict);
        pair.typed(number, &["status"], 0)?;
    }
    Ok(verdicts.join("; "))
}

async fn cable_out(pair: &Pair) -> Result<String> {
    let began = now();
    pair.topology.cable(2, "lan", false).await?;
    let told = told(pair, "role-fault", began).await?;
    pair.topology.cable(2, "lan", true).await?;
    all_clear(pair).await?;
    Ok(told)
}

async fn keepalived_stopped(pair: &mut Pair) -> Result<String> {
    let began = now();
    pair.topology.router(2)?.node.signal("keepalived", Signal::SIGTERM)?;
    let told = told(pair, "mover-absent", began).await?;
    let second = pair.topology.router_mut(2)?;
    second.node.kill("keepalived")?;
    second.start_keepalived()?;
    all_clear(pair).await?;
    Ok(told)
}

async fn no_ruleset(pair: &Pair) -> Result<String> {
    let began = now();
    let second = pair.topology.router(2)?;
    second.node.output("nft", &["flush", "ruleset"])?;
    let told = told(pair, "rules", began).await?;
    second.load_firewall()?;
    all_clear(pair).await?;
    Ok(told)
}

/// keepalived on the master is reloaded again and again under load.
async fn reload(pair: &mut Pair, reloads: u32, tells: bool) -> Result<String> {
    let mut alarms = Vec::new();
    for number in 1..=reloads {
        pair.topology.router(1)?.node.signal("keepalived", Signal::SIGHUP)?;
        let due = now() + Duration::from_millis(500);
        while now() < due {
            let status = pair.topology.router(1)?.status().await?;
            let role = &status["state"]["role"];
            ensure!(role == "primary", "after reload {number} its role is {role}: {}", status["transitions"]);
            alarms.extend((status["protected"] == false).then(|| status["verdict"].to_string()));
            pause(Duration::from_millis(50)).await?;
        }
        if number % 10 == 0 {
            let first = pair.topology.router_mut(1)?;
            first.node.kill("ctsync")?;
            first.start_ctsync()?;
            all_clear(pair).await.with_context(|| format!("ctsync started again after reload {number}"))?;
        }
    }
    let some = alarms.get(..alarms.len().min(3)).unwrap_or_default();
    ensure!(alarms.is_empty(), "{} looks said that the pair is not protected: {some:?}", alarms.len());
    // On the standby, too.
    pair.topology.router(2)?.node.signal("keepalived", Signal::SIGHUP)?;
    pause(Duration::from_secs(3)).await?;
    let status = pair.topology.router(2)?.status().await?;
    ensure!(status["state"]["role"] == "backup", "the standby's role is {}", status["state"]["role"]);
    ensure!(status["state"]["gate-open"] == true, "its gate is closed");
    all_clear(pair).await?;
    Ok(if tells { "its role held, no alarm" } else { "its role held, by what was told before, no alarm" }
        .into())
}

async fn pause(time: Duration) -> Result<()> {
    let due = now() + time;
    until("a moment is over", PATIENCE, async || Ok((now() >= due).then_some(()))).await
}

async fn fail_over(pair: &mut Pair, narrator: &Narrator) -> Result<String> {
    pair.lose_router1(narrator).await?;
    let alive = pair.wait_alive().await?;
    pair.topology.wait_owner(2).await?;
    Ok(format!("{alive} alive, 0 dead"))
}

/// Both routers boot; keepalived runs, has elected, and its FIFO is another one when ctsync comes.
async fn keepalived_first(pair: &mut Pair, options: Options) -> Result<String> {
    pair.clients.clear();
    pair.topology.options = options;
    pair.topology.power_on_all().await?;
    for number in [1, 2] {
        let router = pair.topology.router_mut(number)?;
        router.load_firewall()?;
        router.start_keepalived()?;
    }
    pair.topology.wait_elected(1).await?;
    for number in [1, 2] {
        let router = pair.topology.router_mut(number)?;
        // What systemd does with a unit's RuntimeDirectory= at its start.
        let run = router.node.run_directory().join("ctsync");
        std::fs::remove_dir_all(&run)?;
        std::fs::create_dir_all(&run)?;
        router.start_ctsync()?;
    }
    let one = pair.topology.router(1)?;
    until("router1 owns the group", PATIENCE, async || {
        let status = one.status().await?;
        let state = &status["state"];
        if state["owner"] == true && state["role"] == "primary" {
            return Ok(Some(()));
        }
        bail!("role {}, {}", state["role"], status["verdict"])
    })
    .await?;
    pair.wait_ready(2).await?;
    pair.open(CONNECTIONS).await?;
    pair.wait_ready(2).await?;
    let mut seen = Vec::new();
    for number in [1, 2] {
        let status = pair.topology.router(number)?.status().await?;
        ensure!(
            status["protected"] == false,
            "nobody knows whether router2 can be elected: {}",
            status["verdict"]
        );
        seen.push(words(&status).join(" "));
    }
    Ok(format!("router1 primary by its addresses; told: {}", seen.join(", ")))
}

/// A unit with `RuntimeDirectory=` alone does this at each restart.
async fn run_removed(pair: &mut Pair) -> Result<String> {
    let began = now();
    for number in [1, 2] {
        std::fs::remove_dir_all(pair.topology.router(number)?.node.run_directory().join("ctsync"))?;
    }
    for number in [1, 2] {
        let router = pair.topology.router(number)?;
        until(&format!("router{number}'s control socket is there again"), AT_ONCE, async || {
            Ok(Some(router.status().await?))
        })
        .await?;
        until(&format!("router{number} says that its FIFO was replaced"), 2 * AT_ONCE, async || {
            Ok(says(router, "fifo-replaced").await?.then_some(()))
        })
        .await?;
    }
    let took = began.elapsed();
    let first = pair.topology.router(1)?;
    let state = first.status().await?["state"].clone();
    ensure!(
        state["role"] == "primary" && state["owner"] == true,
        "router1: {}, {}",
        state["role"],
        state["readiness"]
    );
    Ok(format!("after {:.2} s; router1 stays primary by its addresses", took.as_secs_f64()))
}

async fn return_of_router1(pair: &mut Pair) -> Result<String> {
    pair.topology.boot_router(1).await?;
    pair.topology.rejoin(1).await?;
    pair.topology.wait_elected(1).await?;
    pair.topology.wait_owner(1).await?;
    let alive = pair.wait_alive().await?;
    Ok(format!("{alive} alive, 0 dead"))
}

/// Restart keepalived where it holds a file that is gone.
async fn cured(pair: &mut Pair) -> Result<String> {
    let second = pair.topology.router_mut(2)?;
    let status = second.status().await?;
    ensure!(status["protected"] == false, "router2's FIFO is a dead one still: {}", status["verdict"]);
    second.node.signal("keepalived", Signal::SIGTERM)?;
    let second = pair.topology.router(2)?;
    until("keepalived has ended", PATIENCE, async || Ok((!second.node.runs("keepalived")).then_some(())))
        .await?;
    let second = pair.topology.router_mut(2)?;
    second.node.kill("keepalived")?;
    second.start_keepalived()?;
    let verdict = all_clear(pair).await?;
    let alive = pair.wait_alive().await?;
    Ok(format!("{verdict}; {alive} alive"))
}
