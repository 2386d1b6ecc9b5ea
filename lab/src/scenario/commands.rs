//! Every command on a running pair: what it prints, how it exits, and what it says when something is not
//! there.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::{entries, judge};
use crate::machine::wait::until;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 30;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Every command on a running pair");
    let mut pair = Pair::start(stage, CONNECTIONS).await?;
    pair.wait_equal().await?;
    let mut checks = Checks::new(narrator);
    views(&pair, &mut checks);
    checks.note("a pipe to head", piped(&pair));
    checks.note("keepalived's configuration has what ours needs", keepalived(&pair));
    checks.note("events show a connection being made", events(&pair).await);
    checks.note("wait-ready", pair.typed(2, &["wait-ready", "--timeout", "5"], 0));
    checks.note("resync", pair.typed(1, &["resync"], 0));
    checks.note("diff", diff(&pair));
    checks.note("diff beside a stray", diff_of_a_stray(&pair));
    checks.note("reset of the external cache", reset_external(&pair).await);
    checks.note("reset of the internal cache", reset_internal(&pair).await);
    checks.note(
        "reset of the external cache on the owner",
        refused(
            &pair,
            1,
            &["reset", "conntrack-sync", "external-cache"],
            "nothing was changed: this node owns its group",
        ),
    );
    checks.note("reload", reload(&pair).await);
    checks.note("reload by SIGHUP", hangup(&pair).await);
    checks.note("every connection lives", pair.wait_alive().await.map(|alive| alive.to_string()));
    checks.note("reset conntrack", reset_conntrack(&pair).await);
    not_there(&mut pair, &mut checks)?;
    Ok(checks.end())
}

fn views(pair: &Pair, checks: &mut Checks<'_>) {
    let lines = |result: Result<String>, wanted: usize| -> Result<String> {
        let found = result?.lines().filter(|line| line.contains("tcp")).count();
        ensure!(found == wanted, "{found} TCP entries, expected {wanted}");
        Ok(format!("{found} TCP entries"))
    };
    for (number, cache, wanted) in
        [(1, "internal", CONNECTIONS), (1, "external", 0), (2, "internal", 0), (2, "external", CONNECTIONS)]
    {
        for extra in [&[][..], &["main"], &["--wide"], &["main", "--wide"]] {
            let words: Vec<&str> =
                ["show", "conntrack-sync", "cache", cache].into_iter().chain(extra.iter().copied()).collect();
            let shown = lines(pair.typed(number, &words, 0), wanted);
            checks.note(&format!("router{number}: {}", words.join(" ")), shown);
        }
        let words = ["show", "conntrack-sync", "cache", cache];
        let shown = pair.json(number, &words).and_then(|value| {
            let entries = value["entries"].as_array().context("no entries")?;
            let tcp: Vec<&Value> = entries.iter().filter(|entry| entry["protocol"] == 6).collect();
            ensure!(tcp.len() == wanted && value["version"] == 1, "{value}");
            let translated = tcp.iter().all(|entry| {
                entry["source-nat"] == true
                    && entry["reply"]["dst"] == "10.0.0.1"
                    && entry["installed"] == true
                    && entry["owner"] == "router1"
                    && entry["state"] == "ESTABLISHED"
            });
            ensure!(translated, "{}", tcp.first().map_or(Value::Null, |entry| (*entry).clone()));
            Ok(format!("{} TCP entries, translated, installed, owned by router1", tcp.len()))
        });
        checks.note(&format!("router{number}: {} --json", words.join(" ")), shown);
    }
    let port = "10.0.0.100:7000";
    for (words, wanted) in [
        (vec!["destination", port], CONNECTIONS),
        (vec!["source", "10.0.1.100", "destination", "any:7000"], CONNECTIONS),
        (vec!["source", "10.0.1.101"], 0),
        (vec!["destination", port, "--wide"], CONNECTIONS),
    ] {
        let all: Vec<&str> = ["show", "conntrack", "table", "ipv4"].into_iter().chain(words).collect();
        checks.note(&format!("router1: {}", all.join(" ")), lines(pair.typed(1, &all, 0), wanted));
    }
    for (words, says) in [
        (
            &["show", "conntrack", "table", "ipv4", "source", "10.0.1"][..],
            "Please enter a valid source IPv4 address",
        ),
        (&["show", "conntrack-sync", "cache", "internal", "expect"], "expect-sync not configured"),
        (&["show", "conntrack-sync", "statistics", "expect"], "expect-sync not configured"),
        (&["notify", "primary", "OTHER"], "no failover group \"OTHER\" here; the group is \"SYNC\""),
    ] {
        checks.note(&format!("router1: {}", words.join(" ")), refused(pair, 1, words, says));
    }
    for words in
        [&["show", "conntrack-sync", "statistics"][..], &["show", "conntrack-sync", "status"], &["status"]]
    {
        let shown = pair.json(1, words).map(|value| value["version"].to_string());
        checks.note(
            &format!("router1: {} --json", words.join(" ")),
            shown.map(|version| format!("version {version}")),
        );
    }
    checks.note(
        "router1: show conntrack-sync statistics main",
        pair.typed(1, &["show", "conntrack-sync", "statistics", "main"], 0).and_then(|out| {
            ensure!(out.starts_with("cache internal:\n"), "{out}");
            Ok(String::new())
        }),
    );
}

