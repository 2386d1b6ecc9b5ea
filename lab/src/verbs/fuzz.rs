//! The fuzz targets of `fuzz/`: built with coverage by stable Rust, run on a copy of their corpus.
//!
//! Called by `cargo lab soak fuzz` and `cargo lab test`. Never writes into the checkout, but for
//! `target/fuzz`. What breaks something is a failure and stays in a directory of its own, with the command
//! that replays it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;

use crate::machine::setup::checkout;

/// What cargo-fuzz sets, but for the sanitizers, which stable Rust lacks.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];
/// An input that takes more is a finding: seconds, megabytes. Inputs are not made longer than so many bytes:
/// a datagram or two.
const LIMITS: [&str; 3] = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=4096"];
/// Lines of the end of a log that are shown when it has no panic in it.
const TAIL: usize = 5;

/// What one target came to.
pub(crate) struct Outcome {
    target: String,
    /// Inputs tried.
    pub runs: u64,
    per_second: u64,
    /// Edges that the corpus reaches.
    first: u64,
    /// Edges reached at the end.
    pub covered: u64,
    /// Edges that there are.
    pub edges: u64,
    /// What happened, and how to see it again.
    pub finding: Option<String>,
}

impl Outcome {
    fn tell(&self) -> String {
        let Outcome { target, runs, per_second, first, covered, edges, finding } = self;
        let finding = finding.as_deref().unwrap_or("no finding");
        format!(
            "{target:<10} {runs:>10} runs {per_second:>7}/s  cov {first:>4} -> {covered:>4} of {edges}  {finding}"
        )
    }
}

/// Fuzz, and tell each target's outcome when it has ended.
pub(crate) fn run(seconds: u64, jobs: usize, targets: &[String]) -> Result<ExitCode> {
    let outcomes = fuzz(seconds, jobs, targets, &|outcome| println!("{}", outcome.tell()))?;
    let found = outcomes.iter().filter(|outcome| outcome.finding.is_some()).count();
    println!("{} targets, {found} with a finding", outcomes.len());
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All of it in one line, for `cargo lab test`.
pub(crate) fn must_find_nothing(seconds: u64, jobs: usize) -> Result<String> {
    let outcomes = fuzz(seconds, jobs, &[], &|_| {})?;
    let found: Vec<String> =
        outcomes.iter().filter(|outcome| outcome.finding.is_some()).map(Outcome::tell).collect();
    ensure!(found.is_empty(), "{}", found.join("\n"));
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (runs, covered, edges) = (sum(|one| one.runs), sum(|one| one.covered), sum(|one| one.edges));
    Ok(format!("{} targets, {runs} runs, cov {covered} of {edges}", outcomes.len()))
}

fn fuzz(
    seconds: u64,
    jobs: usize,
    targets: &[String],
    tell: &(dyn Fn(&Outcome) + Sync),
) -> Result<Vec<Outcome>> {
    let crate_root = checkout()?.join("fuzz");
    let mut all: Vec<String> = std::fs::read_dir(crate_root.join("corpus"))
        .context("no corpus")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    all.sort();
    for target in targets {
        ensure!(all.contains(target), "no target {target}; there are {}", all.join(", "));
    }
    all.retain(|target| targets.is_empty() || targets.contains(target));
    let binaries = build(&crate_root)?;
    let work = tempfile::Builder::new().prefix("ctsync-fuzz-").tempdir()?;
    let (next, outcomes) = (Mutex::new(all.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let target = next.lock().next();
                    let Some(target) = target else { break };
                    let outcome = one(&crate_root, &binaries, work.path(), target, seconds);
                    outcome.iter().for_each(tell);
                    outcomes.lock().push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner();
    let outcomes = outcomes.into_iter().collect::<Result<Vec<Outcome>>>();
    if !outcomes.as_ref().is_ok_and(|all| all.iter().all(|outcome| outcome.finding.is_none())) {
        // The input and the log are what a failure is told by.
        let _ = work.keep();
    }
    outcomes
}

/// Where the targets are.
fn build(crate_root: &Path) -> Result<PathBuf> {
    let rustc = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let about = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc tells no host")?;
    let target = checkout()?.join("target/fuzz");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        // With a target the flags are not those of build scripts, which could not be linked with them.
        .args(["build", "--quiet", "--release", "--locked", "--bins", "--target", host, "--manifest-path"])
        .arg(crate_root.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the fuzz targets do not build");
    Ok(target.join(host).join("release"))
}

fn one(crate_root: &Path, binaries: &Path, work: &Path, target: &str, seconds: u64) -> Result<Outcome> {
    let corpus = work.join(target);
    std::fs::create_dir(&corpus)?;
    for file in std::fs::read_dir(crate_root.join("corpus").join(target))? {
        let file = file?;
        std::fs::copy(file.path(), corpus.join(file.file_name()))?;
    }
    let (binary, log) = (binaries.join(target), work.join(format!("{target}.log")));
    let mut command = Command::new(&binary);
    command.args(LIMITS).arg("-print_final_stats=1").arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/{target}-", work.display()));
    let dictionary = crate_root.join(format!("dictionaries/{target}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let out = std::fs::File::create(&log)?;
    command.arg(&corpus).current_dir(work).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let status = command.status().with_context(|| format!("cannot run {}", binary.display()))?;
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let finding = (!status.success()).then(|| finding(&text, &binary, &log));
    let covered: Vec<u64> = text.lines().filter_map(|line| number_after(line, "cov: ")).collect();
    let stat = |name: &str| text.lines().find_map(|line| number_after(line, name)).unwrap_or(0);
    Ok(Outcome {
        target: target.to_owned(),
        runs: stat("stat::number_of_executed_units: "),
        per_second: stat("stat::average_exec_per_sec: "),
        first: covered.first().copied().unwrap_or(0),
        covered: covered.last().copied().unwrap_or(0),
        edges: stat("INFO: Loaded 1 modules   ("),
        finding,
    })
}

/// What was said, where the input is, and the command that gives it to the target again.
fn finding(text: &str, binary: &Path, log: &Path) -> String {
    let mut lines = text.lines().skip_while(|line| !line.contains("panicked at"));
    let said = match (lines.next(), lines.next()) {
        (Some(place), Some(message)) => format!("{place} {message}"),
        _ => {
            let summary = text.lines().find(|line| line.starts_with("SUMMARY: "));
            let tail = || text.lines().rev().take(TAIL).collect::<Vec<_>>().join(" / ");
            summary.map_or_else(tail, str::to_owned)
        }
    };
    let input = text.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path);
    let replay = input.map_or(String::new(), |path| format!("\n  replay: {} {path}", binary.display()));
    format!("FOUND: {said}{replay}\n  log: {}", log.display())
}

fn number_after(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    rest.trim_start().split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
