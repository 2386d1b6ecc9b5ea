//! What other stories of the lab measure, each in a lab of its own: takeovers, a killed daemon, what a client
//! notices.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::figures::Figures;
use super::subject::Subject;
use crate::machine::sandbox::Sandbox;
use crate::routers::options::Options;
use crate::scenario::demo::{self, Fault, PARTS, Plot};
use crate::scenario::stage::Stage;
use crate::scenario::{fence, repair};
use crate::story::narrator::Narrator;

pub(super) const TAKEOVERS: [u32; 3] = [100_000, 500_000, 1_000_000];
/// Takeovers of a client's gap, and daemons killed.
const RUNS: u32 = 5;

/// What the budgets are about.
pub(super) const KILLED_ROW: &str = "owner's daemon killed and restarted: equal after, s";
pub(super) const GAP_ROW: &str = "power off: longest gap of 500 TCP connections, s";

pub(super) fn takeover_row(entries: u32) -> String {
    format!("takeover beside {entries} entries, ms")
}

fn directory(sandbox: &Sandbox, name: &str) -> Result<PathBuf> {
    let directory = sandbox.directory.join(name);
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The story of `run fence`.
pub(super) async fn takeovers(sandbox: &Sandbox, ctsync: &Path, figures: &mut Figures) -> Result<()> {
    let directory = directory(sandbox, "takeover")?;
    let stage = Stage { directory: &directory, ctsync: ctsync.to_owned(), unprivileged: false };
    let narrator = Narrator::new(true, false);
    for (ours, entries, told) in fence::milliseconds(&stage, &TAKEOVERS, RUNS, &narrator).await? {
        let subject = if ours { Subject::Ctsync } else { Subject::Ftfw };
        for milliseconds in told {
            figures.note(subject, takeover_row(entries), milliseconds);
        }
    }
    Ok(())
}

/// A part of the story of `run repair`.
pub(super) async fn killed(sandbox: &Sandbox, ctsync: &Path, figures: &mut Figures) -> Result<()> {
    const WRONG: &str = "owner's daemon killed and restarted: not equal at the end";
    let directory = directory(sandbox, "killed")?;
    let stage = Stage { directory: &directory, ctsync: ctsync.to_owned(), unprivileged: false };
    let (ours, theirs) = repair::after_a_kill(&stage, RUNS).await?;
    for (seconds, wrong) in ours {
        figures.note(Subject::Ctsync, KILLED_ROW, seconds);
        figures.note(Subject::Ctsync, WRONG, wrong as f64);
    }
    figures.note(Subject::Ftfw, WRONG, theirs as f64);
    Ok(())
}

/// The demo, as `soak gap` has it told.
pub(super) async fn gap(sandbox: &Sandbox, ctsync: &Path, figures: &mut Figures) -> Result<()> {
    for run in 0..RUNS {
        let inner = Sandbox { directory: directory(sandbox, &format!("gap{run}"))?, caller: sandbox.caller };
        let plot = Plot {
            fault: Fault::Power,
            options: Options { advert: 0.1, ..Options::usual(ctsync.to_owned()) },
            connections: 500,
            entries: 200_000,
            changes: 0,
            bulk: 0,
            no_return: true,
        };
        let mut narrator = Narrator::new(false, true);
        ensure!(demo::tell(&plot, &inner, &mut narrator).await?, "connections died");
        for (at, (fact, part, a_second)) in PARTS.into_iter().enumerate() {
            let row = if at == 0 { GAP_ROW.to_owned() } else { format!("power off: of it, {part}, s") };
            let told = narrator.told(fact).and_then(serde_json::Value::as_f64).context(fact)?;
            figures.note(Subject::Ctsync, row, told / a_second);
        }
    }
    Ok(())
}
