//! What survives a daemon's end: a small file in `/run`, void after a reboot and in another network
//! namespace.
//!
//! Called by the daemon, which passes what it read to the replica and writes what the replica wants kept.
//! Also the line of the last transition that `show conntrack-sync status` prints.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::engine::replica::{Kept, Role};

/// The file's contents.
#[derive(Serialize, Deserialize, PartialEq, Clone, Default)]
#[serde(rename_all = "kebab-case")]
struct Contents {
    boot: String,
    namespace: u64,
    /// The replica's, under its own names.
    #[serde(flatten)]
    kept: Kept,
    transition: Option<String>,
    transition_at: Option<String>,
}

/// The file cannot be written.
#[derive(Debug, Error)]
#[error("cannot keep the role and the last transition in {path}")]
pub struct StateError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The file and what it holds.
pub struct RunState {
    path: PathBuf,
    contents: Contents,
    /// As the last run left it.
    left: Kept,
    /// Something is not in the file yet.
    unwritten: bool,
}

impl RunState {
    /// Read what the last run left; nothing when it belongs to another boot or namespace.
    pub fn open(directory: &Path, file: &str) -> RunState {
        let path = directory.join(file);
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = std::fs::metadata("/proc/self/ns/net").map(|meta| meta.ino()).unwrap_or_default();
        let found: Option<Contents> =
            std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let found = found.filter(|found| found.boot == boot.trim() && found.namespace == namespace);
        let contents =
            found.unwrap_or_else(|| Contents { boot: boot.trim().into(), namespace, ..Contents::default() });
        RunState { path, left: contents.kept, contents, unwritten: true }
    }

    /// What the last run left for the replica.
    pub fn left(&self) -> Kept {
        self.left
    }

    /// "MASTER at ..." of the last transition, if there was one.
    pub fn transition(&self) -> Option<&str> {
        self.contents.transition.as_deref()
    }

    /// When that was, as RFC 3339 has it.
    pub fn transition_at(&self) -> Option<&str> {
        self.contents.transition_at.as_deref()
    }

    /// A transition happened: `when` is local, in `date`'s format, `at` as RFC 3339 has it.
    pub fn note_transition(&mut self, role: Role, when: &str, at: &str) {
        self.contents.transition = Some(format!("{} at {when}", role.word()));
        self.contents.transition_at = Some(at.to_owned());
        self.unwritten = true;
    }

    /// Write what should survive, if the file does not say so yet.
    ///
    /// # Errors
    /// It cannot be written; what was there before stays.
    pub fn keep(&mut self, kept: Kept) -> Result<(), StateError> {
        self.unwritten |= std::mem::replace(&mut self.contents.kept, kept) != kept;
        if !self.unwritten {
            return Ok(());
        }
        self.write().map_err(|source| StateError { path: self.path.clone(), source })?;
        self.unwritten = false;
        Ok(())
    }

    /// Aside, and renamed: a full disk or a crash leaves the old file.
    fn write(&self) -> io::Result<()> {
        let aside = self.path.with_extension("new");
        let mut file = std::fs::File::create(&aside)?;
        file.write_all(&serde_json::to_vec(&self.contents)?)?;
        std::fs::rename(&aside, &self.path)
    }
}
