//! Repetitions: every way to die many times over, the price of each rule left out, long simulations.
//!
//! Each run is a process of its own (`demo --json`) in a fresh sandbox, so that no run can spoil the next.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use parking_lot::Mutex;
use serde_json::Value;

use crate::machine::sandbox;
use crate::machine::setup::{self, checkout};
use crate::machine::wait::now;
use crate::nixos;
use crate::scenario::demo::Fault;
use crate::scenario::stage::Stage;
use crate::scenario::{Scenario, differences, fence, first_packet, gate, memory, repair, verdict};
use crate::story::narrator::Narrator;
use crate::story::retold::{demo, told_by};
use crate::verbs::{fuzz, gap, planted};

/// What to repeat.
#[derive(Subcommand)]
pub(crate) enum Soak {
    /// The demo, every fault many times.
    Example {
        /// Runs of each fault.
        #[arg(long, default_value_t = 20)]
        runs: u32,
        /// Seconds between two VRRP advertisements.
        #[arg(long, default_value_t = 0.2)]
        advert: f64,
        /// Labs at once.
        #[arg(long, default_value_t = 3)]
        jobs: usize,
    },
    /// What each part is worth: the demo with and without it, in one table.
    Costs {
        /// Entries beside the live connections.
        #[arg(long, default_value_t = 100_000)]
        entries: u32,
    },
    /// Planted faults: patches of a copy, each of which must make a test fail.
    Faults {
        /// Only those whose names contain one of these.
        names: Vec<String>,
    },
    /// A scenario, many times.
    Run {
        /// Which.
        #[arg(value_enum)]
        scenario: Scenario,
        /// How often.
        #[arg(long, default_value_t = 10)]
        runs: u32,
    },
    /// The scripts of the NixOS tests on systemd containers, many times; without nixpkgs' lib the golden one.
    Nix {
        /// Only those whose names contain one of these.
        names: Vec<String>,
        /// How often.
        #[arg(long, default_value_t = 10)]
        runs: u32,
    },
    /// Replication under trouble with many entries: churn, a cut, a killed daemon, and conntrackd beside it.
    Repair {
        /// Entries beside those that change.
        #[arg(long, default_value_t = 500_000)]
        entries: u32,
        /// Seconds of churn.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Changes a second.
        #[arg(long, default_value_t = 10_000)]
        rate: u32,
    },
    /// A hundred planted differences beside many entries.
    Differences {
        /// Entries.
        #[arg(long, default_value_t = 500_000)]
        entries: u32,
        /// Nobody asks for it: the daemons' own sweeps have to find them.
        #[arg(long)]
        patient: bool,
    },
    /// The readiness gate, with a fetch of many entries.
    Gate {
        /// Entries.
        #[arg(long, default_value_t = 800_000)]
        entries: u32,
    },
    /// keepalived reloaded on the master under load, ctsync started again after each tenth, then its death:
    /// what `run verdict` does, longer.
    Reloads {
        /// Reloads, with and without `fifo_write_vrrp_states_on_reload`.
        #[arg(long, default_value_t = 50)]
        reloads: u32,
    },
    /// The owner's memory over many changes while its peer stands still.
    Memory {
        /// Changes.
        #[arg(long, default_value_t = 10_000_000)]
        changes: u64,
        /// Where the plot goes.
        #[arg(long, default_value = "docs/memory.svg")]
        plot: PathBuf,
    },
    /// A takeover beside how many entries: ctsync hot and cold, conntrackd's commit; writes a plot.
    Fence {
        /// Sizes of the table.
        #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,500000,1000000")]
        entries: Vec<u32>,
        /// Takeovers of each size.
        #[arg(long, default_value_t = 10)]
        runs: u32,
        /// Takeovers of each size by a cold standby, and by conntrackd.
        #[arg(long, default_value_t = 3)]
        beside: u32,
        /// Where the plot goes.
        #[arg(long)]
        plot: Option<PathBuf>,
    },
    /// Clients that speak each millisecond while router1 loses power: what their first packets meet.
    FirstPacket {
        /// Takeovers of ctsync, and of conntrackd.
        #[arg(long, default_value_t = 50)]
        runs: u32,
    },
    /// The longest gap when router1 loses power, with adverts each 100 ms: detection, fence, TCP's back-off.
    Gap {
        /// Takeovers.
        #[arg(long, default_value_t = 50)]
        runs: u32,
        /// TCP connections.
        #[arg(long, default_value_t = 500)]
        connections: usize,
        /// Entries beside them.
        #[arg(long, default_value_t = 200_000)]
        entries: u32,
    },
    /// What is read from outside, fuzzed: all targets, or some.
    Fuzz {
        /// Only these.
        targets: Vec<String>,
        /// Seconds for each target.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Targets at once.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// The simulation with many seeds.
    Sim {
        /// Seeds.
        #[arg(long, default_value_t = 100_000)]
        seeds: u64,
    },
}

/// Repeat.
pub(crate) fn run(what: &Soak) -> Result<ExitCode> {
    if !sandbox::is_inside() {
        setup::ensure_all()?;
    }
    match what {
        Soak::Repair { entries, seconds, rate } => {
            let lasts = Duration::from_secs(*seconds);
            let load = repair::Load { entries: *entries, changing: 50_000, rate: *rate, lasts };
            setup::ensure_table(entries + load.changing)?;
            story(async |stage, narrator| repair::run_long(stage, narrator, load).await)
        }
        Soak::Differences { entries, patient } => {
            setup::ensure_table(*entries)?;
            story(async |stage, narrator| differences::tell(stage, narrator, *entries, *patient).await)
        }
        Soak::Gate { entries } => {
            setup::ensure_table(*entries)?;
            story(async |stage, narrator| gate::tell(stage, narrator, *entries).await)
        }
        Soak::Reloads { reloads } => {
            story(async |stage, narrator| verdict::tell(stage, narrator, *reloads).await)
        }
        Soak::Memory { changes, plot } => {
            let plot = std::path::absolute(plot)?;
            story(async |stage, narrator| memory::tell(stage, narrator, *changes, &plot).await)
        }
        Soak::Fence { entries, runs, beside, plot } => {
            let plot = plot.as_ref().map(std::path::absolute).transpose()?;
            let mut sizes = entries.clone();
            sizes.sort_unstable();
            setup::ensure_table(sizes.last().copied().unwrap_or(0) + 100_000)?;
            let plan = fence::Plan { sizes, runs: *runs, beside: *beside, plot };
            story(async |stage, narrator| fence::tell(stage, narrator, &plan).await)
        }
        Soak::FirstPacket { runs } => {
            story(async |stage, narrator| first_packet::tell(stage, narrator, *runs, *runs).await)
        }
        Soak::Gap { runs, connections, entries } => {
            setup::ensure_table(*entries + 100_000)?;
            gap::run(*runs, *connections, *entries)
        }
        Soak::Example { runs, advert, jobs } => example(*runs, *advert, *jobs),
        Soak::Costs { entries } => costs(*entries),
        Soak::Faults { names } => planted::run(names),
        Soak::Run { scenario, runs } => repeat(*scenario, *runs),
        Soak::Nix { names, runs } => nixos::soak(&checkout()?, *runs, names),
        Soak::Fuzz { targets, seconds, jobs } => fuzz::run(*seconds, *jobs, targets),
        Soak::Sim { seeds } => simulate(*seeds),
    }
}

/// A long story in a sandbox of its own.
fn story(tell: impl AsyncFnOnce(&Stage<'_>, &mut Narrator) -> Result<bool>) -> Result<ExitCode> {
    sandbox::inside(None, async |sandbox| {
        let mut narrator = Narrator::new(false, false);
        let ctsync = setup::ctsync_binary(None)?;
        let stage = Stage { directory: &sandbox.directory, ctsync, unprivileged: false };
        let good = tell(&stage, &mut narrator).await?;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// What all runs so far came to.
#[derive(Default)]
struct Tally {
    dead: u64,
    connections: u64,
    bad: u32,
}

/// Labs do not meet, and each mostly waits: several at once.
fn example(runs: u32, advert: f64, jobs: usize) -> Result<ExitCode> {
    let advert = advert.to_string();
    let began = now();
    let faults = Fault::value_variants().iter().map(|fault| fault.word());
    let all: Vec<(&str, u32)> =
        faults.flat_map(|fault| (1..=runs).map(move |number| (fault, number))).collect();
    let next = Mutex::new(all.iter());
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let run = next.lock().next();
                    let Some((fault, number)) = run else { break };
                    let facts = demo(&["--fault", fault, "--advert", &advert]);
                    tell_run(fault, *number, &facts, &mut tally.lock());
                }
            });
        }
    });
    let tally = tally.lock();
    println!(
        "{} runs in {:.0} s: {} dead of {} connections, {} runs failed",
        all.len(),
        began.elapsed().as_secs_f64(),
        tally.dead,
        tally.connections,
        tally.bad
    );
    Ok(if tally.bad == 0 && tally.dead == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line per run.
fn tell_run(fault: &str, number: u32, facts: &Result<Value>, tally: &mut Tally) {
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => {
            tally.bad += 1;
            println!("{fault:<10} {number:>2}  FAILED: {error:#}");
            return;
        }
    };
    let count = |name: &str| facts[name].as_u64().unwrap_or(0);
    let lost = (2 * count("before")).saturating_sub(count("alive") + count("alive-after-return"));
    tally.connections += 2 * count("before");
    tally.dead += lost;
    let good = facts["good"] == true;
    tally.bad += u32::from(!good);
    println!(
        "{fault:<10} {number:>2}  before {}  alive {}  after return {}  dead {lost}  gap {:.2} s = detection {:.2} + \
         fence {:.4} + back-off {:.2}  {}",
        count("before"),
        count("alive"),
        count("alive-after-return"),
        seconds(facts, "gap-seconds"),
        seconds(facts, "detection-seconds"),
        seconds(facts, "fence-milliseconds") / 1e3,
        seconds(facts, "backoff-seconds"),
        if good { "ok" } else { "FAILED" },
    );
}