/// Exit code 1 and one sentence.
fn refused(pair: &Pair, number: u8, words: &[&str], says: &str) -> Result<String> {
    let out = pair.typed(number, words, 1)?;
    ensure!(out.lines().count() == 1 && out.contains(says), "{out}");
    Ok(out.trim().to_owned())
}

fn piped(pair: &Pair) -> Result<String> {
    let router = pair.topology.router(1)?;
    let ctsync = router.binary()?;
    let script = "for verb in 'show conntrack table ipv4' 'show conntrack-sync cache internal' 'status'; do \
                  \"$0\" $verb | head -n 1 >/dev/null; echo ${PIPESTATUS[0]}; done";
    let (_, out, err) = router.node.try_run("bash", &["-c", script, &ctsync], "")?;
    ensure!(out == "0\n0\n0\n" && err.is_empty(), "exit codes {out:?}: {err}");
    Ok("exit code 0, nothing on standard error".into())
}

fn keepalived(pair: &Pair) -> Result<String> {
    let router = pair.topology.router(1)?;
    let (config, keepalived) = (router.config_path(), ctsync::config::KEEPALIVED_CONF);
    let out = pair.typed(1, &["config", "check", &config, "--keepalived", keepalived], 0)?;
    let without = router.node.directory.join("without.conf");
    let text = router.keepalived().replace("sync_group_tracking_weight\n", "\n");
    std::fs::write(&without, text)?;
    let without = without.to_string_lossy().into_owned();
    let refused = pair.typed(1, &["config", "check", &config, "--keepalived", &without], 1)?;
    ensure!(refused.contains("lacks sync_group_tracking_weight"), "{refused}");
    Ok(out.lines().last().unwrap_or_default().replace(&config, "router.set"))
}

async fn events(pair: &Pair) -> Result<String> {
    let router = pair.topology.router(1)?;
    let mut child = router
        .node
        .command(&router.binary()?, &["events", "--json"])?
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start events")?;
    let lines = child.stdout.take().map(|out| BufReader::new(out).lines()).context("no output")?;
    // The watcher must be there before something happens; what happens goes on until it is seen.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut from = 3_000_000;
    let seen = until("an event of a new entry", PATIENCE, async || {
        entries::create(&router.node.net, from, 1)?;
        from += 1;
        Ok(receiver.try_iter().find(|line| line.contains("\"change\":\"new\"")))
    })
    .await;
    child.kill()?;
    child.wait()?;
    let line: Value = serde_json::from_str(&seen?)?;
    ensure!(line["cache"] == "internal" && line["entry"]["original"]["dport"] == 443, "{line}");
    line["when"].as_str().context("no time")?.parse::<jiff::Timestamp>()?;
    Ok(format!("{} {} at {}", line["cache"], line["change"], line["when"]))
}

