//! What a shell offers behind the TAB key. The shell's script asks the program itself, which knows its verbs
//! and can ask the daemon for the names of its failover groups.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap_complete::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use serde_json::Value;

use super::CONTROL;
use crate::control::{self, Request};

/// The variable by which a shell's script asks.
const ASKED: &str = "COMPLETE";
/// Nobody waits longer for what a shell offers.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answer a shell's script and end, if it is one that asks. To be called before anything is printed.
pub fn complete(command: fn() -> clap::Command) {
    CompleteEnv::with_factory(command).var(ASKED).complete();
}

/// The scripts of the usual shells for a program of this name.
///
/// # Errors
/// A file cannot be written.
pub fn completions(name: &str, directory: &Path) -> Result<()> {
    let shells = Shells::builtins();
    for (shell, file) in
        [("bash", format!("{name}.bash")), ("zsh", format!("_{name}")), ("fish", format!("{name}.fish"))]
    {
        let completer = shells.completer(shell).with_context(|| format!("no completions for {shell}"))?;
        let path = directory.join(file);
        let written = std::fs::File::create(&path)
            .and_then(|mut file| completer.write_registration(ASKED, name, name, name, &mut file));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The names of the failover groups, if the daemon answers.
pub(super) fn groups() -> Vec<CompletionCandidate> {
    let socket = socket_in(std::env::args_os());
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let status = runtime.block_on(control::ask(&socket, &Request::Status, PATIENCE)).unwrap_or_default();
    let further = status.get("groups").and_then(Value::as_array).into_iter().flatten();
    let first = status.get("mechanism-group");
    first
        .into_iter()
        .chain(further.filter_map(|group| group.get("group")))
        .filter_map(Value::as_str)
        .map(CompletionCandidate::new)
        .collect()
}

/// The daemon that the line asks for.
fn socket_in(mut words: impl Iterator<Item = OsString>) -> PathBuf {
    while let Some(word) = words.next() {
        if word == "--control" {
            return words.next().map_or(CONTROL.into(), PathBuf::from);
        }
        if let Some(socket) = word.to_str().and_then(|word| word.strip_prefix("--control=")) {
            return socket.into();
        }
    }
    CONTROL.into()
}
