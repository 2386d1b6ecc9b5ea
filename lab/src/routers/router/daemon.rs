//! ctsync: its configuration, its start, and what it answers.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ctsync::control::{self, Request};
use serde_json::Value;

use super::Router;
use crate::machine::sandbox;

/// The user of an unprivileged daemon; its capabilities are those of the NixOS module's unit.
const NOBODY: u32 = 65534;
const UNPRIVILEGED: [&str; 8] = [
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all,+net_admin",
    "--ambient-caps=-all,+net_admin",
    "--bounding-set=-all,+net_admin",
    "--no-new-privs",
    "--",
];

impl Router {
    /// The daemon's configuration: the documented file, and where the lab wants things otherwise.
    fn config(&self) -> String {
        let mut lines = vec![format!("node {}", self.told.name)];
        if !self.options.install {
            lines.push("standby cold".into());
        }
        if self.options.metrics {
            lines.push(format!("metrics-listen {}", self.metrics_address()));
        }
        if self.options.key.is_some() {
            lines.push(format!("key-file {}", self.key_path().display()));
        }
        lines.extend(self.options.lines.iter().map(|line| (*line).to_owned()));
        let mut text = self.told.text.clone();
        for line in self.options.lines {
            text = without(&text, line.split(' ').next().unwrap_or(line));
        }
        if self.options.window_tracking {
            lines.push("window-tracking".into());
        }
        if self.options.hold {
            lines.push("hold".into());
            for address in self.vips().unwrap_or_default() {
                lines.push(format!("failover-mechanism vrrp virtual-address {address}"));
            }
        }
        if self.options.everything {
            lines.push("expect-sync all".into());
            text = without(&text, "accept-protocol");
        }
        let ours: String = lines.iter().map(|line| format!("set service conntrack-sync {line}\n")).collect();
        format!("{}\n# The lab's.\n{ours}", text.trim_end())
    }

    /// Where the daemon's metrics are scraped, when the option `metrics` is set.
    pub(crate) fn metrics_address(&self) -> String {
        let own = self.told.addresses.first().and_then(|(_, address)| address.split('/').next());
        format!("{}:9338", own.unwrap_or("127.0.0.1"))
    }

    /// Start the daemon.
    pub(crate) fn start_ctsync(&mut self) -> Result<()> {
        if !self.options.sync {
            return Ok(());
        }
        let config = self.config_path();
        std::fs::write(&config, self.config())?;
        // It is there before either runs, as on a real router.
        self.write_keepalived()?;
        if let Some(key) = &self.options.key {
            self.write_key(key)?;
        }
        let binary = self.binary()?;
        let run = [binary.as_str(), "run", "--config", &config];
        if self.options.unprivileged {
            self.give_away()?;
            return self.node.start("ctsync", "setpriv", &[&UNPRIVILEGED[..], &run].concat());
        }
        let [program, arguments @ ..] = run;
        self.node.start("ctsync", program, &arguments)
    }

    /// What systemd and a boot do for an unprivileged daemon: a directory in `/run`, its key, the setting
    /// that it may not write.
    fn give_away(&self) -> Result<()> {
        ensure!(!sandbox::is_rootless(), "a daemon without privileges is another user, which needs root");
        let own = |path: &Path| {
            chown(path, Some(NOBODY), Some(NOBODY)).with_context(|| format!("chown {}", path.display()))
        };
        let run = self.node.run_directory().join("ctsync");
        std::fs::create_dir_all(&run)?;
        own(&run)?;
        if self.options.key.is_some() {
            own(&self.key_path())?;
        }
        self.node.net.sysctl("net/netfilter/nf_conntrack_events", "1")
    }

    fn key_path(&self) -> PathBuf {
        self.node.directory.join("key")
    }

    /// What the daemon's key file holds from now on; a reload reads it.
    pub(crate) fn write_key(&self, text: &str) -> Result<()> {
        let path = self.key_path();
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(())
    }

    /// The daemon's configuration file.
    pub(crate) fn config_path(&self) -> String {
        self.node.directory.join("router.set").to_string_lossy().into_owned()
    }

    /// The daemon's program.
    pub(crate) fn binary(&self) -> Result<String> {
        Ok(self.options.ctsync.to_str().context("the path of ctsync is not UTF-8")?.to_owned())
    }

    /// Where the daemon's control socket is seen from outside.
    pub(crate) fn control(&self) -> PathBuf {
        self.node.run_directory().join("ctsync/control.sock")
    }

    /// `ctsync status --json`, without a process.
    pub(crate) async fn status(&self) -> Result<Value> {
        Ok(control::ask(&self.control(), &Request::Status, Duration::from_secs(5)).await?)
    }

    /// `ctsync show conntrack-sync statistics --json`, without a process.
    pub(crate) async fn statistics(&self) -> Result<Value> {
        Ok(control::ask(&self.control(), &Request::Statistics, Duration::from_secs(5)).await?)
    }

    /// One of its counters.
    pub(crate) async fn counter(&self, name: &str) -> Result<u64> {
        let statistics = self.statistics().await?;
        let counters = statistics["counters"].as_array().map_or(&[][..], Vec::as_slice);
        let found = counters.iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_u64());
        found.with_context(|| format!("{} has no counter {name}", self.told.name))
    }

    /// Type a command on the router: what was printed, good or bad.
    pub(crate) fn type_command(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let (code, out, err) = self.node.try_run(&self.binary()?, arguments, "")?;
        Ok((code, out + &err))
    }
}

/// The file without lines of this option.
fn without(text: &str, option: &str) -> String {
    text.lines().filter(|line| !line.contains(option)).fold(String::new(), |all, line| all + line + "\n")
}
