//! The command line: its verbs, and what each does. A verb that asks the daemon sends one request and prints the
//! reply. Called by `main`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use netlink_packet_netfilter::NetfilterProtoFamily;

use crate::control::{self, Request};
use crate::ctnetlink::codec;
use crate::ctnetlink::socket::{DumpSocket, RequestSocket};
use crate::entry::{Entry, L4};
use crate::replica::Role;
use crate::show;
use crate::{config, daemon};

/// Exit codes: 0 done, 1 failed, 2 misused (clap), 3 a failover now would lose something.
const EXIT_UNPROTECTED: u8 = 3;
/// Longest wait for a reply that needs no work.
const ANSWER: Duration = Duration::from_secs(5);

/// Connection-tracking state synchronisation between Linux routers.
#[derive(Parser, Debug)]
#[command(name = "ctsync", version, arg_required_else_help = true)]
pub struct Cli {
    /// Control socket of the daemon.
    #[arg(long, global = true, default_value = "/run/ctsync/control.sock")]
    control: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Run the daemon.
    Run {
        /// Configuration file.
        #[arg(long, default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Show the kernel's table, statistics or synchronisation state.
    #[command(subcommand)]
    Show(Show),
    /// State, peer and a verdict; exits 3 when a failover now would lose something.
    Status {
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Tell the role of a failover group; returns when the takeover is complete.
    Notify {
        /// The role; keepalived's words are understood too.
        #[arg(value_enum, ignore_case = true)]
        role: RoleWord,
        /// The group's name.
        group: String,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Wait until this node could take over without loss.
    WaitReady {
        /// Give up after this many seconds.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
}

#[derive(Subcommand, Debug)]
enum Show {
    /// The kernel's table.
    #[command(subcommand)]
    Conntrack(Conntrack),
    /// Synchronisation.
    #[command(subcommand, name = "conntrack-sync")]
    ConntrackSync(ConntrackSync),
}

#[derive(Subcommand, Debug)]
enum Conntrack {
    /// Connections tracked by this kernel.
    Table {
        /// Which family.
        family: Family,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

#[derive(Subcommand, Debug)]
enum ConntrackSync {
    /// Counters of both caches and the channel.
    Statistics {
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Interface, mechanism, last transition.
    Status {
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum RoleWord {
    /// This node forwards.
    #[value(aliases = ["master", "start"])]
    Primary,
    /// Another node forwards.
    #[value(alias = "stop")]
    Backup,
    /// This node must not forward.
    Fault,
}

impl Cli {
    /// Do what was asked.
    pub fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.dispatch())
    }

    async fn dispatch(self) -> Result<ExitCode> {
        let control = self.control;
        let ask = async |request: Request, limit| control::ask(&control, &request, limit).await;
        match self.verb {
            Verb::Run { config } => {
                let config = config::read(&config)?;
                daemon::run(config).await?;
            }
            Verb::Show(Show::Conntrack(Conntrack::Table { family, json })) => {
                return table(family, json).await;
            }
            Verb::Show(Show::ConntrackSync(ConntrackSync::Statistics { json })) => {
                let value = ask(Request::Statistics, ANSWER).await?;
                print(&if json {
                    pretty(&value)?
                } else {
                    show::statistics(&serde_json::from_value(value).context("cannot read the reply")?)
                })?;
            }
            Verb::Show(Show::ConntrackSync(ConntrackSync::Status { json })) => {
                let value = ask(Request::Status, ANSWER).await?;
                let text = |key: &str| value.get(key).and_then(|value| value.as_str());
                print(&if json {
                    pretty(&value)?
                } else {
                    let mechanism = text("failover-mechanism").unwrap_or_default();
                    show::sync_status(
                        text("interface").unwrap_or_default(),
                        mechanism,
                        text("last-transition"),
                    )
                })?;
            }
            Verb::Status { json } => {
                let value = ask(Request::Status, ANSWER).await?;
                print(&if json { pretty(&value)? } else { show::status(&value) })?;
                let protected = value.pointer("/state/protected").and_then(serde_json::Value::as_bool);
                if protected != Some(true) {
                    return Ok(ExitCode::from(EXIT_UNPROTECTED));
                }
            }
            Verb::Notify { role, group, json } => {
                let role = match role {
                    RoleWord::Primary => Role::Primary,
                    RoleWord::Backup => Role::Backup,
                    RoleWord::Fault => Role::Fault,
                };
                let value = ask(Request::Notify { role, group }, Duration::from_secs(60)).await?;
                if json {
                    print(&pretty(&value)?)?;
                }
            }
            Verb::WaitReady { timeout } => {
                let value = ask(Request::WaitReady, Duration::from_secs(timeout)).await?;
                print(&format!("{}\n", value.as_str().unwrap_or("ready")))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn pretty(value: &serde_json::Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// To standard output; a reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

async fn table(family: Family, json: bool) -> Result<ExitCode> {
    let family = match family {
        Family::Ipv4 => NetfilterProtoFamily::IPv4,
        Family::Ipv6 => NetfilterProtoFamily::IPv6,
    };
    let v6 = family == NetfilterProtoFamily::IPv6;
    let entries = dump(family).await?;
    if entries.is_empty() && !tracking_enabled().await? {
        eprint!("{}", show::NOT_ENABLED);
        return Ok(ExitCode::FAILURE);
    }
    print(&if json {
        pretty(&show::conntrack_json(&entries))?
    } else {
        show::conntrack_table(entries.iter().map(|(id, entry)| (*id, entry)), v6)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn dump(family: NetfilterProtoFamily) -> Result<Vec<(u32, Entry)>> {
    let mut entries = Vec::new();
    let mut socket = DumpSocket::open()?;
    socket.start(Some(family))?;
    let mut socket = crate::ctnetlink::watched::watch_dump(socket)?;
    loop {
        match socket.get_mut().read(|id, entry| entries.push((id, entry)))? {
            Some(true) => return Ok(entries),
            Some(false) => {}
            None => socket.readable().await?.clear_ready(),
        }
    }
}

/// The kernel lists no hooks. One datagram to ourselves over loopback, then look for its entry.
async fn tracking_enabled() -> Result<bool> {
    let probe = tokio::net::UdpSocket::bind("127.0.0.1:0").await.context("cannot probe for tracking")?;
    let address = probe.local_addr()?;
    if probe.send_to(&[0], address).await.is_err() {
        bail!("cannot probe for tracking: loopback is down");
    }
    let ports = L4::Ports { src: address.port(), dst: address.port() };
    let found = dump(NetfilterProtoFamily::IPv4).await?;
    let Some((_, entry)) = found.iter().find(|(_, entry)| entry.orig.l4 == ports) else { return Ok(false) };
    // The probe leaves no trace.
    RequestSocket::open()?.execute(
        |writer, first| {
            codec::emit_destroy(writer, first, &entry.key());
            1
        },
        |_, _| {},
    )?;
    Ok(true)
}
