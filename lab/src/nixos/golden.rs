//! The golden files: the VM test `failover` as its nodes evaluate, with packages whose paths are fixed.
//! Units, the daemon's JSON, keepalived.conf, a directory for each node, as they would lie on the machine;
//! committed, and run by a real systemd.
//!
//! `SOURCES` has the hash of everything that they were made from: a stale one is a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::{Nix, lives, said};
use crate::machine::setup;

/// What the golden files are made from.
const SOURCES: [&str; 12] = [
    "package.nix",
    "nixos-modules/ctsync.nix",
    "tests/nixos/connections.py",
    "tests/nixos/default.nix",
    "tests/nixos/failover.nix",
    "tests/nixos/helpers.py",
    "tests/nixos/pair.nix",
    "tests/nix-offline/golden.nix",
    "tests/nix-offline/stub-nixpkgs/default.nix",
    "tests/nix-offline/stub-nixpkgs/nixos-test.nix",
    "tests/nix-offline/stub-nixpkgs/nixos.nix",
    "tests/nix-offline/stub-nixpkgs/packages.nix",
];
/// systemd's own measure of what a service could do, 0 to 10, a tenth of a point each.
const EXPOSURE: u32 = 18;
const UNIT: &str = "router1/etc/systemd/system/ctsync.service";

impl Nix {
    fn golden(&self) -> PathBuf {
        self.offline().join("golden")
    }
}

/// Sources and golden files, as `sha256sum` writes and checks them.
fn hashes(nix: &Nix) -> Result<String> {
    let list = "find tests/nix-offline/golden -type f ! -name SOURCES | LC_ALL=C sort";
    let golden = said(Command::new("sh").args(["-c", list]).current_dir(&nix.root))?;
    said(Command::new("sha256sum").args(SOURCES).args(golden.lines()).current_dir(&nix.root))
}

pub(super) fn are_current(nix: &Nix) -> Result<String> {
    let kept =
        std::fs::read_to_string(nix.golden().join("SOURCES")).context("tests/nix-offline/golden/SOURCES")?;
    let now = hashes(nix)?;
    let only = |here: &str, there: &str| -> Vec<String> {
        let lines = here.lines().filter(|line| !there.lines().any(|other| other == *line));
        lines.map(|line| line.split_whitespace().last().unwrap_or_default().to_owned()).collect()
    };
    let mut stale = only(&now, &kept);
    stale.extend(only(&kept, &now).into_iter().filter(|path| !now.contains(path.as_str())));
    ensure!(
        stale.is_empty(),
        "the golden files are not of these {}: `INSTA_UPDATE=always CTSYNC_NIXPKGS_LIB=.../lib cargo lab test 'nix golden'` writes them anew",
        stale.join(", ")
    );
    Ok(format!("{} files", now.lines().count()))
}

/// The files by their paths below the golden directory, from what the evaluation came to.
pub(super) fn files(evaluated: &Value) -> Result<Map<String, Value>> {
    let mut files = Map::new();
    for (name, node) in evaluated["nodes"].as_object().context("no nodes")? {
        let mut rest = node.as_object().context("a node is no object")?.clone();
        for (unit, text) in node["units"].as_object().context("no units")? {
            files.insert(format!("{name}/etc/systemd/system/{unit}"), text.clone());
        }
        let mut modes = Map::new();
        for (target, file) in node["etc"].as_object().context("no etc")? {
            modes.insert(target.clone(), file["mode"].clone());
            files.insert(format!("{name}/etc/{target}"), file["text"].clone());
        }
        let path = format!("{name}/etc/ctsync/config.json");
        if let Some(text) = files.get_mut(&path) {
            let value: Value = serde_json::from_str(text.as_str().unwrap_or_default())?;
            *text = (serde_json::to_string_pretty(&value)? + "\n").into();
        }
        rest.remove("units");
        rest.insert("etc".into(), modes.into());
        files.insert(format!("{name}/node.json"), (serde_json::to_string_pretty(&rest)? + "\n").into());
    }
    files.insert("testScript.py".into(), evaluated["script"].clone());
    Ok(files)
}

