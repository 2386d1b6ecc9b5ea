//! iperf3 at full rate across a takeover: the transfer goes on and does not stall. What the survivor sees
//! first is mostly a retransmission, and an acknowledgement beyond what it knows: without be-liberal the
//! transfer would stand for ever. With `window-tracking` it is tracked again a few seconds later, and goes
//! on.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::traffic::{Clients, Kind};
use crate::machine::wait::until;
use crate::routers::options::Options;
use crate::routers::topology::SERVER;
use crate::story::narrator::Narrator;

/// Seconds of the transfer; router1 ends in the fourth.
const SECONDS: usize = 14;
/// Connections beside it that say nothing across the takeover.
const SILENT: usize = 20;
/// Seconds at the end in each of which bytes must arrive.
const LAST: usize = 5;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("iperf3 at full rate across a takeover");
    let options = Options { window_tracking: true, ..stage.usual() };
    let mut pair = Pair::start_with(stage, options, 0).await?;
    pair.clients.push(Clients::open(&pair.topology.client.net, Kind::Tcp, SERVER.parse()?, SILENT)?);
    pair.wait_alive().await?;
    pair.clients.iter().for_each(|clients| clients.hush(true));
    let mut checks = Checks::new(narrator);
    pair.topology.server.start("iperf3", "iperf3", &["-s", "-1"])?;
    let server = &pair.topology.server;
    until("iperf3 listens", PATIENCE, async || {
        Ok(server.output("ss", &["-lnt"])?.contains(":5201 ").then_some(()))
    })
    .await?;
    let seconds = SECONDS.to_string();
    let report = pair.topology.client.directory.join("iperf3.json");
    let client = pair
        .topology
        .client
        .command("iperf3", &["-c", SERVER, "-t", &seconds, "-i", "1", "-J"])?
        .stdout(std::fs::File::create(&report)?)
        .stderr(pair.topology.client.log_file("iperf3")?)
        .spawn()
        .context("cannot start iperf3")?;
    let mut client = Child(client);
    until("the transfer is under way", PATIENCE, async || {
        let carried = pair.topology.router(1)?.carried()?;
        Ok((carried > 20_000).then_some(()))
    })
    .await?;
    pair.wait_ready(2).await?;
    checks.narrator.typed("lab", "destroy router1's namespace");
    pair.topology.power_off(1).await?;
    until("iperf3 has ended", PATIENCE, async || Ok(client.0.try_wait()?.map(|_| ()))).await?;
    checks.note("it did not stall", judge(&std::fs::read_to_string(&report)?));
    let carried = pair.topology.router(2)?.carried()?;
    checks.note("router2 carried it", more_than(carried, 1000));
    checks.note("windows of connections that speak are tracked again", tracked(&pair).await);
    checks.note("router2 found nothing invalid", invalid(&pair));
    Ok(checks.end())
}

struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn more_than(carried: u64, least: u64) -> Result<String> {
    ensure!(carried > least, "{carried} packets");
    Ok(format!("{carried} packets"))
}

/// Bytes in each second; none of the last ones is without.
fn judge(report: &str) -> Result<String> {
    let report: Value = serde_json::from_str(report).context("iperf3's report")?;
    let intervals = report["intervals"].as_array().context("no intervals")?;
    let rates: Vec<f64> =
        intervals.iter().filter_map(|interval| interval["sum"]["bits_per_second"].as_f64()).collect();
    let told: Vec<String> = rates.iter().map(|rate| format!("{:.2}", rate / 1e9)).collect();
    let told = format!("Gbit/s in each second: {}", told.join(" "));
    ensure!(rates.len() + 1 >= SECONDS, "{told}");
    let stalled = rates.iter().rev().take(LAST).any(|rate| *rate <= 0.0);
    ensure!(!stalled, "{told}");
    Ok(told)
}

/// iperf3's two connections, and none of the silent ones.
async fn tracked(pair: &Pair) -> Result<String> {
    let count = pair.topology.router(2)?.counter("tracked_entries").await?;
    ensure!((1..=2).contains(&count), "{count} entries, {SILENT} others are silent");
    Ok(format!("{count}, {SILENT} silent ones are left alone"))
}

/// The rule that drops invalid packets of the forward chain has met none.
fn invalid(pair: &Pair) -> Result<String> {
    let rules = pair.topology.router(2)?.node.output("nft", &["list", "chain", "inet", "vyos", "forward"])?;
    let rule = rules.lines().find(|line| line.contains("ct state invalid")).context("no such rule")?;
    ensure!(rule.contains("packets 0 "), "{}", rule.trim());
    Ok(String::new())
}
