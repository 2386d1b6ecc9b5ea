//! Stories told by other processes of this program, each in a fresh sandbox, so that none can spoil the next.
//!
//! Called by whoever wants many of them. What comes back are their facts.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

/// One telling of the demo by another process.
pub(crate) fn demo(arguments: &[&str]) -> Result<Value> {
    told_by("demo", arguments)
}

/// A story told by another process: its facts, or what it said when it failed to tell.
pub(crate) fn told_by(verb: &str, arguments: &[&str]) -> Result<Value> {
    let output = Command::new(std::env::current_exe()?)
        .args([verb, "--json"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {verb}"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        // The nodes' diagnosis is long: it goes where it can be read later.
        let file = std::env::temp_dir().join(format!("ctsync-lab-failed-{}.log", std::process::id()));
        let _ = std::fs::write(&file, complaint.as_bytes());
        eprintln!("what every node knew: {}", file.display());
        anyhow::anyhow!("{}", complaint.trim().lines().last().unwrap_or("it said nothing"))
    })
}