/// Compare with what is committed, or write it.
pub(super) fn compare(nix: &Nix, files: &Map<String, Value>, update: bool) -> Result<()> {
    let golden = nix.golden();
    if update {
        let _ = std::fs::remove_dir_all(&golden);
    }
    for (path, text) in files {
        let (file, text) = (golden.join(path), text.as_str().context("a file is no text")?);
        if update {
            std::fs::create_dir_all(file.parent().context("no directory")?)?;
            std::fs::write(&file, text)?;
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        if kept != text {
            let pairs = kept.lines().zip(text.lines());
            let (was, is) = pairs.clone().find(|(was, is)| was != is).unwrap_or(("", "another length"));
            bail!("golden/{path} has `{was}` where the module makes `{is}`");
        }
    }
    if update {
        std::fs::write(golden.join("SOURCES"), hashes(nix)?)?;
    }
    Ok(())
}

/// A directory for the driver, made of the golden files.
fn test_directory(nix: &Nix) -> Result<PathBuf> {
    let golden = nix.golden();
    let directory = nix.work.path().join("golden-test");
    std::fs::create_dir_all(&directory)?;
    let mut nodes = Map::new();
    for entry in std::fs::read_dir(&golden).context("tests/nix-offline/golden")? {
        let node = entry?.path();
        if !node.is_dir() {
            continue;
        }
        let mut description: Value = serde_json::from_slice(&std::fs::read(node.join("node.json"))?)?;
        let modes = description["etc"].as_object().context("no etc")?.clone();
        let etc: Map<String, Value> = modes
            .into_iter()
            .map(|(target, mode)| {
                let text = std::fs::read_to_string(node.join("etc").join(&target))?;
                Ok((target, json!({ "text": text, "mode": mode })))
            })
            .collect::<Result<_>>()?;
        description["etc"] = etc.into();
        description["units"] = texts(&node.join("etc/systemd/system"))?.into();
        let name = node.file_name().unwrap_or_default().to_string_lossy().into_owned();
        nodes.insert(name, description);
    }
    std::fs::write(directory.join("nodes.json"), serde_json::to_vec(&nodes)?)?;
    std::fs::copy(golden.join("testScript.py"), directory.join("testScript.py"))?;
    Ok(directory)
}

fn texts(directory: &Path) -> Result<Map<String, Value>> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(Map::new()) };
    entries
        .map(|entry| {
            let entry = entry?;
            let text = std::fs::read_to_string(entry.path())?;
            Ok((entry.file_name().to_string_lossy().into_owned(), text.into()))
        })
        .collect()
}

/// The daemon and keepalived take what the module made for them, and the one finds in the other's what it
/// needs.
pub(super) fn check_configuration(nix: &Nix) -> Result<String> {
    let ctsync = setup::ctsync_binary(None)?;
    let golden = nix.golden();
    for router in ["router1", "router2"] {
        let (config, keepalived) = (
            golden.join(router).join("etc/ctsync/config.json"),
            golden.join(router).join("etc/keepalived/keepalived.conf"),
        );
        said(
            Command::new(&ctsync).args(["config", "check"]).arg(&config).arg("--keepalived").arg(keepalived),
        )?;
    }
    Ok("2 routers".into())
}

/// What systemd makes of the unit without running it.
pub(super) fn analyze_unit(nix: &Nix) -> Result<String> {
    let unit = nix.golden().join(UNIT);
    // Its program is looked for, which only a router has.
    let text = std::fs::read_to_string(&unit)?.replace("/opt/ctsync/bin/ctsync", "/bin/true");
    let seen = nix.work.path().join("ctsync.service");
    std::fs::write(&seen, text)?;
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&seen).output()?;
    // A word that it does not know is a remark to it.
    let remarks = String::from_utf8_lossy(&verified.stderr).into_owned();
    ensure!(verified.status.success() && remarks.is_empty(), "systemd-analyze verify: {remarks}");
    let judged = said(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", &format!("--threshold={EXPOSURE}")])
            .arg(&seen),
    )?;
    let verdict = judged.lines().rfind(|line| line.contains("exposure level")).context("no verdict")?;
    let words: Vec<&str> = verdict.split_whitespace().skip(1).collect();
    Ok(words.join(" "))
}

/// What the unit may and may not do, told by `unit.py`.
pub(super) fn run_unit(nix: &Nix) -> Result<String> {
    let told = nix.drive(&test_directory(nix)?, Some(&nix.offline().join("unit.py")), "unit")?;
    let subtests = told.lines().filter(|line| line.contains("(finished: subtest:")).count();
    Ok(format!("{subtests} subtests"))
}

/// The failover test's own script on what is committed.
pub(super) fn fail_over(nix: &Nix) -> Result<String> {
    let told = nix.drive(&test_directory(nix)?, None, "failover")?;
    Ok(lives(&told).to_owned())
}
