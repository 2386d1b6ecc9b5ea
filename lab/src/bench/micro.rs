//! `micro`: what the steps of an event's path cost, each by itself: nanoseconds here, instructions anywhere.
//!
//! Called by `main`. Instructions are valgrind's count of this very program doing a step many times and then
//! more times: the difference is the step's, without what comes before it.

use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use ctsync::ctnetlink::codec::{self, Event, Install};
use ctsync::ctnetlink::entry::{Entry, Status};
use ctsync::ctnetlink::nla::Writer;
use ctsync::engine::digest::{Digester, Sums};
use ctsync::engine::seal::{Key, Seal};
use ctsync::engine::table::Table;
use ctsync::engine::wire::{self, Incarnation, Messages};
use serde_json::{Value, json};

use crate::bench::engine;
use crate::load::entries::connection;
use crate::machine::setup;
use crate::machine::wait::now;
use crate::story::narrator;

/// Events as a kernel wrote them, one a line.
const RECORDED: &str = include_str!("../../../tests/fixtures/conntrack-events.hex");
/// Times a step is done under valgrind: this often, and ten times as often.
const COUNTED: u32 = 2_000;
/// Of each step's time the median of so many slices of this length.
const SLICES: usize = 15;
const SLICE: Duration = Duration::from_millis(20);
/// Entries beside which the table and the sums are looked at.
const BESIDE: u32 = 50_000;
/// Odd and large: one number after the other becomes an order without order.
const SCATTER: u32 = 2_654_435_761;
/// Bytes of a full datagram's messages.
const DATAGRAM: usize = 1_372;

/// What to measure.
#[derive(Args, Clone)]
pub(crate) struct Arguments {
    /// Only these steps.
    #[arg(value_enum)]
    steps: Vec<Step>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Do the steps so many times and measure nothing: what valgrind looks at.
    #[arg(long, hide = true)]
    repeat: Option<u32>,
}

/// A step of an event's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Step {
    /// Codec: an event of the kernel's is read.
    ReadEvent,
    /// Codec: a request to create an entry with source NAT is written.
    WriteCreate,
    /// Codec: a request to change one.
    WriteUpdate,
    /// Cache: an entry is found among 50,000.
    Find,
    /// Cache: an entry comes and goes.
    InsertRemove,
    /// Wire: an entry is packed.
    Pack,
    /// Wire: a packed entry is read.
    Unpack,
    /// Digest: the hash of an entry's contents.
    Hash,
    /// Digest: an entry's hash is counted and taken out again, on all levels.
    Sums,
    /// Seal: a full datagram is sealed.
    Seal,
    /// Seal: ... and opened.
    Open,
    /// The owner's whole engine: an event in, its part of a datagram out.
    Owner,
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Set it up; then it can be done again and again.
    fn prepared(self) -> Result<Box<dyn FnMut()>> {
        let entry = Entry { status: Status::Confirmed | Status::SeenReply, ..connection(7) };
        let digester = Digester::new(7);
        Ok(match self {
            Step::ReadEvent => reading()?,
            Step::WriteCreate | Step::WriteUpdate => {
                let mut writer = Writer::default();
                let emit = if self == Step::WriteCreate { codec::emit_create } else { codec::emit_update };
                Box::new(move || {
                    writer.clear();
                    emit(&mut writer, 1, black_box(&entry), Install::whole(3600));
                    black_box(writer.as_bytes());
                })
            }
            Step::Find | Step::InsertRemove => in_table(self == Step::Find),
            Step::Pack => {
                let mut bytes = Vec::with_capacity(1500);
                Box::new(move || {
                    bytes.clear();
                    wire::emit_put(&mut bytes, black_box(&entry), 3, false);
                    black_box(&bytes);
                })
            }
            Step::Unpack => {
                let mut bytes = Vec::new();
                wire::emit_put(&mut bytes, &entry, 3, false);
                Box::new(move || {
                    for message in Messages::new(black_box(&bytes)) {
                        let _ = black_box(message);
                    }
                })
            }
            Step::Hash => {
                let mut bytes = Vec::new();
                Box::new(move || {
                    bytes.clear();
                    wire::packed::emit_canonical(&mut bytes, black_box(&entry));
                    black_box(digester.hash(&bytes));
                })
            }
            Step::Sums => {
                let mut sums = Sums::default();
                Box::new(move || {
                    sums.add(black_box(4711), 99);
                    sums.remove(black_box(4711), 99);
                })
            }
            Step::Seal | Step::Open => sealing(self == Step::Open),
            Step::Owner => owner()?,
        })
    }
}

/// A recorded event is read.
fn reading() -> Result<Box<dyn FnMut()>> {
    let line = RECORDED.lines().next().context("no recorded event")?;
    let byte = |at| u8::from_str_radix(line.get(at..at + 2).unwrap_or_default(), 16);
    let bytes: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
    Ok(Box::new(move || {
        let _ = black_box(codec::parse_events(black_box(&bytes), |event| {
            black_box(event);
        }));
    }))
}

