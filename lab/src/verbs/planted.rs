//! Planted faults: each patch of `tests/faults/` breaks one behaviour in a copy of the checkout; the test
//! that its first line names must then fail. A fault that nothing notices is a hole in the tests.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::machine::setup::checkout;
use crate::story::outcome::Outcome;
use crate::story::retold::told_by;

/// Characters of a symptom that are shown.
const SYMPTOM: usize = 200;

/// Plant every fault, or those whose names contain one of these, one at a time.
pub(crate) fn run(names: &[String]) -> Result<ExitCode> {
    let root = checkout()?;
    let work = tempfile::Builder::new().prefix("ctsync-faults-").tempdir()?;
    let mut patches: Vec<_> = std::fs::read_dir(root.join("tests/faults"))
        .context("no planted faults")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    let wanted = |path: &Path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        names.is_empty() || names.iter().any(|part| name.contains(part.as_str()))
    };
    patches.retain(|path| wanted(path));
    patches.sort();
    anyhow::ensure!(!patches.is_empty(), "no planted fault has a name with {}", names.join(" or "));
    let mut missed = 0;
    for patch in &patches {
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match plant(&root, work.path(), patch) {
            Ok(symptom) => println!("{name:<24} noticed: {symptom}"),
            Err(error) => {
                missed += 1;
                println!("{name:<24} MISSED: {error:#}");
            }
        }
    }
    println!("{} faults planted, {missed} missed", patches.len());
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The symptom, if the fault was noticed.
fn plant(root: &Path, work: &Path, patch: &Path) -> Result<String> {
    let text = std::fs::read_to_string(patch)?;
    let test = text.lines().next().and_then(|line| line.strip_prefix("test: ")).context("no `test:` line")?;
    let copy = work.join("copy");
    let _ = std::fs::remove_dir_all(&copy);
    let shell = |directory: &Path, command: &str| -> Result<(bool, String)> {
        let output = Command::new("sh").args(["-c", command]).current_dir(directory).output()?;
        let all = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&all).into_owned()))
    };
    std::fs::create_dir_all(&copy)?;
    let files =
        format!("git -C {} ls-files -z | xargs -0 cp --parents -t {}", root.display(), copy.display());
    let (good, out) = shell(root, &files)?;
    anyhow::ensure!(good, "cannot copy the checkout: {out}");
    let (good, out) = shell(&copy, &format!("patch -p1 < {}", patch.display()))?;
    anyhow::ensure!(good, "the patch does not apply: {out}");
    let target = work.join("target");
    let cargo = |arguments: &str| format!("CARGO_TARGET_DIR={} cargo {arguments}", target.display());
    if let Some(name) = test.strip_prefix("nix ") {
        return match crate::nixos::judge(&copy, name) {
            Ok(Outcome::Passed(remark)) => bail!("nix {name} passes: {remark}"),
            Ok(Outcome::Ignored(reason)) => bail!("nix {name} was not run: {reason}"),
            Err(error) => {
                // Much can go wrong between an evaluation and four machines: it must be what the fault does.
                let told = text
                    .lines()
                    .nth(1)
                    .and_then(|line| line.strip_prefix("told: "))
                    .context("no `told:` line")?;
                let symptom = format!("{error:#}");
                anyhow::ensure!(symptom.contains(told), "nix {name} failed for another reason: {symptom}");
                Ok(format!("nix {name}: {symptom}").chars().take(SYMPTOM).collect())
            }
        };
    }
    if let Some((verb @ ("demo" | "run"), arguments)) = test.split_once(' ') {
        let (good, out) = shell(&copy, &cargo("build --quiet --release --package ctsync"))?;
        anyhow::ensure!(good, "the copy does not build: {out}");
        let binary = target.join("release/ctsync").to_string_lossy().into_owned();
        let mut all: Vec<&str> = arguments.split_whitespace().collect();
        all.extend(["--ctsync", &binary]);
        let facts = told_by(verb, &all)?;
        if facts["good"] == true {
            bail!("{test} ends well: {facts}");
        }
        let failed = facts["failed"].as_array().map(|checks| Value::from(checks.clone()));
        return Ok(format!("{test}: {}", failed.unwrap_or(facts)).chars().take(SYMPTOM).collect());
    }
    let (good, out) = shell(&copy, &cargo(&format!("test --release {test}")))?;
    anyhow::ensure!(!good, "`cargo test {test}` passes");
    let symptom = out.lines().find(|line| line.starts_with("seed ") || line.contains("panicked at"));
    let symptom = symptom
        .with_context(|| format!("the test did not run: {}", out.lines().last().unwrap_or_default()))?;
    Ok(symptom.chars().take(SYMPTOM).collect())
}
