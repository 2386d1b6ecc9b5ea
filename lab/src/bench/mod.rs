//! `bench`: ctsync, conntrackd, readers that do nothing and the kernel alone on the same load in one run, one
//! after the other, several rounds; medians, and the budgets as ratios within the run.
//!
//! Called by `main`. Absolute times are this machine's and are told, never judged. A run of ours whose tables
//! are not equal at its end has no result.
//!
//! - `subject`: who works; `work`: one at work, what it spends, when it is done; `reader`: the least that
//!   hearing every event costs.
//! - `events`, `packets`, `bulk`, `repair`, `elsewhere`, `narrow`, `idle`: the loads; `stamps`: when a kernel
//!   made an entry.
//! - `stories`: loads that other stories of the lab measure.
//! - `figures`, `budget`, `report`: what came of it.
//! - `engine`: ours without a kernel; `micro`: its steps, each by itself, a verb of its own.

mod budget;
mod bulk;
mod elsewhere;
mod engine;
mod events;
mod figures;
mod idle;
pub(crate) mod micro;
mod narrow;
mod packets;
mod reader;
mod repair;
mod report;
mod stamps;
mod stories;
mod subject;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::machine::sandbox::Sandbox;
use crate::machine::{sandbox, setup};
use crate::routers::options::Options;
use crate::routers::topology::Topology;
use crate::story::narrator::progress;
use figures::Figures;
use subject::{Buffer, Subject};
use work::Work;

/// Most entries that a load wants in two kernels, which share one limit.
const MOST: u32 = 4_300_000;

/// What to measure.
#[derive(Args, Clone)]
pub(crate) struct Arguments {
    /// Only these loads.
    #[arg(value_enum)]
    loads: Vec<Load>,
    /// Times that the short loads are measured (events, packets, limits, buffer, elsewhere); the others once.
    /// What is told is the median.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Entries that are created, changed and ended.
    #[arg(long, default_value_t = 300_000)]
    events: u32,
    /// Only these.
    #[arg(long, value_enum)]
    only: Vec<Subject>,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// A page with plots, too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Another ctsync binary.
    #[arg(long)]
    ctsync: Option<PathBuf>,
}

/// What is done to the routers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Load {
    /// Entries created, changed and ended by ctnetlink.
    Events,
    /// New UDP flows through the router: how many a second, and when the peer's kernel has them.
    Packets,
    /// Creates and dumps of the kernel alone.
    Limits,
    /// The cost of an event beside 10,000 to 2,000,000 entries.
    Growth,
    /// 500,000 entries to an empty peer; a hundred differences in them.
    Whole,
    /// A hot backup whose owner is not on this machine.
    Elsewhere,
    /// Takeovers beside 100,000 to 1,000,000 entries.
    Takeover,
    /// The owner's daemon is killed under churn, and started again.
    Killed,
    /// The longest silence of a client when router1 loses power.
    Gap,
    /// Full rate with the documented 8 MB for events.
    Buffer,
    /// Full rate into a channel that carries a quarter of it.
    Channel,
    /// A minute of nothing.
    Idle,
}

impl Load {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn rounds(self, asked: u32) -> u32 {
        let short =
            [Load::Events, Load::Packets, Load::Limits, Load::Buffer, Load::Elsewhere].contains(&self);
        if short { asked } else { 1 }
    }

    /// Buckets of the kernels, which share one hash: one for each tuple, at most.
    fn buckets(self) -> u32 {
        let tuples = |entries: u32| (2 * 2 * entries).min(MOST);
        match self {
            Load::Growth => MOST,
            Load::Takeover => tuples(stories::TAKEOVERS[stories::TAKEOVERS.len() - 1]),
            _ => tuples(bulk::WHOLE),
        }
    }

