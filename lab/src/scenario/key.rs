//! A sealed channel: two routers with a key, the key rotated under traffic, a wrong key on one of them, a
//! takeover.

use anyhow::{Result, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::entries;
use crate::machine::wait::until;
use crate::routers::options::Options;
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 30;
/// Entries made at each step.
const STEP: u32 = 50;

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("A sealed channel");
    let [old, new, wrong] = ["11", "22", "33"].map(|byte| byte.repeat(32));
    let options = Options { key: Some(old.clone()), ..stage.usual() };
    let mut pair = Pair::start_with(stage, options, CONNECTIONS).await?;
    let mut checks = Checks::new(narrator);
    checks.note("both say: authenticated", authenticated(&pair).await);
    let mut made = 0;
    for (number, keys) in [
        (1, [&old, &new]),
        (2, [&old, &new]),
        (1, [&new, &old]),
        (2, [&new, &old]),
        (1, [&new, &new]),
        (2, [&new, &new]),
    ] {
        let what = format!("router{number} now has {}... and {}...", &keys[0][..2], &keys[1][..2]);
        checks.note(&what, rotate(&pair, number, keys, &mut made).await);
    }
    checks.note("nothing was refused meanwhile", refused(&pair, 0).await);
    checks.note("a wrong key on router2: nothing enters", wrong_key(&pair, &wrong, &mut made).await);
    checks.note("and the right one again", right_again(&pair, &new).await);
    checks.narrator.typed("lab", "destroy router1's namespace");
    pair.topology.power_off(1).await?;
    checks.note("every connection lives", pair.wait_alive().await.map(|alive| alive.to_string()));
    Ok(checks.end())
}

async fn authenticated(pair: &Pair) -> Result<String> {
    for number in [1, 2] {
        // The all-clear comes when an alarm has been over for a moment.
        until(&format!("router{number} says: protected"), PATIENCE, async || {
            Ok((pair.topology.router(number)?.status().await?["protected"] == true).then_some(()))
        })
        .await?;
        let out = pair.typed(number, &["status"], 0)?;
        ensure!(out.contains("channel               : authenticated\n"), "{out}");
    }
    Ok(String::new())
}

/// New keys on one router, then new entries: they arrive.
async fn rotate(pair: &Pair, number: u8, keys: [&String; 2], made: &mut u32) -> Result<String> {
    pair.topology.router(number)?.write_key(&format!("{}\n{}\n", keys[0], keys[1]))?;
    let out = pair.typed(number, &["reload"], 0)?;
    ensure!(out.starts_with("applied: key-file\n"), "{out}");
    create(pair, made)?;
    let expected = CONNECTIONS as u64 + u64::from(*made);
    let held = pair.wait_equal().await?;
    ensure!(held == expected, "{held} entries, expected {expected}");
    Ok(format!("{held} entries on both"))
}

fn create(pair: &Pair, made: &mut u32) -> Result<()> {
    entries::create(&pair.topology.router(1)?.node.net, *made, STEP)?;
    *made += STEP;
    Ok(())
}

/// Datagrams that router2 refused: none, or at least so many.
async fn refused(pair: &Pair, least: u64) -> Result<String> {
    let mut found = 0;
    for name in ["forged_datagrams", "unsealed_datagrams", "replayed_datagrams"] {
        found += pair.topology.router(2)?.counter(name).await?;
    }
    ensure!(if least == 0 { found == 0 } else { found >= least }, "{found} datagrams refused");
    Ok(format!("{found} datagrams refused"))
}

async fn wrong_key(pair: &Pair, wrong: &str, made: &mut u32) -> Result<String> {
    let before = pair.wait_equal().await?;
    pair.topology.router(2)?.write_key(wrong)?;
    pair.typed(2, &["reload"], 0)?;
    create(pair, made)?;
    // Both must have missed each other for longer than the peer timeout.
    until("router1 says: not protected", PATIENCE, async || {
        let (code, out) = pair.topology.router(1)?.type_command(&["status"])?;
        Ok((code == 3 && out.contains("NOT protected: no peer is believed")).then_some(()))
    })
    .await?;
    let external = pair.topology.router(2)?.statistics().await?["external"]["active"].as_u64();
    ensure!(external == Some(before), "router2 holds {external:?}, before {before}");
    let log = pair.topology.router(2)?.node.log_tail("ctsync")?;
    ensure!(log.contains("compare the key files"), "router2's log does not say so");
    refused(pair, 3).await
}

async fn right_again(pair: &Pair, key: &str) -> Result<String> {
    pair.topology.router(2)?.write_key(key)?;
    pair.typed(2, &["reload"], 0)?;
    pair.wait_ready(2).await?;
    let held = pair.wait_equal().await?;
    authenticated(pair).await?;
    Ok(format!("{held} entries on both"))
}
