//! `cargo lab test`: everything that decides whether a change is good, in one command.
//!
//! Unit, codec and simulation tests; a while of fuzzing; the kernel tests, a namespace each; the Nix files;
//! the demo with every fault; the scenarios; and the control runs that must fail.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::Value;

use crate::machine::sandbox::Sandbox;
use crate::machine::setup::checkout;
use crate::machine::wait::now;
use crate::machine::{sandbox, setup};
use crate::nixos;
use crate::nixos::Nix;
use crate::scenario::Scenario;
use crate::scenario::demo::Fault;
use crate::story::outcome::Outcome;
use crate::story::retold::{demo, told_by};

/// Seconds for which each target is fuzzed, and targets at once.
const FUZZED: u64 = 20;
const FUZZERS: usize = 2;
/// Labs at once, of those that mostly wait: they do not meet.
const LABS: usize = 2;

struct Tally<'a> {
    /// Only names with one of these, unless there are none.
    parts: &'a [String],
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Tally<'_> {
    fn wants(&self, name: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|part| name.contains(part.as_str()))
    }

    fn note(&mut self, name: &str, test: impl FnOnce() -> Result<Outcome>) {
        if self.wants(name) {
            self.count(name, test());
        }
    }

    /// Tests of labs that mostly wait, [`LABS`] at once.
    fn note_waiting(
        &mut self,
        tests: impl Iterator<Item = (String, impl Fn() -> Result<Outcome> + Send + Sync)>,
    ) {
        let wanted: Vec<_> = tests.filter(|(name, _)| self.wants(name)).collect();
        for some in wanted.chunks(LABS) {
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let running: Vec<_> = some.iter().map(|(_, test)| scope.spawn(test)).collect();
                running.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            });
            for ((name, _), outcome) in some.iter().zip(outcomes) {
                self.count(name, outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked"))));
            }
        }
    }

    fn count(&mut self, name: &str, outcome: Result<Outcome>) {
        match outcome {
            Ok(Outcome::Passed(remark)) => {
                self.passed += 1;
                println!("test {name} ... ok  {remark}");
            }
            Ok(Outcome::Ignored(reason)) => {
                self.ignored += 1;
                println!("test {name} ... ignored: {reason}");
            }
            Err(error) => {
                self.failed += 1;
                println!("test {name} ... FAILED: {error:#}");
            }
        }
    }
}

/// Run it all, or what has one of these in its name. Cargo's own tests print their own lines; the lab's are
/// counted below.
pub(crate) fn run(parts: &[String]) -> Result<ExitCode> {
    let root = checkout()?;
    let nix = Nix::open(&root)?;
    setup::ensure_all()?;
    let mut tally = Tally { parts, passed: 0, failed: 0, ignored: 0 };
    let ended = |status: std::process::ExitStatus| {
        anyhow::ensure!(status.success(), "see above");
        Ok(Outcome::Passed(String::new()))
    };
    tally.note("cargo test", || {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut test = Command::new(cargo);
        test.args(["test", "--release", "--workspace", "--quiet"]).current_dir(&root);
        ended(test.status().context("cannot run cargo")?)
    });
    tally.note("kernel, a namespace each", || {
        ended(Command::new(std::env::current_exe()?).arg("kernel-tests").current_dir(&root).status()?)
    });
    tally.note(&format!("fuzz, {FUZZED} s each"), || {
        crate::verbs::fuzz::must_find_nothing(FUZZED, FUZZERS).map(Outcome::Passed)
    });
    for case in nixos::cases() {
        tally.note(&case.name, || case.run(&nix));
    }
    tally.note_waiting(Fault::value_variants().iter().map(|fault| {
        let test = || must_live(fault.word()).map(Outcome::Passed);
        (format!("demo --fault {}", fault.word()), test)
    }));
    let (waiting, busy): (Vec<Scenario>, Vec<Scenario>) =
        Scenario::value_variants().iter().partition(|scenario| scenario.mostly_waits());
    tally.note_waiting(waiting.into_iter().map(|scenario| (scenario_name(scenario), move || play(scenario))));
    for scenario in busy {
        tally.note(&scenario_name(scenario), || play(scenario));
    }
    tally.note("control: demo --without-sync dies", || must_die().map(Outcome::Passed));
    let Tally { passed, failed, ignored, .. } = tally;
    anyhow::ensure!(passed + failed + ignored > 0, "no test has a name with {}", parts.join(" or "));
    println!("\n{passed} passed, {failed} failed, {ignored} ignored");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn must_live(fault: &str) -> Result<String> {
    let began = now();
    let facts = demo(&["--fault", fault, "--advert", "0.2"])?;
    let number = |name: &str| facts[name].as_u64().unwrap_or(0);
    let text = format!(
        "before {}, alive {}, after the return {}, fence {:.2} ms, {:.0} s",
        number("before"),
        number("alive"),
        number("alive-after-return"),
        facts["fence-milliseconds"].as_f64().unwrap_or(0.0),
        began.elapsed().as_secs_f64(),
    );
    anyhow::ensure!(facts["good"] == true && number("before") > 200, "{text}");
    Ok(text)
}

fn scenario_name(scenario: Scenario) -> String {
    format!("run {}", scenario.name())
}

fn play(scenario: Scenario) -> Result<Outcome> {
    if scenario.needs_root() && !nix::unistd::geteuid().is_root() {
        return Ok(Outcome::Ignored("it needs root".into()));
    }
    must_be_good(&scenario.name()).map(Outcome::Passed)
}

fn must_be_good(scenario: &str) -> Result<String> {
    let began = now();
    let facts = told_by("run", &[scenario])?;
    let checks = facts["checks"].as_u64().unwrap_or(0);
    anyhow::ensure!(facts["good"] == true && checks > 0, "{facts}");
    Ok(format!("{checks} checks, {:.0} s", began.elapsed().as_secs_f64()))
}

/// Without synchronisation every connection dies: otherwise the demo proves nothing.
fn must_die() -> Result<String> {
    let facts = demo(&["--fault", "power", "--advert", "0.2", "--without-sync"])?;
    let text = format!("before {}, alive {}", facts["before"], facts["alive"]);
    anyhow::ensure!(facts["good"] == Value::Bool(false) && facts["alive"] == 0, "{text}");
    Ok(text)
}

/// The kernel tests need to be root of some user namespace: they run in the sandbox.
pub(crate) fn kernel_tests() -> Result<ExitCode> {
    let root = checkout()?;
    sandbox::inside(None, async |_: &Sandbox| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["test", "--release", "--quiet", "--test", "kernel", "--test", "faithful", "--"])
            .args(["--include-ignored", "--skip", "record"])
            .current_dir(&root)
            .status()
            .context("cannot run cargo")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
