//! Whole tables: what the kernel takes at best, what a peer that has nothing needs to get everything, what
//! grows with the table.

use std::time::Duration;

use anyhow::{Result, ensure};
use ctsync::ctnetlink::codec::KernelTable;
use ctsync::kernel::socket::DumpSocket;

use super::figures::Figures;
use super::reader::Reader;
use super::work::{Wanted, Work};
use crate::load::entries;
use crate::machine::wait::{now, until};
use crate::routers::incumbent;

/// Entries that an empty peer is to get.
pub(super) const WHOLE: u32 = 500_000;
/// Entries created one by one: enough to see the rate.
const SINGLE: u32 = 100_000;
/// Entries beside which an event is measured.
const SIZES: [u32; 4] = [10_000, 100_000, 1_000_000, 2_000_000];
/// Events of each kind beside them.
const EVENTS: u32 = 50_000;
/// Beyond every table's numbers.
const FRESH: u32 = 3_000_000;
/// Entries made at once: conntrackd is to lose none.
const PORTION: u32 = 100_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// Raw requests into a kernel that nobody listens to.
pub(super) fn limits(work: &Work<'_>, figures: &mut Figures) -> Result<()> {
    let net = &work.node(1)?.net;
    let mut rate = |row: &str, count: u32, done: u32, took: Duration| -> Result<()> {
        ensure!(done == count, "the kernel took {done} of {count}: {row}");
        figures.note(work.subject, row, f64::from(count) / took.as_secs_f64() / 1e3);
        Ok(())
    };
    let began = now();
    let done = entries::create_one_by_one(net, FRESH, SINGLE)?;
    rate("limit: creates one by one, k/s", SINGLE, done, began.elapsed())?;
    let began = now();
    let done = entries::create(net, 0, WHOLE)?;
    rate("limit: creates in batches, k/s", WHOLE, done, began.elapsed())?;
    // As beside an owner on the same machine, whose listening makes every kernel table dearer.
    entries::end(net, 0, WHOLE)?;
    let listener = Reader::start(&work.node(2)?.net, true)?;
    let began = now();
    let done = entries::create(net, 0, WHOLE)?;
    rate("limit: creates in batches while somebody listens elsewhere, k/s", WHOLE, done, began.elapsed())?;
    listener.stop()?;
    let began = now();
    let listed = net.run(|| {
        let mut socket = DumpSocket::open()?;
        socket.start(KernelTable::Connections, None)?;
        let mut count = 0;
        while !socket.read(|_, _| count += 1)? {}
        Ok(count)
    })?;
    rate("limit: dump, k/s", WHOLE + SINGLE, listed.min(WHOLE + SINGLE), began.elapsed())
}

/// router2's daemon begins with nothing beside a full router1.
pub(super) async fn fetch(work: &mut Work<'_>, figures: &mut Figures) -> Result<()> {
    let subject = work.subject;
    fill(work, WHOLE).await?;
    let second = work.topology.router_mut(2)?;
    second.node.kill(subject.program())?;
    second.node.output("conntrack", &["-F"])?;
    let bytes = work.topology.channel_bytes()?;
    let began = now();
    let second = work.topology.router_mut(2)?;
    if subject.is_ctsync() {
        second.start_ctsync()?;
    } else {
        second.restart_incumbent().await?;
    }
    let second = work.topology.router(2)?;
    let whole = u64::from(WHOLE);
    until("router2's table has everything", PATIENCE, async || {
        let held = if subject.is_ctsync() {
            second.status().await?["state"]["external"].as_u64().unwrap_or(0)
        } else {
            incumbent::numbers(&second.node)?[1]
        };
        Ok((held >= whole).then_some(()))
    })
    .await?;
    figures.note(subject, format!("{WHOLE} to an empty peer's table, s"), began.elapsed().as_secs_f64());
    if subject.is_hot() {
        until("router2's kernel has everything", PATIENCE, async || {
            Ok((work.held(2)? >= whole).then_some(()))
        })
        .await?;
        let took = began.elapsed().as_secs_f64();
        figures.note(subject, format!("{WHOLE} to an empty peer's kernel, s"), took);
        figures.note(subject, "whole table into the kernel, k/s", f64::from(WHOLE) / took / 1e3);
    }
    let lacking = work.settle(Wanted { entries: whole, mark: None, heard: 0 }).await?;
    figures.note(
        subject,
        "whole table: bytes/entry",
        (work.topology.channel_bytes()? - bytes) as f64 / f64::from(WHOLE),
    );
    figures.note(subject, "whole table: not equal at the end", lacking as f64);
    Ok(())
}

