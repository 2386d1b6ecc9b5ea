//! What is measured: ctsync and conntrackd in their shapes, and readers that do nothing; and what one costs under one load.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::Measured;
use super::reader::Reader;
use crate::router::{Mover, Options};
use crate::topology::Topology;
use crate::wait::{now, until};
use crate::{incumbent, load};

/// Longest wait for a peer to hold everything.
const PATIENCE: Duration = Duration::from_secs(120);
/// MB for events that wait, the same for all.
const EVENT_BUFFER: &str = "event-listen-queue-size 64";
const RING: &str = "sync-queue-size 8";

/// Who works.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Subject {
    /// A reader that is woken for each event and throws it away.
    NullWoken,
    /// A reader that takes what has come and naps a millisecond.
    NullNapping,
    /// ctsync: the peer's kernel holds every entry.
    Ctsync,
    /// The peer's table holds them, its kernel does not.
    CtsyncCold,
    /// The channel is sealed.
    CtsyncKey,
    /// conntrackd, reliable mode, external cache.
    Ftfw,
    /// conntrackd without acknowledgements.
    Notrack,
    /// conntrackd without an external cache: into the peer's kernel at once.
    FtfwInject,
}

/// What is done to entries, each once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// At a rate that leaves everybody time: a writer at full rate and a hot backup wait for one mutex of the whole machine.
    Paced,
    Create,
    Update,
    Destroy,
}

const PHASES: [Phase; 4] = [Phase::Paced, Phase::Create, Phase::Update, Phase::Destroy];
/// Events a second of the paced phase, and how many.
const RATE: u32 = 20_000;
const PACED: u32 = 40_000;

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

impl Subject {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Subject::NullWoken => "null, woken",
            Subject::NullNapping => "null, napping",
            Subject::Ctsync => "ctsync hot",
            Subject::CtsyncCold => "ctsync cold",
            Subject::CtsyncKey => "ctsync cold, key",
            Subject::Ftfw => "conntrackd FTFW",
            Subject::Notrack => "conntrackd NOTRACK",
            Subject::FtfwInject => "conntrackd, no cache",
        }
    }

    fn is_ctsync(self) -> bool {
        matches!(self, Subject::Ctsync | Subject::CtsyncCold | Subject::CtsyncKey)
    }

    fn is_null(self) -> bool {
        matches!(self, Subject::NullWoken | Subject::NullNapping)
    }

    fn is_hot(self) -> bool {
        matches!(self, Subject::Ctsync | Subject::FtfwInject)
    }

    fn options(self, ctsync: &Path) -> Options {
        let usual = Options::usual(ctsync.to_owned());
        let buffer = 64 << 20;
        let shape = incumbent::Shape { event_buffer: buffer, ..incumbent::Shape::default() };
        let incumbent_shape = match self {
            Subject::Notrack => incumbent::Shape { mode: "NOTRACK", ..shape },
            Subject::FtfwInject => incumbent::Shape { external_cache: false, ..shape },
            _ => shape,
        };
        Options {
            sync: self.is_ctsync(),
            incumbent: !self.is_ctsync() && !self.is_null(),
            incumbent_shape,
            install: self != Subject::CtsyncCold && self != Subject::CtsyncKey,
            key: (self == Subject::CtsyncKey).then(|| "5a".repeat(32)),
            lines: &[EVENT_BUFFER, RING],
            // Under full load keepalived gets late; a takeover is not what is measured. conntrackd needs no role to follow.
            advert: 1.0,
            mover: if self.is_ctsync() { Mover::Keepalived } else { Mover::Story },
            ..usual
        }
    }
}

/// What a program has used.
#[derive(Clone, Copy, Default)]
struct Spent {
    all: Duration,
    user: u64,
    system: u64,
}

struct Bench<'a> {
    subject: Subject,
    topology: &'a Topology,
    reader: Option<Reader>,
    events: u32,
}

/// One subject under the load, on routers that boot for it: each of so many entries is created, changed and ended, as fast as
/// the kernel takes it.
pub(super) async fn measure(
    topology: &mut Topology,
    ctsync: &Path,
    subject: Subject,
    events: u32,
) -> Result<Vec<Measured>> {
    topology.options = subject.options(ctsync);
    topology.reboot().await?;
    if subject.is_ctsync() {
        let second = topology.router(2)?;
        until("router2 is ready", PATIENCE, async || {
            Ok((second.status().await?["state"]["readiness"] == "ready").then_some(()))
        })
        .await?;
    }
    let reader = subject
        .is_null()
        .then(|| Reader::start(&topology.router(1)?.node.net, subject == Subject::NullNapping))
        .transpose()?;
    let mut bench = Bench { subject, topology, reader, events };
    let mut found = Vec::new();
    for phase in PHASES {
        bench.phase(phase, &mut found).await?;
    }
    if let Some(reader) = bench.reader.take() {
        reader.stop()?;
    }
    Ok(found)
}

