//! Nix, nixfmt and deadnix: the machine's own, else side-loaded into `target/nix-tools`, where nothing else
//! sees them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::said;

/// What Nix needs to build without a cache, a network, users of its own or a sandbox.
const CONFIG: &str = "experimental-features = nix-command flakes\nsandbox = false\nsubstitute = false\n\
    build-users-group =\nflake-registry =\nwarn-dirty = false\n";
/// Crate, program: written anew by others from the official nixfmt, and the usual search for dead code.
const CRATES: [(&str, &str); 2] = [("nixfmt_rs@0.5.3", "nixfmt"), ("deadnix@1.3.1", "deadnix")];

/// Where they are.
pub(super) struct Tools {
    path: std::ffi::OsString,
}

impl Tools {
    /// Look for them, and install what is missing.
    pub(super) fn get(root: &Path) -> Result<Tools> {
        let directory = crate::machine::setup::checkout()?.join("target/nix-tools");
        let nix = directory.join("nix/bin");
        let bin = directory.join("bin");
        let own = std::env::var_os("PATH").unwrap_or_default();
        let places = [nix.clone(), bin.clone()].into_iter().chain(std::env::split_paths(&own));
        let tools = Tools { path: std::env::join_paths(places)? };
        let found = |program: &str| tools.find(program).is_some();
        if !found("nix") {
            eprintln!("installing: nix, into {}", directory.display());
            std::fs::create_dir_all(&directory)?;
            let mut get = Command::new(root.join("tests/nix-offline/get-nix.sh"));
            said(get.arg(directory.join("nix")))
                .context("this machine has no Nix, and Debian's cannot be had")?;
        }
        for (name, program) in CRATES {
            if !found(program) {
                eprintln!("installing: {program}, into {}", directory.display());
                let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                let mut install = Command::new(cargo);
                install
                    .args(["install", "--quiet", "--locked", "--debug", "--root"])
                    .arg(&directory)
                    .arg(name);
                // Not into the workspace's own target directory, which this process may hold.
                said(install.env("CARGO_TARGET_DIR", directory.join("build")))?;
            }
        }
        for program in ["nix", "nix-instantiate", "nixfmt", "deadnix"] {
            ensure!(found(program), "{program} is not there after its installation");
        }
        Ok(tools)
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|place| place.join(program)).find(|path| path.is_file())
    }

    /// One of them, ready for arguments.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.find(program).unwrap_or_else(|| program.into()));
        command.env("PATH", &self.path).env("NIX_CONFIG", CONFIG);
        command
    }
}
