//! The command line: its verbs, and which room does each. Called by `main`, and by whoever renders the manual
//! pages and completions from the same definition.
//!
//! - `kernel`: this kernel's table. - `caches`: what the daemon holds. - `configuration`: files, keys, manual
//!   pages.
//! - `words`: what can be typed. - `completion`: what a shell offers. - `logging`: where log lines go. -
//!   `ends`: which connections are asked for.

#![allow(clippy::indexing_slicing, reason = "serde_json answers a missing key with Null")]

mod caches;
mod completion;
mod configuration;
mod ends;
mod kernel;
mod logging;
mod words;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::Value;

use crate::control::{self, ControlError, Request};
use crate::engine::replica::{Cache, Role};
use crate::faces::show;
use crate::{config, daemon};

use words::{Conntrack, ConntrackSync, Form, Reset, ResetCache, RoleWord, Section, Show, Verb};

pub use completion::{complete, completions};
pub use configuration::{assets, page};
pub use logging::{start_logging, tell_error};

/// Exit codes: 0 done, 1 failed, 2 misused (clap), 3 a failover now would lose something.
const EXIT_UNPROTECTED: u8 = 3;
/// Longest wait for a reply that needs no work.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest wait for a reply that needs the kernel's table read, or the peer.
const WORK: Duration = Duration::from_secs(120);

/// Where the daemon listens when its configuration names no other place.
const CONTROL: &str = "/run/ctsync/control.sock";

/// Connection-tracking state synchronisation between Linux routers.
///
/// Two routers share virtual addresses; when one dies, the other carries on every connection that went
/// through it. The words are those of VyOS `conntrack-sync`.
#[derive(Parser, Debug)]
#[command(
    name = "ctsync",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 misused; `status`: 3 when a failover now would lose something."
)]
pub struct Cli {
    /// Control socket of the daemon.
    #[arg(long, global = true, value_name = "SOCKET", default_value = CONTROL)]
    control: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

impl Cli {
    /// Do what was asked.
    ///
    /// # Errors
    /// Whatever stands in the way, to be printed once.
    pub fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.dispatch())
    }

    async fn dispatch(self) -> Result<ExitCode> {
        let daemon = Daemon { socket: self.control.clone() };
        match self.verb {
            Verb::Run { config: path } => {
                let mut loaded = config::read(&path)?;
                let machine = config::Machine::look().context("cannot list the interfaces")?;
                for late in config::may_come_late(config::check_machine(&loaded, &machine))? {
                    tracing::warn!("{late}; waited for");
                }
                if self.control.as_path() != std::path::Path::new(CONTROL) {
                    loaded.config.control_socket = self.control;
                }
                let keys = config::read_keys(&loaded)?;
                let path =
                    std::path::absolute(&path).with_context(|| format!("cannot find {}", path.display()))?;
                daemon::run(path, loaded, keys).await?;
            }
            Verb::Status { group, form } => return status(&daemon, group.as_deref(), form).await,
            Verb::Show(Show::Conntrack(Conntrack::Table { family, ends, wide, form })) => {
                return kernel::table(family, &ends, wide, form).await;
            }
            Verb::Show(Show::ConntrackSync(ConntrackSync::Cache { cache, section, wide, form })) => {
                caches::show(&daemon, cache.into(), section, wide, form).await?;
            }
            Verb::Show(Show::ConntrackSync(ConntrackSync::Statistics { section, form })) => {
                statistics(&daemon, section, form).await?;
            }
            Verb::Show(Show::ConntrackSync(ConntrackSync::Status { form })) => {
                sync_status(&daemon, form).await?;
            }
            Verb::Reset(Reset::Conntrack { yes }) => return kernel::reset(yes),
            Verb::Reset(Reset::ConntrackSync(which)) => {
                let cache = match which {
                    ResetCache::InternalCache => Cache::Internal,
                    ResetCache::ExternalCache => Cache::External,
                };
                // Silent when it is done, as everywhere.
                daemon.ask(Request::Reset { cache }, WORK).await?;
            }
            Verb::Diff { form } => return caches::diff(&daemon, form).await,
            Verb::Events { choice, form } => caches::events(&daemon, choice, form).await?,
            Verb::Resync { form } => {
                let value = daemon.ask(Request::Resync, WORK).await?;
                print(&if form.json {
                    pretty(&value)?
                } else {
                    format!("the kernel's table has been read: {} internal entries\n", value["internal"])
                })?;
            }
            Verb::Reload { form } => reload(&daemon, form).await?,
            Verb::Notify { role, group, form } => notify(&daemon, role, group, form).await?,
            Verb::Switch { group, to, force, form } => {
                let value = daemon.ask(Request::Switch { group, to, force }, WORK).await?;
                print(&if form.json { pretty(&value)? } else { show::switched(&value) })?;
            }
            Verb::WaitReady { timeout } => wait_ready(&daemon, timeout).await?,
            Verb::Config(verb) => return configuration::run(verb),
            Verb::Keygen { file } => configuration::keygen(file.as_deref())?,
            Verb::Assets { directory } => assets(&directory)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The daemon, as the command line sees it.
struct Daemon {
    socket: PathBuf,
}

impl Daemon {
    async fn ask(&self, request: Request, limit: Duration) -> Result<Value> {
        control::ask(&self.socket, &request, limit).await.map_err(|error| self.explain(error))
    }

    /// A daemon that nobody configured is not one that does not run.
    fn explain(&self, error: ControlError) -> anyhow::Error {
        let default = std::path::Path::new(config::DEFAULT_PATH);
        let usual = self.socket == std::path::Path::new(CONTROL);
        if matches!(error, ControlError::Unreachable { .. })
            && usual
            && !self.socket.exists()
            && !default.exists()
        {
            return anyhow::anyhow!("conntrack-sync not configured (there is no {})", default.display());
        }
        error.into()
    }
}

async fn status(daemon: &Daemon, group: Option<&str>, form: Form) -> Result<ExitCode> {
    let mut value = daemon.ask(Request::Status, ANSWER).await?;
    if let Some(group) = group {
        value = of_group(value, group)?;
    }
    print(&if form.json { pretty(&value)? } else { show::status(&value, terminal_width()) })?;
    let further = value["groups"].as_array().into_iter().flatten();
    let protected = std::iter::once(&value).chain(further).all(|group| group["protected"] == true);
    Ok(if protected { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNPROTECTED) })
}

/// Columns of the terminal that is printed to, if it is one.
fn terminal_width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(usize::from(width.0))
}