fn diff(pair: &Pair) -> Result<String> {
    let mut told = Vec::new();
    for number in [1, 2] {
        let out = pair.typed(number, &["diff"], 0)?;
        ensure!(out.contains("own kernel: equal") && out.contains(": equal"), "{out}");
        told.push(out.trim().replace('\n', ", "));
        let value = pair.json(number, &["diff"])?;
        ensure!(value["equal"] == true, "{value}");
    }
    Ok(told.join("; "))
}

/// What a router forwards and no table has, as a node without a role does, is not equal.
fn diff_of_a_stray(pair: &Pair) -> Result<String> {
    const STRAY: &str = "-p tcp -s 10.0.1.100 -d 10.0.0.100 --sport 40002 --dport 7002";
    let second = &pair.topology.router(2)?.node;
    let conntrack = |verb: &str| {
        let line = format!("{verb} {STRAY}");
        let more = if verb == "-I" { " --state ESTABLISHED -t 600 -u SEEN_REPLY,ASSURED" } else { "" };
        second.output("conntrack", &format!("{line}{more}").split(' ').collect::<Vec<_>>())
    };
    conntrack("-I")?;
    let out = pair.typed(2, &["diff"], 1)?;
    conntrack("-D")?;
    // What was said to a virtual address while it was here stays behind at a handover, and is the router's
    // own.
    let own = "-p tcp -s 10.0.1.100 -d 10.0.1.1 --sport 40003 --dport 22";
    let add = format!("-I {own} --state ESTABLISHED -t 600 -u SEEN_REPLY,ASSURED");
    second.output("conntrack", &add.split(' ').collect::<Vec<_>>())?;
    pair.typed(2, &["diff"], 0)?;
    second.output("conntrack", &format!("-D {own}").split(' ').collect::<Vec<_>>())?;
    ensure!(out.contains("own kernel: 1 entries differ") && out.contains("only in kernel"), "{out}");
    Ok(out.trim().replace('\n', ", "))
}

async fn reset_external(pair: &Pair) -> Result<String> {
    let before = pair.wait_equal().await?;
    let out = pair.typed(2, &["reset", "conntrack-sync", "external-cache"], 0)?;
    ensure!(out.is_empty(), "not silent: {out}");
    let after = pair.wait_equal().await?;
    ensure!(before == after, "before {before}, after {after}");
    pair.wait_ready(2).await?;
    equal_kernels(pair).await
}

async fn reset_internal(pair: &Pair) -> Result<String> {
    let sent = |value: &Value| value["datagrams"][0].as_u64().unwrap_or(0);
    let before = sent(&pair.topology.router(1)?.statistics().await?);
    let out = pair.typed(1, &["reset", "conntrack-sync", "internal-cache"], 0)?;
    ensure!(out.is_empty(), "not silent: {out}");
    let entries = pair.wait_equal().await?;
    let repaired = until("everything is sent again", PATIENCE, async || {
        let statistics = pair.topology.router(1)?.statistics().await?;
        let counters = statistics["counters"].as_array().cloned().unwrap_or_default();
        let again =
            counters.iter().find(|pair| pair[0] == "repaired_entries_sent").and_then(|pair| pair[1].as_u64());
        Ok(again.filter(|again| *again >= entries && sent(&statistics) > before))
    })
    .await?;
    Ok(format!("{entries} entries, {repaired} sent again since start"))
}

async fn equal_kernels(pair: &Pair) -> Result<String> {
    let own = pair.topology.own_addresses()?;
    let (one, two) = (pair.topology.router(1)?, pair.topology.router(2)?);
    let count = until("both kernels list the same", PATIENCE, async || {
        let (first, second) = (judge::entries(&one.node, &own)?, judge::entries(&two.node, &own)?);
        if first == second {
            return Ok(Some(first.len()));
        }
        let example = first.symmetric_difference(&second).next().cloned().unwrap_or_default();
        bail!("router1 {} entries, router2 {}; for example {example}", first.len(), second.len())
    })
    .await?;
    Ok(format!("conntrack -L of both routers is equal: {count} entries"))
}