/// What an event costs beside larger and larger tables.
pub(super) async fn growth(work: &Work<'_>, figures: &mut Figures) -> Result<()> {
    let net = work.node(1)?.net.clone();
    let mut there = 0;
    for size in SIZES {
        fill_from(work, there, size).await?;
        there = size;
        let before = [work.spent(1)?, work.spent(2)?];
        let heard = work.heard();
        let began = now();
        let created = entries::create(&net, FRESH, EVENTS)?;
        // Spread over the table, as traffic is.
        let step = (size / EVENTS).max(1);
        let at_once = EVENTS.min(size);
        let mut changed = 0;
        // Beside a small table each entry changes several times: as many events of each kind beside every
        // size.
        for mark in 9..9 + EVENTS / at_once {
            changed += entries::change_spread(&net, (0, step), at_once, mark)?;
        }
        let ended = entries::end(&net, FRESH, EVENTS)?;
        let took = began.elapsed();
        ensure!(
            [created, changed, ended] == [EVENTS; 3],
            "{created}, {changed} and {ended} of {EVENTS} were done"
        );
        let events = 3 * EVENTS;
        let wanted = Wanted { entries: size.into(), mark: None, heard: heard + u64::from(events) };
        let lacking = work.settle(wanted).await?;
        if !work.works_on(1) {
            // What a hot backup asks of its kernel costs at least as much more beside more entries.
            let each = took.as_secs_f64() * 1e6 / f64::from(events);
            figures.note(work.subject, growth_row(size, "kernel alone"), each);
        }
        for (number, name) in [(1, "owner"), (2, "backup")] {
            if work.works_on(number) {
                let used = work.spent(number)?.all.saturating_sub(before[usize::from(number) - 1].all);
                let each = used.as_secs_f64() * 1e6 / f64::from(events);
                figures.note(work.subject, growth_row(size, name), each);
            }
        }
        if work.subject.is_pair() {
            figures.note(work.subject, format!("beside {size}: not equal at the end"), lacking as f64);
        }
    }
    Ok(())
}

fn growth_row(size: u32, name: &str) -> String {
    format!("beside {size}: {name}, us/event")
}

pub(super) async fn fill(work: &Work<'_>, size: u32) -> Result<()> {
    fill_from(work, 0, size).await
}

async fn fill_from(work: &Work<'_>, from: u32, size: u32) -> Result<()> {
    let net = work.node(1)?.net.clone();
    let mut there = from;
    while there < size {
        let heard = work.heard();
        let portion = PORTION.min(size - there);
        let made = entries::create(&net, there, portion)?;
        ensure!(made == portion, "the kernel took {made} of {portion} entries");
        there += portion;
        let wanted = Wanted { entries: there.into(), mark: None, heard: heard + u64::from(made) };
        let lacking = work.settle(wanted).await?;
        ensure!(lacking == 0 || work.subject.is_incumbent(), "{lacking} entries are missing");
    }
    Ok(())
}

/// The least and the most of these sizes, for the budget.
pub(super) fn ends(name: &str) -> [String; 2] {
    [SIZES[0], SIZES[SIZES.len() - 1]].map(|size| growth_row(size, name))
}
