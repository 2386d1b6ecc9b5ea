//! A hundred differences, planted behind the daemons' backs in both kernels, beside many entries: found and
//! repaired.
//!
//! Called as `run differences`, and by `soak differences` with half a million entries.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use ctsync::ctnetlink::codec::{Install, emit_destroy, emit_update};
use ctsync::ctnetlink::nla::Writer;

use super::stage::{Checks, Pair, Stage};
use crate::load::entries::{self, connection};
use crate::load::judge;
use crate::machine::node::Node;
use crate::machine::wait::{now, until};
use crate::routers::hands::Requests;
use crate::story::narrator::Narrator;

/// Entries of an ordinary run.
const ENTRIES: u32 = 50_000;
/// Differences of each kind on each side.
const EACH: u32 = 25;
const MARK: u32 = 77;
/// In so long the daemons' own sweeps meet none of them; listing many entries, or on a busy machine, takes
/// longer, and then they may have met one or another before it is counted.
const SOON: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> Result<bool> {
    tell(stage, narrator, ENTRIES, false).await
}

/// With so many entries; with `patient` nobody asks for it: the daemons' own sweeps have to find it.
pub(crate) async fn tell(
    stage: &Stage<'_>,
    narrator: &mut Narrator,
    entries: u32,
    patient: bool,
) -> Result<bool> {
    narrator.chapter(&format!("{} planted differences in {entries} entries", 4 * EACH));
    // No clients: their packets would be counted with the channel's.
    let pair = Pair::start(stage, 0).await?;
    let own = pair.topology.own_addresses()?;
    entries::create(&pair.topology.router(1)?.node.net, 0, entries)?;
    pair.wait_equal().await?;
    pair.wait_ready(2).await?;
    let mut checks = Checks::new(narrator);
    // The same number never twice; spread over the table.
    let step = entries / (4 * EACH);
    let numbers = |kind: u32| (0..EACH).map(move |at| (4 * at + kind) * step).collect::<Vec<u32>>();
    for (number, [ended, marked]) in [(1, [numbers(0), numbers(1)]), (2, [numbers(2), numbers(3)])] {
        plant(&pair.topology.router(number)?.node, &ended, &marked, MARK)?;
    }
    let planted = usize::try_from(EACH)?;
    let since = now();
    checks.note("planted, and nobody heard of it", unheard(&pair, &own, planted, since).await);
    for number in [1, 2] {
        let what = format!("`ctsync diff` on router{number} says where");
        checks.note(&what, told(&pair, number, planted, since));
    }
    let (began, before) = (now(), pair.topology.channel_bytes()?);
    if !patient {
        for number in [1, 2] {
            pair.typed(number, &["resync"], 0)?;
        }
    }
    let patience = if patient { Duration::from_secs(1500) } else { PATIENCE };
    let equal = until("the marks are on both, and as many entries", patience, async || {
        let marks = [1, 2].map(|number| marked(&pair.topology.router(number)?.node, MARK));
        let counts = [1, 2].map(|number| pair.topology.router(number)?.node.output("conntrack", &["-C"]));
        let (marks, counts) = (marks.map(Result::ok), counts.map(Result::ok));
        if marks == [Some(planted); 2] && counts[0] == counts[1] {
            return Ok(Some(began.elapsed()));
        }
        bail!("marked {marks:?}, entries {counts:?}")
    })
    .await;
    let bytes = pair.topology.channel_bytes()? - before;
    let took = equal.map(|took| format!("{:.2} s, {:.1} kB", took.as_secs_f64(), bytes as f64 / 1e3));
    if let Ok(took) = &took {
        checks.narrator.fact("repaired", took.clone());
    }
    checks.note("found and repaired", took);
    checks.note("both kernels are equal, and as router1's was", right_ones(&pair, &own, entries, planted));
    Ok(checks.end())
}

/// End some entries and mark others, in the daemon's own name.
pub(crate) fn plant(node: &Node, ended: &[u32], marked: &[u32], mark: u32) -> Result<()> {
    let requests = Requests::of(node)?;
    let mut writer = Writer::default();
    for number in ended {
        emit_destroy(&mut writer, 0, &connection(*number).key());
    }
    for number in marked {
        let mut entry = connection(*number);
        entry.mark = Some(mark);
        emit_update(&mut writer, 0, &entry, Install { be_liberal: false, ..Install::whole(432_000) });
    }
    requests.send(&writer)
}

fn both(pair: &Pair, own: &[String]) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let [first, second] = [1, 2].map(|number| judge::entries(&pair.topology.router(number)?.node, own));
    Ok((first?, second?))
}

async fn unheard(pair: &Pair, own: &[String], planted: usize, since: Instant) -> Result<String> {
    let (first, second) = both(pair, own)?;
    let differ = first.symmetric_difference(&second).count();
    // An ended entry is missing on one side, a marked one is another on each.
    let met = since.elapsed() > SOON;
    let least = if met { 5 * planted } else { 6 * planted };
    ensure!((least..=6 * planted).contains(&differ), "{differ} lines differ, planted were {}", 6 * planted);
    let (one, two) = (pair.topology.router(1)?.status().await?, pair.topology.router(2)?.status().await?);
    ensure!(met || one["state"]["root"] == two["state"]["root"], "a daemon has heard of it");
    Ok(format!("{differ} lines of `conntrack -L` differ"))
}

/// It is the kernel's fault, not the table's: half of them on each side.
fn told(pair: &Pair, number: u8, planted: usize, since: Instant) -> Result<String> {
    let out = pair.typed(number, &["diff"], 1)?;
    let line = out.lines().find(|line| line.starts_with("own kernel: ")).unwrap_or("no such line").to_owned();
    let differ = line.split_whitespace().nth(2).and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
    let least = if since.elapsed() > SOON { planted } else { 2 * planted };
    ensure!((least..=2 * planted).contains(&differ), "{line}");
    Ok(line)
}

/// Entries of a router's kernel that have the mark: the kernel lists no others.
pub(crate) fn marked(node: &Node, mark: u32) -> Result<usize> {
    Ok(node.output("conntrack", &["-L", "-m", &mark.to_string()])?.lines().count())
}

/// An owner's kernel is the truth: what was ended there is gone, what was marked there is marked on both.
fn right_ones(pair: &Pair, own: &[String], entries: u32, planted: usize) -> Result<String> {
    let (first, second) = both(pair, own)?;
    ensure!(first == second, "{} lines differ", first.symmetric_difference(&second).count());
    let with_mark = first.iter().filter(|line| line.contains(&format!("mark={MARK}"))).count();
    let expected = usize::try_from(entries)? - planted;
    let held = first.iter().filter(|line| line.contains("198.51.100.")).count();
    ensure!((with_mark, held) == (planted, expected), "{held} entries, {with_mark} marked");
    Ok(format!("{held} entries, {with_mark} marked"))
}
