//! The main property: two to five replicas of the real engine, random traffic and faults on a virtual clock;
//! once quiet, each backup's table = the owner's = its kernel, each backup's kernel holds it, and no living
//! connection was lost.
//!
//! `CTSYNC_SEEDS` sets how many seeds run, `CTSYNC_SEED` replays one with its trace.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

#[path = "simulation/cuts.rs"]
mod cuts;
#[path = "simulation/daemon.rs"]
mod daemon;
#[path = "simulation/judge.rs"]
mod judge;
#[path = "common/kernel.rs"]
mod kernel;
#[path = "simulation/node.rs"]
mod node;
#[path = "simulation/totals.rs"]
mod totals;
#[path = "simulation/traffic.rs"]
mod traffic;
#[path = "simulation/world.rs"]
mod world;

use std::time::Instant;

use ctsync_ctnetlink::entry::Entry;
use totals::Totals;
use world::{Violation, World};

/// Seeds in an ordinary test run.
const SEEDS: u64 = 2_000;
/// Quiet points per seed.
const ROUNDS: usize = 3;
/// Steps of faults before each.
const STEPS: usize = 250;

/// A destroy that makes room for another connection under the same key, as (2) demands, is no removal.
fn replaced(held: &Entry, wanted: &Entry) -> bool {
    held.reply != wanted.reply || held.timeout != wanted.timeout || held.status != wanted.status
}

#[expect(clippy::disallowed_methods, reason = "the virtual clock has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn run(seed: u64, traced: bool) -> (World, Result<(), Violation>) {
    let mut world = World::new(seed, start(), traced);
    let result = play(&mut world);
    (world, result)
}

fn play(world: &mut World) -> Result<(), Violation> {
    for _ in 0..ROUNDS {
        for _ in 0..STEPS {
            world.step(true)?;
        }
        let primary = world.random_primary();
        world.settle(primary)?;
    }
    Ok(())
}

#[test]
fn replicas_converge_and_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("CTSYNC_SEED") {
        let (world, result) = run(seed, true);
        for line in world.trace.unwrap_or_default() {
            println!("{line}");
        }
        if let Err(violation) = result {
            panic!("seed {seed}: {violation}");
        }
        return;
    }
    let seeds = number("CTSYNC_SEEDS").unwrap_or(SEEDS);
    let mut totals = Totals::default();
    let mut failures = Vec::new();
    for seed in 0..seeds {
        let (world, result) = run(seed, false);
        totals.add(&world.totals);
        if let Err(violation) = result {
            failures.push((seed, violation));
            if failures.len() >= 5 {
                break;
            }
        }
    }
    let (worst, middle) = totals.time_to_agreement();
    totals.settled.clear();
    println!("{seeds} seeds: {totals:?}");
    println!("from the end of the faults to agreement: {middle} ms in the middle, {worst} ms at worst");
    for (seed, violation) in &failures {
        println!(
            "seed {seed}: {violation}\n  replay: CTSYNC_SEED={seed} cargo test --test simulation -- --nocapture"
        );
    }
    assert!(failures.is_empty(), "{} seeds failed", failures.len());
    // A run that tried little proves little.
    for (what, count, floor) in [
        ("takeovers", totals.takeovers, 3),
        ("restarts", totals.restarts, 2),
        ("overruns", totals.overruns, 1),
        ("partitions", totals.partitions, 1),
        ("repairs", totals.repairs, 3),
        ("expectations", totals.foreseen, 10),
        ("resets", totals.resets, 1),
        ("replayed datagrams", totals.replayed, 3),
        ("comparisons", totals.comparisons, 3),
        ("clock jumps", totals.clock_jumps, 1),
        ("full tables", totals.full, 1),
        ("new entries unheard", totals.unheard, 1),
        ("datagrams between requests and answers", totals.meanwhile, 1),
        ("kernels changed unheard", totals.tampered, 1),
        ("quiet points", totals.quiet, 3),
        ("checks", totals.checks, 100),
    ] {
        assert!(
            count >= floor * seeds,
            "only {count} {what} in {seeds} seeds, at least {} expected",
            floor * seeds
        );
    }
    // What takes several nodes, in so many seeds once.
    for (what, count, each) in [
        ("offers of what had ended", totals.ended_offers, 1),
        ("claims that covered what was here", totals.covered, 1),
        ("takeovers with what another backup had", totals.caught_up, 100),
        ("claims fallen back to", totals.fallbacks, 500),
    ] {
        assert!(count >= seeds / each, "only {count} {what} in {seeds} seeds");
    }
}
