//! Control clients that connect and say nothing, and ones that ask for a large listing and never read, beside
//! replication: nobody else notices.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::entries;
use crate::machine::wait::{now, until};
use crate::story::narrator::Narrator;

/// Entries beside everything: what is listed and never read.
const ENTRIES: u32 = 100_000;
/// Entries whose replication is timed.
const CHANGES: u32 = 5_000;
const SILENT: usize = 40;
const DEAF: usize = 10;
/// Answers whose time is taken.
const ASKED: usize = 41;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Control clients that say nothing, and ones that never read");
    let pair = Pair::start(stage, 20).await?;
    entries::create(&pair.topology.router(1)?.node.net, 0, ENTRIES)?;
    pair.wait_equal().await?;
    let mut checks = Checks::new(narrator);
    let calm = measure(&pair, 1_000_000).await?;
    checks.narrator.say(&format!("without them: {calm}"));
    let mut bad = Vec::new();
    for number in [1, 2] {
        let control = pair.topology.router(number)?.control();
        for _ in 0..SILENT {
            bad.push(UnixStream::connect(&control).context("a silent client cannot connect")?);
        }
        for _ in 0..DEAF {
            bad.push(deaf(&control)?);
        }
    }
    let disturbed = measure(&pair, 2_000_000).await?;
    checks.narrator.say(&format!("{SILENT} silent and {DEAF} deaf clients on each router: {disturbed}"));
    checks.narrator.fact("calm", calm.to_string());
    checks.narrator.fact("disturbed", disturbed.to_string());
    checks.note("other clients are answered", within(disturbed.answer, calm.answer));
    checks.note("replication goes on", within(disturbed.replicated, calm.replicated));
    let dropped =
        until("the deaf and silent are dropped", PATIENCE, async || Ok(bad.iter().all(gone).then_some(())))
            .await;
    checks.note("they are dropped after a while", dropped.map(|()| String::new()));
    checks.note("every connection speaks", pair.wait_alive().await.map(|alive| alive.to_string()));
    Ok(checks.end())
}

/// Asks for everything and reads nothing.
fn deaf(control: &Path) -> Result<UnixStream> {
    let mut client = UnixStream::connect(control).context("a deaf client cannot connect")?;
    // At once: the second line is never looked at, one request a client, and who is refused is closed before
    // it could be said.
    let lines =
        ["internal", "external"].map(|cache| format!("{{\"verb\":\"cache\",\"cache\":\"{cache}\"}}\n"));
    client.write_all(lines.concat().as_bytes())?;
    Ok(client)
}

/// The daemon has closed its end: what was sent is read up, then nothing comes.
fn gone(mut client: &UnixStream) -> bool {
    use std::io::Read;
    let _ = client.set_nonblocking(true);
    let mut buffer = [0; 65536];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

struct Measured {
    /// Median time until `status` is answered.
    answer: Duration,
    /// Until the peer has all changes.
    replicated: Duration,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "status answered in {:.2} ms (median of {ASKED}), {CHANGES} new entries at the peer after {:.0} ms",
            milliseconds(self.answer),
            milliseconds(self.replicated)
        )
    }
}

async fn measure(pair: &Pair, from: u32) -> Result<Measured> {
    let router = pair.topology.router(1)?;
    let mut times = Vec::new();
    for _ in 0..ASKED {
        let began = now();
        router.status().await?;
        times.push(began.elapsed());
    }
    times.sort();
    let answer = times.get(ASKED / 2).copied().unwrap_or_default();
    let before = pair.wait_equal().await?;
    let began = now();
    let made = entries::create(&router.node.net, from, CHANGES)?;
    let peer = pair.topology.router(2)?;
    until("the peer has the new entries", PATIENCE, async || {
        let external = peer.statistics().await?["external"]["active"].as_u64().unwrap_or(0);
        Ok((external >= before + u64::from(made)).then_some(()))
    })
    .await?;
    Ok(Measured { answer, replicated: began.elapsed() })
}

/// Ten times as slow, or an eyeblink: beyond that somebody was held up.
fn within(disturbed: Duration, calm: Duration) -> Result<String> {
    let ratio = disturbed.as_secs_f64() / calm.as_secs_f64().max(1e-6);
    ensure!(
        ratio < 10.0 || disturbed < Duration::from_millis(100),
        "{ratio:.1} times as slow as without them"
    );
    Ok(format!("{ratio:.1} times as long as without them"))
}
