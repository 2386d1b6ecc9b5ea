//! A real Prometheus scrapes both routers while router1 dies and returns; its query API knows the verdict at
//! every moment. `promtool` finds nothing wrong with the text.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::machine::node::Node;
use crate::machine::wait::until;
use crate::routers::options::Options;
use crate::story::narrator::Narrator;

const URL: &str = "http://127.0.0.1:9090";

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Prometheus scrapes both routers");
    let options = Options { metrics: true, ..stage.usual() };
    let mut pair = Pair::start_with(stage, options, 50).await?;
    let mut checks = Checks::new(narrator);
    let addresses = [pair.topology.router(1)?.metrics_address(), pair.topology.router(2)?.metrics_address()];
    for address in &addresses {
        checks.note(&format!("promtool check metrics, {address}"), lint(&pair.topology.server, address));
        checks.note(
            "every metric of the document is there, and no other",
            documented(&pair.topology.server, address),
        );
    }
    start_prometheus(&mut pair.topology.server, &addresses)?;
    let [one, two] = &addresses;
    let server = &pair.topology.server;
    let both = [(one, "ctsync_protected", 1.0), (two, "ctsync_protected", 1.0), (one, "ctsync_owner", 1.0)];
    checks.note("both say: a failover now loses nothing", know(server, &both).await);
    let entries = pair.wait_equal().await? as f64;
    let equal = [(one, "ctsync_internal_entries", entries), (two, "ctsync_external_entries", entries)];
    checks.note("internal on router1 = external on router2", know(server, &equal).await);

    checks.narrator.typed("lab", "destroy router1's namespace");
    pair.topology.power_off(1).await?;
    checks.note("every connection lives", pair.wait_alive().await.map(|alive| alive.to_string()));
    let alone = [
        (one, "up", 0.0),
        (two, "ctsync_owner", 1.0),
        (two, "ctsync_protected", 0.0),
        (two, "ctsync_peer_up", 0.0),
    ];
    checks.note("router2 owns the group and says: not protected", know(&pair.topology.server, &alone).await);
    let fence = [(two, "ctsync_takeover_seconds_count", 1.0)];
    checks.note("its takeover was timed", know(&pair.topology.server, &fence).await);

    checks.narrator.typed("lab", "boot router1 with an empty kernel");
    pair.topology.boot_router(1).await?;
    pair.topology.rejoin(1).await?;
    checks.note("both are protected again, router1 owns", know(&pair.topology.server, &both).await);
    checks.note("every connection lives", pair.wait_alive().await.map(|alive| alive.to_string()));
    Ok(checks.end())
}

fn lint(node: &Node, address: &str) -> Result<String> {
    let text = scrape(node, address, "")?;
    let (code, out, err) = node.try_run("promtool", &["check", "metrics"], &text)?;
    ensure!(code == 0 && out.is_empty() && err.is_empty(), "exit code {code}: {out}{err}");
    Ok(format!("{} samples, no complaint", text.lines().filter(|line| !line.starts_with('#')).count()))
}

/// `docs/metrics.md` lists every name, and no other.
fn documented(node: &Node, address: &str) -> Result<String> {
    let page = include_str!("../../../docs/metrics.md");
    let listed: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split('`').next())
        .filter(|name| name.starts_with("ctsync_"))
        .collect();
    let text = scrape(node, address, "")?;
    let shown: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let missing: Vec<&&str> = listed.iter().filter(|name| !shown.contains(name)).collect();
    let unlisted: Vec<&&str> = shown.iter().filter(|name| !listed.contains(name)).collect();
    ensure!(
        missing.is_empty() && unlisted.is_empty(),
        "listed and not there {missing:?}; there and not listed {unlisted:?}"
    );
    let open = scrape(node, address, "Accept: application/openmetrics-text;version=1.0.0\r\n")?;
    ensure!(open.ends_with("# EOF\n"), "OpenMetrics without its end mark");
    Ok(format!("{} names", shown.len()))
}

/// One scrape from a node, as any HTTP client would.
fn scrape(node: &Node, address: &str, headers: &str) -> Result<String> {
    node.net.run(|| {
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Ok(body.to_owned())
    })
}

fn start_prometheus(node: &mut Node, addresses: &[String]) -> Result<()> {
    let targets = addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ");
    let path = node.directory.join("prometheus.yml");
    std::fs::write(
        &path,
        format!(
            "global:\n  scrape_interval: 500ms\n  scrape_timeout: 400ms\nscrape_configs:\n  \
             - job_name: ctsync\n    static_configs:\n      - targets: [{targets}]\n"
        ),
    )?;
    let data = node.directory.join("prometheus");
    let arguments = [
        format!("--config.file={}", path.display()),
        format!("--storage.tsdb.path={}", data.display()),
        "--web.listen-address=127.0.0.1:9090".into(),
    ];
    node.start("prometheus", "prometheus", &arguments.each_ref().map(String::as_str))
}

/// Wait until Prometheus gives these values: instance, metric, value.
async fn know(node: &Node, wanted: &[(&String, &str, f64)]) -> Result<String> {
    until("Prometheus knows", PATIENCE, async || {
        ensure!(
            node.runs("prometheus"),
            "prometheus ended: {}",
            node.log_tail("prometheus").unwrap_or_default()
        );
        for (instance, metric, value) in wanted {
            let query = format!("{metric}{{instance=\"{instance}\"}}");
            let found = query_one(node, &query)?;
            if found != *value {
                bail!("{query} is {found}, expected {value}");
            }
        }
        Ok(Some(()))
    })
    .await?;
    let told: Vec<String> =
        wanted.iter().map(|(instance, metric, value)| format!("{metric}{{{instance}}} {value}")).collect();
    Ok(told.join(", "))
}

fn query_one(node: &Node, query: &str) -> Result<f64> {
    let text = node.output("promtool", &["query", "instant", "--format", "json", URL, query])?;
    let value: serde_json::Value = serde_json::from_str(&text).context("not JSON")?;
    let sample = value[0]["value"][1].as_str().with_context(|| format!("{query}: no sample yet"))?;
    sample.parse().with_context(|| format!("{query}: {sample}"))
}