/// What is told of one group, at the top; nothing of the others.
fn of_group(mut value: Value, group: &str) -> Result<Value> {
    let further = value.get_mut("groups").map(Value::take).unwrap_or_default();
    value["groups"] = Value::Array(Vec::new());
    let named = |told: &Value| told["group"] == group || told["mechanism-group"] == group;
    if named(&value) {
        return Ok(value);
    }
    let found = further.as_array().into_iter().flatten().find(|told| named(told));
    let Some(found) = found.and_then(Value::as_object) else {
        anyhow::bail!("no failover group \"{group}\" here");
    };
    for (name, told) in found {
        value[name.as_str()] = told.clone();
    }
    Ok(value)
}

async fn statistics(daemon: &Daemon, section: Option<Section>, form: Form) -> Result<()> {
    let value = daemon.ask(Request::Statistics, ANSWER).await?;
    let shown: show::Statistics = serde_json::from_value(value.clone()).context("cannot read the reply")?;
    if section == Some(Section::Expect) && !shown.expect_sync {
        anyhow::bail!("expect-sync not configured");
    }
    print(&match section {
        _ if form.json => pretty(&value)?,
        None => show::statistics(&shown, shown.expect_sync),
        Some(Section::Main) => show::plain_statistics(&shown),
        Some(Section::Expect) => show::expect_statistics(&shown),
    })
}

async fn sync_status(daemon: &Daemon, form: Form) -> Result<()> {
    let value = daemon.ask(Request::Status, ANSWER).await?;
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let words: Vec<&str> =
        value["expect-sync"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    print(&if form.json {
        let keys = [
            "version",
            "interface",
            "failover-mechanism",
            "last-transition",
            "last-transition-at",
            "expect-sync",
        ];
        pretty(&keys.iter().map(|key| ((*key).to_owned(), value[key].clone())).collect::<Value>())?
    } else {
        show::sync_status(
            text("interface").unwrap_or_default(),
            text("failover-mechanism").unwrap_or_default(),
            text("last-transition"),
            &words,
        )
    })
}

async fn notify(daemon: &Daemon, role: RoleWord, group: String, form: Form) -> Result<()> {
    let role = match role {
        RoleWord::Primary => Role::Primary,
        RoleWord::Backup => Role::Backup,
        RoleWord::Fault => Role::Fault,
    };
    let value = daemon.ask(Request::Notify { role, group }, WORK).await?;
    if form.json { print(&pretty(&value)?) } else { Ok(()) }
}

async fn reload(daemon: &Daemon, form: Form) -> Result<()> {
    let value = daemon.ask(Request::Reload, ANSWER).await?;
    if form.json {
        return print(&pretty(&value)?);
    }
    let names = |key: &str| -> Vec<&str> {
        value[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let (applied, later) = (names("applied"), names("needs-restart"));
    let mut text = match applied.as_slice() {
        [] => "nothing that a reload applies has changed\n".to_owned(),
        names => format!("applied: {}\n", names.join(", ")),
    };
    if !later.is_empty() {
        text += &format!("needs a restart: {}\n", later.join(", "));
    }
    for remark in names("remarks") {
        eprintln!("remark: {remark}");
    }
    print(&text)
}

/// On a terminal the wait is told as it goes.
async fn wait_ready(daemon: &Daemon, limit: u64) -> Result<()> {
    let told = std::io::stderr().is_terminal();
    let readiness = async || -> String {
        let value = daemon.ask(Request::Status, ANSWER).await.unwrap_or_default();
        value.pointer("/state/readiness").and_then(Value::as_str).unwrap_or("no answer").to_owned()
    };
    let ready = daemon.ask(Request::WaitReady, Duration::from_secs(limit));
    tokio::pin!(ready);
    loop {
        tokio::select! {
            answer = &mut ready => {
                if told {
                    eprint!("\r\x1b[K");
                }
                match answer {
                    Ok(_) => return print("ready\n"),
                    Err(error) => match error.downcast_ref::<ControlError>() {
                        Some(ControlError::TimedOut(seconds)) => {
                            anyhow::bail!("not ready within {seconds} s: {}", readiness().await);
                        }
                        _ => return Err(error),
                    },
                }
            }
            () = tokio::time::sleep(Duration::from_millis(250)), if told => {
                eprint!("\r\x1b[K{}", readiness().await);
            }
        }
    }
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// To standard output; a reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}
