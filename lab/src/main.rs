//! ctsync-lab: routers, clients and faults in network namespaces, to see and to prove what ctsync does.

#![allow(clippy::indexing_slicing, reason = "serde_json answers a missing key with Null")]

mod bench;
mod load;
mod machine;
mod nixos;
mod routers;
mod scenario;
mod story;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::bench::micro;
use crate::machine::{node, sandbox, setup};
use crate::routers::options::Options;
use crate::scenario::Scenario;
use crate::scenario::demo::{self, Fault, Plot};
use crate::scenario::stage::Stage;
use crate::story::narrator::{Narrator, tell};
use crate::verbs::soak::Soak;
use crate::verbs::{soak, standing, suite};

/// Routers, clients and faults in network namespaces.
#[derive(Parser)]
#[command(name = "ctsync-lab", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The documented example from start to end: router1 dies, every connection lives.
    Demo(DemoArguments),
    /// Leave a lab running in the background.
    Up {
        #[command(flatten)]
        name: Name,
        /// Seconds between two VRRP advertisements.
        #[arg(long, default_value_t = 1.0)]
        advert: f64,
        /// Stay here.
        #[arg(long, hide = true)]
        foreground: bool,
    },
    /// A shell, or a command, on a node of the running lab.
    Enter {
        #[command(flatten)]
        name: Name,
        /// router1, router2, client, server or switch.
        node: String,
        /// A command instead of a shell.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Both routers of the running lab at a glance.
    Status {
        #[command(flatten)]
        name: Name,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// End the running lab; nothing stays.
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// What `run` can run.
    List,
    /// Run a scenario; exits 1 when something was not as it should be.
    Run {
        /// Which.
        #[arg(value_enum)]
        scenario: Scenario,
        /// JSON at the end instead of the story.
        #[arg(long)]
        json: bool,
        /// The daemon is a user of its own with CAP_NET_ADMIN alone, as NixOS runs it. Needs root.
        #[arg(long)]
        unprivileged: bool,
        /// Another ctsync binary.
        #[arg(long)]
        ctsync: Option<PathBuf>,
    },
    /// Everything that decides whether a change is good.
    Test {
        /// Only tests with one of these in their names: `nix`, `demo`, `run groups`.
        parts: Vec<String>,
    },
    /// ctsync, conntrackd and the kernel's limits on the same load, side by side.
    Bench(bench::Arguments),
    /// The steps of an event's path, each by itself: nanoseconds, and instructions where valgrind is.
    Micro(micro::Arguments),
    /// Repetitions and long runs.
    #[command(subcommand)]
    Soak(Soak),
    /// Write the manual page and completions, for packagers.
    #[command(hide = true)]
    Assets {
        /// An existing directory.
        directory: PathBuf,
    },
    /// The kernel tests, in a sandbox.
    #[command(hide = true)]
    KernelTests,
    /// Enter a node and become a program.
    #[command(hide = true)]
    Inside {
        #[arg(required = true)]
        namespaces: Vec<PathBuf>,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Become a program as a user of a nested user namespace.
    #[command(hide = true)]
    AsUser {
        user: u32,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Args, Clone)]
struct Name {
    /// Several labs at once need different names.
    #[arg(long = "name", default_value = "lab")]
    name: String,
}

#[derive(Args, Clone)]
struct DemoArguments {
    /// How router1 dies.
    #[arg(long, value_enum, default_value_t = Fault::Links)]
    fault: Fault,
    /// JSON at the end instead of the story.
    #[arg(long)]
    json: bool,
    /// Do not start ctsync: what the incumbent's absence costs.
    #[arg(long)]
    without_sync: bool,
    /// Keep the peer's entries in the table, install them only when the VIP has moved.
    #[arg(long)]
    without_install: bool,
    /// Do not let keepalived see readiness.
    #[arg(long)]
    no_gate: bool,
    /// Leave out the rule that drops invalid packets addressed to the router.
    #[arg(long)]
    without_input_drop: bool,
    /// Seconds between two VRRP advertisements.
    #[arg(long, default_value_t = 1.0)]
    advert: f64,
    /// TCP connections through source NAT.
    #[arg(long, default_value_t = 200)]
    connections: usize,
    /// Entries beside the live connections.
    #[arg(long, default_value_t = 0)]
    entries: u32,
    /// Entries created in the moment before the cut.
    #[arg(long, default_value_t = 1000)]
    changes: u32,
    /// TCP transfers at full speed beside them.
    #[arg(long, default_value_t = 0)]
    bulk: usize,
    /// End after the takeover.
    #[arg(long)]
    no_return: bool,
    /// The daemon is a user of its own with CAP_NET_ADMIN alone, as NixOS runs it. Needs root.
    #[arg(long)]
    unprivileged: bool,
    /// Another ctsync binary.
    #[arg(long)]
    ctsync: Option<PathBuf>,
}

impl DemoArguments {
    fn plot(&self) -> Result<Plot> {
        Ok(Plot {
            fault: self.fault,
            options: Options {
                advert: self.advert,
                sync: !self.without_sync,
                install: !self.without_install,
                gate: !self.no_gate,
                invalid_drop_on_input: !self.without_input_drop,
                unprivileged: self.unprivileged,
                ..Options::usual(setup::ctsync_binary(self.ctsync.as_deref())?)
            },
            connections: self.connections,
            entries: self.entries,
            changes: self.changes,
            bulk: self.bulk,
            no_return: self.no_return,
        })
    }
}

fn main() -> ExitCode {
    ctsync::cli::complete(<Cli as CommandFactory>::command);
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ctsync-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.verb {
        Verb::Inside { namespaces, command } => {
            let (program, arguments) = split(&command);
            node::become_inside(&namespaces, program, arguments)?;
            Ok(ExitCode::FAILURE)
        }
        Verb::AsUser { user, command } => {
            let (program, arguments) = split(&command);
            sandbox::become_user(user, program, arguments)?;
            Ok(ExitCode::FAILURE)
        }
        Verb::Up { name, advert, foreground: true } => stay(&name.name, advert),
        Verb::Up { name, advert, foreground: false } => {
            setup::ensure()?;
            standing::up(&name.name, advert)
        }
        Verb::Enter { name, node, command } => standing::enter(&name.name, &node, &command),
        Verb::Status { name, json } => standing::status(&name.name, json),
        Verb::Down { name } => standing::down(&name.name),
        Verb::List => {
            for scenario in Scenario::value_variants().iter().filter_map(ValueEnum::to_possible_value) {
                let help = scenario.get_help().map(ToString::to_string).unwrap_or_default();
                tell(&format!("{:<13} {help}", scenario.get_name()));
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Run { scenario, json, unprivileged, ctsync } => {
            if !sandbox::is_inside() {
                setup::ensure_all()?;
            }
            sandbox::inside(None, async |sandbox| {
                let mut narrator = Narrator::new(json, false);
                let ctsync = setup::ctsync_binary(ctsync.as_deref())?;
                let stage = Stage { directory: &sandbox.directory, ctsync, unprivileged };
                let good = scenario::run(scenario, &stage, &mut narrator).await?;
                narrator.end()?;
                Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            })
        }
        Verb::Test { parts } => suite::run(&parts),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Micro(arguments) => micro::run(&arguments),
        Verb::Soak(what) => soak::run(&what),
        Verb::Assets { directory } => {
            std::fs::write(directory.join("ctsync-lab.1"), ctsync::cli::page(Cli::command())?)?;
            ctsync::cli::completions("ctsync-lab", &directory)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::KernelTests => suite::kernel_tests(),
        Verb::Demo(arguments) => {
            if !sandbox::is_inside() {
                setup::ensure()?;
            }
            sandbox::inside(None, async |sandbox| {
                let mut narrator = Narrator::new(arguments.json, false);
                let good = demo::tell(&arguments.plot()?, sandbox, &mut narrator).await?;
                narrator.end()?;
                Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            })
        }
    }
}

fn stay(name: &str, advert: f64) -> Result<ExitCode> {
    let options = Options { advert, metrics: true, ..Options::usual(setup::ctsync_binary(None)?) };
    let pointer = standing::pointer_path(name)?;
    sandbox::inside(Some(&pointer), async |sandbox| standing::stay(sandbox, &options).await)
}

fn split(command: &[String]) -> (&str, &[String]) {
    match command {
        [program, arguments @ ..] => (program, arguments),
        [] => ("", &[]),
    }
}