impl Bench<'_> {
    async fn phase(&mut self, phase: Phase, found: &mut Vec<Measured>) -> Result<()> {
        let net = self.topology.router(1)?.node.net.clone();
        let before = [self.spent(1)?, self.spent(2)?];
        let memory = [self.memory(1)?, self.memory(2)?];
        let bytes = self.topology.channel_bytes()?;
        let heard = self.reader.as_ref().map(Reader::heard);
        let began = now();
        let all = PACED + self.events;
        let (events, done) = match phase {
            Phase::Paced => (PACED, load::create_paced(&net, 0, PACED, Some(RATE))?),
            Phase::Create => (self.events, load::create(&net, PACED, self.events)?),
            Phase::Update => (all, load::change(&net, 0, all, 7)?),
            Phase::Destroy => (all, load::end(&net, 0, all)?),
        };
        let took = began.elapsed();
        let count = f64::from(events);
        ensure!(done == events, "the kernel took {done} of {events} to {}", phase.name());
        self.settle(phase, events, heard).await?;
        let settled = began.elapsed();
        let mut note = |row: &str, value: f64| {
            found.push(Measured { row: format!("{}: {row}", phase.name()), subject: self.subject, value });
        };
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / count;
        note("k events/s", count / took.as_secs_f64() / 1e3);
        note("settled after, s", settled.as_secs_f64());
        for (number, name) in [(1, "owner"), (2, "backup")] {
            if number == 2 && self.subject.is_null() {
                continue;
            }
            let at = number as usize - 1;
            let after = self.spent(number)?;
            let used = after.all.saturating_sub(before[at].all);
            note(&format!("{name}, us/event"), each(used));
            let (user, system) = (after.user - before[at].user, after.system - before[at].system);
            if user + system > 0 {
                note(&format!("{name}, of it user, %"), 100.0 * user as f64 / (user + system) as f64);
            }
            if phase == Phase::Create && !self.subject.is_null() {
                let grown = self.memory(number)?.saturating_sub(memory[at]);
                note(&format!("{name}, bytes/entry"), grown as f64 / count);
            }
        }
        if !self.subject.is_null() {
            let sent = self.topology.channel_bytes()? - bytes;
            note("wire, bytes/event", sent as f64 / count);
        }
        Ok(())
    }

    fn program(&self) -> &'static str {
        if self.subject.is_ctsync() { "ctsync" } else { "conntrackd" }
    }

    fn spent(&self, number: u8) -> Result<Spent> {
        if let Some(reader) = &self.reader {
            return Ok(Spent {
                all: if number == 1 { reader.spent() } else { Duration::ZERO },
                ..Spent::default()
            });
        }
        let pid = self.topology.router(number)?.node.pid(self.program())?;
        let schedule = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
        let all =
            schedule.split_whitespace().next().and_then(|word| word.parse().ok()).context("schedstat")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // proc(5): utime and stime are the fields 14 and 15; the second one ends with the last bracket.
        let rest = stat.rsplit(") ").next().context("stat")?;
        let ticks: Vec<u64> =
            rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
        let [user, system] = ticks.as_slice() else { anyhow::bail!("stat") };
        Ok(Spent { all: Duration::from_nanos(all), user: *user, system: *system })
    }

    /// Resident bytes.
    fn memory(&self, number: u8) -> Result<u64> {
        if self.reader.is_some() {
            return Ok(0);
        }
        let pid = self.topology.router(number)?.node.pid(self.program())?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kilobytes: u64 = line.split_whitespace().next().context("VmRSS")?.parse()?;
        Ok(kilobytes * 1024)
    }

    /// Until everybody holds what should be held; tables that are not equal are no result.
    async fn settle(&self, phase: Phase, events: u32, heard: Option<u64>) -> Result<()> {
        let wanted = u64::from(match phase {
            Phase::Paced => PACED,
            Phase::Create | Phase::Update => PACED + self.events,
            Phase::Destroy => 0,
        });
        if let (Some(reader), Some(heard)) = (&self.reader, heard) {
            let all = heard + u64::from(events);
            return until("every event is heard", PATIENCE, async || {
                Ok((reader.heard() >= all).then_some(()))
            })
            .await;
        }
        let (one, two) = (self.topology.router(1)?, self.topology.router(2)?);
        let marked = phase == Phase::Update;
        if self.subject.is_ctsync() {
            return until("router2 holds what router1 holds", PATIENCE, async || {
                let (owner, backup) = (one.status().await?, two.status().await?);
                let (one, two) = (&owner["state"], &backup["state"]);
                let same = one["root"] == two["root"] && two["readiness"] == "ready" && one["unsent"] == 0;
                let count = two["external"].as_u64().unwrap_or(0);
                // The pair's own connections are a handful.
                Ok((same && count >= wanted && count < wanted + 1000).then_some(()))
            })
            .await;
        }
        // An update changes no number: it is done when nothing is worked on any more.
        let mut last = self.spent(2)?.all;
        until("router2 holds what router1 holds", PATIENCE, async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = self.spent(2)?.all;
            let quiet = now.saturating_sub(last) < Duration::from_millis(15);
            last = now;
            let count = if self.subject.is_hot() {
                let text = two.node.net.read_sysctl("net/netfilter/nf_conntrack_count")?;
                text.trim().parse()?
            } else {
                incumbent::numbers(&two.node)?[1]
            };
            let there = count >= wanted && count < wanted + 1000;
            Ok((there && (quiet || !marked)).then_some(()))
        })
        .await
    }
}