    fn is_about(self, subject: Subject) -> bool {
        use Subject::{Ctsync, CtsyncCold, CtsyncKey, Ftfw, FtfwInject, Nobody, Notrack, NullNapping};
        match self {
            Load::Events => subject != Nobody,
            Load::Packets => !matches!(subject, CtsyncKey | Notrack),
            Load::Limits => subject == Nobody,
            Load::Growth => matches!(subject, Nobody | NullNapping | CtsyncCold | Ctsync | Ftfw),
            Load::Whole => matches!(subject, Ctsync | CtsyncCold | Ftfw),
            Load::Channel => matches!(subject, Ctsync | Ftfw),
            Load::Takeover | Load::Killed | Load::Gap | Load::Elsewhere => subject == Ctsync,
            Load::Buffer => matches!(subject, Ctsync | CtsyncCold | Ftfw | FtfwInject),
            Load::Idle => matches!(subject, Ctsync | Ftfw),
        }
    }

    /// Rows of it in the order in which they are told.
    async fn measure(
        self,
        topology: &mut Topology,
        ctsync: &Path,
        (subject, events): (Subject, u32),
        figures: &mut Figures,
    ) -> Result<()> {
        let buffer = if self == Load::Buffer { Buffer::Default } else { Buffer::Large };
        let mut work = Work::begin(topology, ctsync, subject, buffer).await?;
        match self {
            Load::Events => events::measure(&work, events, figures).await?,
            Load::Packets => packets::measure(&work, figures).await?,
            Load::Limits => bulk::limits(&work, figures)?,
            Load::Growth => bulk::growth(&work, figures).await?,
            Load::Whole => {
                bulk::fetch(&mut work, figures).await?;
                if subject == Subject::Ctsync {
                    // What is ended between kernels is missing afterwards.
                    repair::tables(&work, figures).await?;
                    repair::kernels(&work, figures).await?;
                }
            }
            Load::Buffer => narrow::buffer(&work, events, figures).await?,
            Load::Channel => narrow::channel(&work, figures).await?,
            Load::Idle => idle::measure(&work, figures).await?,
            Load::Elsewhere => elsewhere::measure(&mut work, figures).await?,
            Load::Takeover | Load::Killed | Load::Gap => {}
        }
        work.end()
    }
}

/// Measure, and tell.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !sandbox::is_inside() {
        setup::ensure_all()?;
        setup::ensure_table(MOST)?;
    }
    sandbox::inside(None, async |sandbox| {
        let figures = all(arguments, sandbox).await?;
        let judged = budget::judge(&figures);
        if let Some(file) = &arguments.html {
            let page = report::html(&figures, &judged)?;
            std::fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(&report::json(&figures, &judged))?);
        } else {
            print!("{}", report::text(&figures, &judged));
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn all(arguments: &Arguments, sandbox: &Sandbox) -> Result<Figures> {
    let ctsync = setup::ctsync_binary(arguments.ctsync.as_deref())?;
    let chosen = |subject: &Subject| arguments.only.is_empty() || arguments.only.contains(subject);
    let loads = if arguments.loads.is_empty() { Load::value_variants() } else { &arguments.loads };
    let mut jobs = Vec::new();
    for load in loads {
        // In turns, so that what else the machine does falls on all of them.
        for _ in 0..load.rounds(arguments.rounds) {
            let subjects = Subject::value_variants()
                .iter()
                .filter(|subject| chosen(subject) && load.is_about(**subject));
            jobs.extend(subjects.map(|subject| (*load, *subject)));
        }
    }
    let bar = progress(jobs.len())?;
    let mut figures = Figures::default();
    let mut topology = Topology::build(&sandbox.directory, &Options::usual(ctsync.clone())).await?;
    for (load, subject) in jobs {
        bar.set_message(format!("{}: {}", load.name(), subject.name()));
        setup::set_buckets(load.buckets())?;
        let measured = match load {
            Load::Takeover => stories::takeovers(sandbox, &ctsync, &mut figures).await,
            Load::Killed => stories::killed(sandbox, &ctsync, &mut figures).await,
            Load::Gap => stories::gap(sandbox, &ctsync, &mut figures).await,
            _ => load.measure(&mut topology, &ctsync, (subject, arguments.events), &mut figures).await,
        };
        measured.with_context(|| format!("{}: {}", load.name(), subject.name()))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(figures)
}