fn seconds(facts: &Value, name: &str) -> f64 {
    facts[name].as_f64().unwrap_or(0.0)
}

fn costs(entries: u32) -> Result<ExitCode> {
    let entries = entries.to_string();
    let many = ["--entries", entries.as_str()];
    let rows: [(&str, Vec<&str>); 9] = [
        ("everything", vec![]),
        ("everything, many entries", many.to_vec()),
        ("--without-sync", vec!["--without-sync"]),
        ("--without-install", vec!["--without-install"]),
        ("--without-install, many entries", [&["--without-install"][..], &many].concat()),
        ("--no-gate", vec!["--no-gate"]),
        ("--no-gate, many entries", [&["--no-gate"][..], &many].concat()),
        ("--without-install, many, bulk", [&["--without-install", "--bulk", "4"][..], &many].concat()),
        (
            "--without-install --without-input-drop, many, bulk",
            [&["--without-install", "--without-input-drop", "--bulk", "4"][..], &many].concat(),
        ),
    ];
    println!("{:<52} {:>6} {:>6} {:>7} {:>10} {:>8}", "", "before", "alive", "return", "fence ms", "gap s");
    for (name, arguments) in rows {
        let all = [&["--fault", "power", "--advert", "0.2"][..], &arguments].concat();
        match demo(&all) {
            Ok(facts) => println!(
                "{name:<52} {:>6} {:>6} {:>7} {:>10.1} {:>8.2}",
                facts["before"],
                facts["alive"],
                facts["alive-after-return"],
                seconds(&facts, "fence-milliseconds"),
                seconds(&facts, "gap-seconds"),
            ),
            Err(error) => println!("{name:<52} {error:#}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A scenario, again and again; a line each.
fn repeat(scenario: Scenario, runs: u32) -> Result<ExitCode> {
    let name = scenario.name();
    let mut bad = 0;
    for number in 1..=runs {
        let began = now();
        let told = match told_by("run", &[&name]) {
            Ok(facts) if facts["good"] == true => "ok".to_owned(),
            Ok(facts) => facts["failed"].to_string(),
            Err(error) => format!("{error:#}"),
        };
        bad += u32::from(told != "ok");
        println!("{name} {number:>2}  {:.0} s  {told}", began.elapsed().as_secs_f64());
    }
    println!("{runs} runs, {bad} not as they should be");
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn simulate(seeds: u64) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["test", "--release", "--test", "simulation", "--", "--nocapture"])
        .env("CTSYNC_SEEDS", seeds.to_string())
        .current_dir(checkout()?)
        .status()
        .context("cannot run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
