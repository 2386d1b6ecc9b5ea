//! `bench`: ctsync, conntrackd and readers that do nothing on the same load in one run, one after the other, several rounds;
//! medians, and the budgets as ratios within the run.
//!
//! Called by `main`. Absolute times are this machine's and are told, never judged; a run whose tables are not equal at its end
//! has no result.
//!
//! - `subject`: who works, and what one costs.
//! - `reader`: the least that hearing every event costs.

mod reader;
mod subject;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::router::Options;
use crate::topology::Topology;
use crate::{in_sandbox, setup};
use subject::Subject;

/// What to measure.
#[derive(Args, Clone)]
pub struct Arguments {
    /// Times that each is measured; what is told is the median.
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
    /// Another ctsync binary.
    #[arg(long)]
    ctsync: Option<PathBuf>,
}

/// One figure of one round.
struct Measured {
    row: String,
    subject: Subject,
    value: f64,
}

/// All rounds of one figure.
#[derive(Default)]
struct Series(Vec<f64>);

impl Series {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn spread(&self) -> [f64; 2] {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        [least, most]
    }
}

/// The figures by row and subject, rows in the order in which they came.
#[derive(Default)]
struct Figures {
    rows: Vec<String>,
    all: BTreeMap<(String, Subject), Series>,
}

impl Figures {
    fn note(&mut self, measured: Measured) {
        if !self.rows.contains(&measured.row) {
            self.rows.push(measured.row.clone());
        }
        self.all.entry((measured.row, measured.subject)).or_default().0.push(measured.value);
    }

    fn median(&self, row: &str, subject: Subject) -> Option<f64> {
        self.all.get(&(row.to_owned(), subject)).map(Series::median)
    }
}

/// A budget: one figure against another one of the same run, or against a number.
struct Budget {
    what: &'static str,
    of: (&'static str, Subject),
    against: Option<(&'static str, Subject)>,
    /// Ratio, or number, that must be reached, and the one that is aimed at.
    must: f64,
    aim: f64,
}

/// Design section 12, as far as this load shows it.
const BUDGETS: [Budget; 7] = [
    Budget {
        what: "CPU per event on the owner, against the napping reader",
        of: ("create: owner, us/event", Subject::CtsyncCold),
        against: Some(("create: owner, us/event", Subject::NullNapping)),
        must: 2.5,
        aim: 1.6,
    },
    Budget {
        what: "CPU per change on a cold backup, against conntrackd",
        of: ("create: backup, us/event", Subject::CtsyncCold),
        against: Some(("create: backup, us/event", Subject::Ftfw)),
        must: 0.5,
        aim: 0.33,
    },
    Budget {
        what: "CPU per change on a hot backup at 20k/s, against conntrackd without cache",
        of: ("20k/s: backup, us/event", Subject::Ctsync),
        against: Some(("20k/s: backup, us/event", Subject::FtfwInject)),
        must: 0.5,
        aim: 0.33,
    },
    Budget {
        what: "memory per entry, owner, bytes",
        of: ("create: owner, bytes/entry", Subject::CtsyncCold),
        against: None,
        must: 176.0,
        aim: 112.0,
    },
    Budget {
        what: "memory per entry, backup, bytes",
        of: ("create: backup, bytes/entry", Subject::CtsyncCold),
        against: None,
        must: 176.0,
        aim: 112.0,
    },
    Budget {
        what: "bytes on the wire per change",
        of: ("update: wire, bytes/event", Subject::CtsyncCold),
        against: None,
        must: 45.0,
        aim: 32.0,
    },
    Budget {
        what: "CPU per event on the owner with a sealed channel, against without",
        of: ("create: owner, us/event", Subject::CtsyncKey),
        against: Some(("create: owner, us/event", Subject::CtsyncCold)),
        must: 1.15,
        aim: 1.05,
    },
];

/// Measure, and tell.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !crate::sandbox::is_inside() {
        setup::ensure_all()?;
        setup::ensure_table(arguments.events + 100_000)?;
    }
    in_sandbox(None, async |sandbox| {
        let ctsync = setup::ctsync_binary(arguments.ctsync.as_deref())?;
        let subjects = if arguments.only.is_empty() {
            Subject::value_variants().to_vec()
        } else {
            arguments.only.clone()
        };
        let bar = ProgressBar::new(u64::from(arguments.rounds) * subjects.len() as u64);
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}, {eta} left")?);
        let mut figures = Figures::default();
        let mut topology = Topology::build(&sandbox.directory, &Options::usual(ctsync.clone())).await?;
        for _ in 0..arguments.rounds {
            // In turns, so that what else the machine does falls on all of them.
            for subject in &subjects {
                bar.set_message(subject.name());
                for measured in subject::measure(&mut topology, &ctsync, *subject, arguments.events).await? {
                    figures.note(measured);
                }
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(&as_json(&figures, arguments))?);
        } else {
            print!("{}", as_table(&figures, &subjects));
            print!("{}", judged(&figures));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn as_table(figures: &Figures, subjects: &[Subject]) -> String {
    let mut text = format!("{:<28}", "median (least to most)");
    for subject in subjects {
        text += &format!(" {:>22}", subject.name());
    }
    text.push('\n');
    for row in &figures.rows {
        text += &format!("{row:<28}");
        for subject in subjects {
            let cell = figures.all.get(&(row.clone(), *subject)).map_or(String::new(), |series| {
                let [least, most] = series.spread();
                format!("{:.2} ({least:.2}-{most:.2})", series.median())
            });
            text += &format!(" {cell:>22}");
        }
        text.push('\n');
    }
    text
}

fn ratio(figures: &Figures, budget: &Budget) -> Option<f64> {
    let of = figures.median(budget.of.0, budget.of.1)?;
    match budget.against {
        Some((row, subject)) => Some(of / figures.median(row, subject)?),
        None => Some(of),
    }
}

fn judged(figures: &Figures) -> String {
    let mut text = format!("\n{:<68} {:>9} {:>9} {:>9}\n", "budget", "measured", "must", "aim");
    for budget in &BUDGETS {
        let Some(found) = ratio(figures, budget) else { continue };
        let verdict = match found {
            found if found <= budget.aim => "aim reached",
            found if found <= budget.must => "reached",
            _ => "MISSED",
        };
        text += &format!(
            "{:<68} {found:>9.2} {:>9.2} {:>9.2}  {verdict}\n",
            budget.what, budget.must, budget.aim
        );
    }
    text
}

fn as_json(figures: &Figures, arguments: &Arguments) -> Value {
    let rows: Vec<Value> = figures
        .all
        .iter()
        .map(|((row, subject), series)| {
            json!({ "row": row, "subject": subject.name(), "median": series.median(), "rounds": series.0 })
        })
        .collect();
    let budgets: Vec<Value> = BUDGETS
        .iter()
        .filter_map(|budget| {
            let found = ratio(figures, budget)?;
            Some(json!({ "what": budget.what, "measured": found, "must": budget.must, "aim": budget.aim }))
        })
        .collect();
    json!({ "events": arguments.events, "rounds": arguments.rounds, "figures": rows, "budgets": budgets })
}