/// Among [`BESIDE`] others an entry is found, or comes and goes.
fn in_table(find: bool) -> Box<dyn FnMut()> {
    let digester = Digester::new(7);
    let mut scratch = Vec::new();
    let mut hash_of = move |entry: &Entry| digester.hash_key(&mut scratch, &entry.key());
    let mut table = Table::new(0);
    let mut keys = Vec::new();
    for number in 0..BESIDE {
        let entry = connection(number);
        let hash = hash_of(&entry);
        keys.push((hash, entry.key()));
        table.insert(hash, entry);
    }
    if find {
        let mut keys = keys.into_iter().cycle();
        return Box::new(move || {
            if let Some((hash, key)) = keys.next() {
                black_box(table.find(hash, &key));
            }
        });
    }
    let another = connection(BESIDE);
    let hash = hash_of(&another);
    Box::new(move || {
        let id = table.insert(hash, black_box(another.clone()));
        table.release(id, None);
    })
}

/// A full datagram under a key.
fn sealing(open: bool) -> Box<dyn FnMut()> {
    let own = Incarnation(1);
    let mut seal = Seal::new(&[Key([0x5a; 32])], 0, own);
    let plain = vec![7; DATAGRAM];
    let sealed = seal.seal(plain.clone());
    if open {
        return Box::new(move || {
            let _ = black_box(seal.open(black_box(&sealed), own, true));
        });
    }
    Box::new(move || {
        black_box(seal.seal(black_box(plain.clone())));
    })
}

/// An owner that hears of a change, tells it, and counts it.
fn owner() -> Result<Box<dyn FnMut()>> {
    let began = now();
    let mut replica = engine::primary("router1", 1, began)?;
    let later = began + Duration::from_secs(5);
    replica.handle_timeout(later);
    ensure!(replica.owner(), "not the owner");
    for number in 0..BESIDE {
        replica.handle_event(Event::New(connection(number)), later);
        if number.is_multiple_of(32) {
            while replica.poll_datagram(later).is_some() {}
        }
    }
    let (mut mark, mut events) = (0, Vec::new());
    Ok(Box::new(move || {
        mark += 1;
        // Each event changes another of many entries; they are heard together, and told at once.
        events.push(Event::Update(Entry {
            mark: Some(mark),
            ..connection(mark.wrapping_mul(SCATTER) % BESIDE)
        }));
        if mark.is_multiple_of(64) {
            replica.handle_events(&mut events, later);
            while let Some(datagram) = replica.poll_datagram(later) {
                black_box(datagram);
            }
        }
    }))
}

/// One step's costs.
struct Cost {
    step: Step,
    nanoseconds: f64,
    instructions: Option<f64>,
}

/// Measure, and tell.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let steps = if arguments.steps.is_empty() { Step::value_variants() } else { &arguments.steps };
    if let Some(times) = arguments.repeat {
        for step in steps {
            let mut work = step.prepared()?;
            (0..times).for_each(|_| work());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(error) = setup::ensure_counter() {
        eprintln!("instructions are not counted: {error:#}");
    }
    let bar = narrator::progress(steps.len())?;
    let mut costs = Vec::new();
    for step in steps {
        bar.set_message(step.name());
        costs.push(Cost { step: *step, nanoseconds: time(*step)?, instructions: instructions(*step)? });
        bar.inc(1);
    }
    bar.finish_and_clear();
    if arguments.json {
        let all: Vec<Value> = costs
            .iter()
            .map(|cost| json!({ "step": cost.step.name(), "nanoseconds": cost.nanoseconds, "instructions": cost.instructions }))
            .collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<16} {:>12} {:>14}", "step", "nanoseconds", "instructions");
    for cost in costs {
        let counted = cost.instructions.map_or_else(|| "-".to_owned(), |count| format!("{count:.0}"));
        println!("{:<16} {:>12.1} {counted:>14}", cost.step.name(), cost.nanoseconds);
    }
    Ok(ExitCode::SUCCESS)
}

fn time(step: Step) -> Result<f64> {
    let mut work = step.prepared()?;
    let mut slices = Vec::new();
    for _ in 0..SLICES {
        let (began, mut times) = (now(), 0u32);
        while began.elapsed() < SLICE {
            (0..64).for_each(|_| work());
            times += 64;
        }
        slices.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(times));
    }
    slices.sort_by(f64::total_cmp);
    slices.get(SLICES / 2).copied().context("nothing was measured")
}

/// `None`: no valgrind here.
fn instructions(step: Step) -> Result<Option<f64>> {
    let count = |times: u32| -> Result<Option<f64>> {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--"]);
        command.arg(std::env::current_exe()?).args(["micro", "--repeat", &times.to_string(), &step.name()]);
        let output = match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            output => output.context("cannot run valgrind")?,
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "valgrind: {said}");
        // ==123== Collected : 4567
        let collected =
            said.lines().find_map(|line| line.split_once("Collected :")).context("no count by valgrind")?;
        Ok(Some(collected.1.trim().parse().context("valgrind's count")?))
    };
    let Some(few) = count(COUNTED)? else { return Ok(None) };
    let Some(many) = count(10 * COUNTED)? else { return Ok(None) };
    Ok(Some((many - few) / f64::from(9 * COUNTED)))
}
