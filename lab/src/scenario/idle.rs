//! Idle connections: they speak, say nothing for a minute in which router1 dies, and speak again.
//!
//! What keeps them alive is the lease alone: nothing passes that would renew an entry after the takeover.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::stage::{Checks, PATIENCE, Pair, Stage};
use crate::load::traffic::{Clients, Life};
use crate::machine::wait::{now, until};
use crate::story::narrator::Narrator;

const CONNECTIONS: usize = 500;
/// From router1's end until they speak again.
const SILENCE: Duration = Duration::from_secs(60);
/// Without entries no silence is needed to die.
const SHORT_SILENCE: Duration = Duration::from_secs(2);
/// What a connection without its entry is given to speak all the same.
const LAST_CHANCE: Duration = Duration::from_secs(10);

pub(super) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    narrator.chapter("Connections that say nothing around a takeover");
    let mut pair = Pair::start(stage, CONNECTIONS).await?;
    pair.wait_equal().await?;
    let mut checks = Checks::new(narrator);
    lose_router1(&mut pair, &mut checks, SILENCE).await?;
    let alive = pair.wait_alive().await.map(|alive| alive.to_string());
    checks.note("they speak again", alive.map_err(|error| error.context(dead(&pair))));

    checks.narrator.chapter("The same without ctsync");
    pair.start_control().await?;
    pair.open(CONNECTIONS).await?;
    lose_router1(&mut pair, &mut checks, SHORT_SILENCE).await?;
    pair.clients.iter().for_each(Clients::mark_echoes);
    let began = now();
    until("their last chance is over", PATIENCE, async || Ok((began.elapsed() > LAST_CHANCE).then_some(())))
        .await?;
    let alive = lives(&pair).iter().filter(|life| life.alive()).count();
    checks.note("all of them are dead", none(alive));
    Ok(checks.end())
}

/// Silence, router1's end, and the rest of the silence.
async fn lose_router1(pair: &mut Pair, checks: &mut Checks<'_>, silence: Duration) -> Result<()> {
    pair.clients.iter().for_each(|clients| clients.hush(true));
    let began = now();
    pair.lose_router1(checks.narrator).await?;
    until("the silence is over", silence + PATIENCE, async || Ok((began.elapsed() > silence).then_some(())))
        .await?;
    pair.clients.iter().for_each(|clients| clients.hush(false));
    checks.narrator.say(&format!("{CONNECTIONS} connections were silent for {} s", silence.as_secs()));
    Ok(())
}

fn lives(pair: &Pair) -> Vec<Life> {
    pair.clients.iter().flat_map(Clients::lives).collect()
}

fn dead(pair: &Pair) -> String {
    let dead: Vec<_> = lives(pair).into_iter().filter(|life| !life.alive()).collect();
    let example = dead.first().map(Life::describe).unwrap_or_default();
    format!("{} of {CONNECTIONS} are dead, for example {example}", dead.len())
}

fn none(alive: usize) -> Result<String> {
    ensure!(alive == 0, "{alive} of {CONNECTIONS} live without ctsync");
    Ok(format!("0 of {CONNECTIONS} live"))
}
