//! Entries created, changed and ended by ctnetlink: at a rate that leaves everybody time, and as fast as the
//! kernel takes it.

use anyhow::{Result, ensure};

use super::figures::Figures;
use super::work::{Wanted, Work};
use crate::load::entries;
use crate::machine::wait::now;

/// Events a second of the paced phase, and how many: a writer at full rate and a hot backup wait for one
/// mutex of the whole machine.
pub(super) const RATE: u32 = 20_000;
pub(super) const PACED: u32 = 40_000;
pub(super) const MARK: u32 = 7;

/// What is done to entries, each once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Paced,
    Create,
    Update,
    Destroy,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Paced => "20k/s",
            Phase::Create => "create",
            Phase::Update => "update",
            Phase::Destroy => "destroy",
        }
    }
}

/// All phases of one subject.
pub(super) async fn measure(work: &Work<'_>, events: u32, figures: &mut Figures) -> Result<()> {
    for phase in [Phase::Paced, Phase::Create, Phase::Update, Phase::Destroy] {
        run(work, phase, events, figures).await?;
    }
    Ok(())
}

async fn run(work: &Work<'_>, phase: Phase, events: u32, figures: &mut Figures) -> Result<()> {
    let subject = work.subject;
    let net = work.node(1)?.net.clone();
    let pair = subject.is_pair();
    let before = [work.spent(1)?, work.spent(2)?];
    let memory = if pair { [work.memory(1)?, work.memory(2)?] } else { [0; 2] };
    let (bytes, lost, heard) = (work.topology.channel_bytes()?, work.lost()?, work.heard());
    let began = now();
    let all = PACED + events;
    let (made, done) = match phase {
        Phase::Paced => (PACED, entries::create_paced(&net, 0, PACED, Some(RATE))?),
        Phase::Create => (events, entries::create(&net, PACED, events)?),
        Phase::Update => (all, entries::change(&net, 0, all, MARK)?),
        Phase::Destroy => (all, entries::end(&net, 0, all)?),
    };
    let took = began.elapsed();
    ensure!(done == made, "the kernel took {done} of {made} to {}", phase.name());
    let entries = match phase {
        Phase::Paced => PACED,
        Phase::Create | Phase::Update => all,
        Phase::Destroy => 0,
    };
    let mark = (phase == Phase::Update).then_some(MARK);
    let wanted = Wanted { entries: entries.into(), mark, heard: heard + u64::from(made) };
    let lacking = work.settle(wanted).await?;
    let settled = began.elapsed();
    let count = f64::from(made);
    let mut note = |row: &str, value: f64| figures.note(subject, format!("{}: {row}", phase.name()), value);
    note("k events/s", count / took.as_secs_f64() / 1e3);
    note("settled after, s", settled.as_secs_f64());
    for (number, name) in [(1, "owner"), (2, "backup")] {
        if !work.works_on(number) {
            continue;
        }
        let at = usize::from(number) - 1;
        let after = work.spent(number)?;
        let used = after.all.saturating_sub(before[at].all);
        note(&format!("{name}, us/event"), used.as_secs_f64() * 1e6 / count);
        let (user, system) = (after.user - before[at].user, after.system - before[at].system);
        if user + system > 0 {
            note(&format!("{name}, of it user, %"), 100.0 * user as f64 / (user + system) as f64);
        }
        if phase == Phase::Create && pair {
            let grown = work.memory(number)?.saturating_sub(memory[at]);
            note(&format!("{name}, bytes/entry"), grown as f64 / count);
        }
    }
    if work.works_on(1) {
        note("events lost", (work.lost()? - lost) as f64);
    }
    if pair {
        note("wire, bytes/event", (work.topology.channel_bytes()? - bytes) as f64 / count);
        note("not equal at the end", lacking as f64);
    }
    Ok(())
}