async fn reload(pair: &Pair) -> Result<String> {
    let path = pair.topology.router(1)?.config_path();
    let original = std::fs::read_to_string(&path)?;
    let changed = original.replace("'tcp,udp,icmp,icmp6'", "'udp,icmp'").replace("225.0.0.50", "225.0.0.51");
    std::fs::write(&path, &changed)?;
    let out = pair.typed(1, &["reload"], 0)?;
    ensure!(out.contains("applied: accept-protocol\nneeds a restart: mcast-group\n"), "{out}");
    let tcp = |number| -> Result<usize> {
        let cache = if number == 1 { "internal" } else { "external" };
        let value = pair.json(number, &["show", "conntrack-sync", "cache", cache])?;
        Ok(value["entries"].as_array().into_iter().flatten().filter(|entry| entry["protocol"] == 6).count())
    };
    until("TCP is left out on both", PATIENCE, async || Ok((tcp(1)? + tcp(2)? == 0).then_some(()))).await?;
    std::fs::write(&path, changed.replace("mcast-group", "mcast-grupp"))?;
    let out = pair.typed(1, &["reload"], 1)?;
    ensure!(out.contains("nothing was changed") && out.contains("did you mean \"mcast-group\""), "{out}");
    std::fs::write(&path, &original)?;
    pair.typed(1, &["reload"], 0)?;
    let back = until("TCP is back on both", PATIENCE, async || {
        let (one, two) = (tcp(1)?, tcp(2)?);
        Ok((one >= CONNECTIONS && one == two).then_some(one))
    })
    .await?;
    Ok(format!("TCP left out on both and back again ({back}), mcast-group named, a bad file refused"))
}

/// The same by a signal: seen in the log, and nothing else changes.
async fn hangup(pair: &Pair) -> Result<String> {
    let router = pair.topology.router(1)?;
    let path = router.config_path();
    let original = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{original}set service conntrack-sync gate-timeout 31\n"))?;
    router.node.signal("ctsync", nix::sys::signal::Signal::SIGHUP)?;
    let line = until("the log says so", PATIENCE, async || {
        let log = router.node.log_tail("ctsync")?;
        Ok(log.lines().rev().find(|line| line.contains("applied=\"gate-timeout\"")).map(str::to_owned))
    })
    .await;
    std::fs::write(&path, original)?;
    line.map(|_| "gate-timeout applied".to_owned())
}

async fn reset_conntrack(pair: &Pair) -> Result<String> {
    let router = pair.topology.router(1)?;
    let (code, out, _) = router.node.try_run(&router.binary()?, &["reset", "conntrack"], "n\n")?;
    ensure!(code == 1, "a no ends with exit code {code}");
    let question = "This will clear all currently tracked and expected connections. Continue? [y/N]";
    ensure!(out.contains(question), "{out}");
    pair.typed(1, &["reset", "conntrack", "--yes"], 0)?;
    until("the peer has heard of it", PATIENCE, async || {
        let external = pair.topology.router(2)?.statistics().await?["external"]["active"].as_u64();
        Ok((external == Some(0)).then_some(()))
    })
    .await?;
    Ok("asks; with --yes both tables are empty".into())
}

/// The situations in which there is nothing to show: one sentence, exit code 1.
fn not_there(pair: &mut Pair, checks: &mut Checks<'_>) -> Result<()> {
    // No ctsync, and nobody has configured one: the node has no /etc/ctsync.
    pair.topology.router_mut(2)?.node.kill("ctsync")?;
    let words = ["show", "conntrack-sync", "statistics"];
    let says = "can't connect: is ctsync running? appropriate permissions?";
    for words in [
        &words[..],
        &["show", "conntrack-sync", "status"],
        &["show", "conntrack-sync", "cache", "external"],
        &["status"],
        &["diff"],
        &["events"],
    ] {
        checks.note(&format!("not running: {}", words.join(" ")), refused(pair, 2, words, says));
    }
    std::fs::remove_file(pair.topology.router(2)?.control())?;
    let configured = std::path::Path::new("/etc/ctsync/config.json").exists();
    let says = if configured { says } else { "conntrack-sync not configured" };
    checks.note("not configured", refused(pair, 2, &words, says));
    Ok(())
}
