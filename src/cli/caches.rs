//! What the daemon holds: its caches, their changes as they happen, and where they differ.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use anyhow::{Context, Result};
use clap_complete::engine::ArgValueCandidates;
use netlink_packet_netfilter::NetfilterProtoFamily;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ends::{End, Ends};
use super::words::{Form, Section};
use super::{Daemon, WORK, kernel, pretty, print};
use crate::control::{Asked, ControlError, Request};
use crate::ctnetlink::codec::KernelTable;
use crate::ctnetlink::entry::proto;
use crate::ctnetlink::names::protocol_name;
use crate::engine::filter::Filter;
use crate::engine::replica::{Cache, Verb};
use crate::faces::rows::{Row, VERSION};
use crate::faces::show;

/// `show conntrack-sync cache`: printed as it comes.
pub(super) async fn show(
    daemon: &Daemon,
    cache: Cache,
    section: Option<Section>,
    wide: bool,
    form: Form,
) -> Result<()> {
    let expect_sync = daemon.ask(Request::Statistics, super::ANSWER).await?["expect-sync"] == true;
    if section == Some(Section::Expect) && !expect_sync {
        anyhow::bail!("expect-sync not configured");
    }
    if form.json || wide {
        let (mut expected, mut entries): (Vec<Row>, Vec<Row>) =
            fetch(daemon, cache).await?.into_iter().partition(|row| row.expectation.is_some());
        match section {
            Some(Section::Main) => expected.clear(),
            Some(Section::Expect) => entries.clear(),
            None => {}
        }
        return print(&if form.json {
            pretty(
                &json!({ "version": VERSION, "cache": cache, "entries": entries, "expectations": expected }),
            )?
        } else {
            entries.append(&mut expected);
            show::wide(&entries, true)
        });
    }
    let mut out = io::stdout().lock();
    let mut write = |text: &str| out.write_all(text.as_bytes());
    let written = async {
        write(&show::cache_heading()).map_err(ControlError::Output)?;
        if section.is_none() {
            write(show::MAIN_TITLE).map_err(ControlError::Output)?;
        }
        // Few, and they come among the others: kept until those are printed.
        let mut expected = String::new();
        let each = |row: Row| match row.expectation {
            Some(_) => {
                expected += &show::expect_row(&row);
                Ok(())
            }
            None if section == Some(Section::Expect) => Ok(()),
            None => write(&show::cache_row(&row)),
        };
        stream(daemon, cache, each).await?;
        if section.is_none() {
            write(show::EXPECT_TITLE).map_err(ControlError::Output)?;
        }
        if section != Some(Section::Main) {
            write(&expected).map_err(ControlError::Output)?;
        }
        Ok(())
    };
    enough_is_fine(daemon, written.await)
}

/// A reader that has seen enough (`| head`) is no error.
fn enough_is_fine(daemon: &Daemon, result: Result<(), ControlError>) -> Result<()> {
    match result {
        Err(ControlError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| daemon.explain(error)),
    }
}

async fn stream(
    daemon: &Daemon,
    cache: Cache,
    mut each: impl FnMut(Row) -> io::Result<()>,
) -> Result<(), ControlError> {
    let mut asked = Asked::put(&daemon.socket, &Request::Cache { cache }).await?;
    asked
        .finish(|part| {
            for row in serde_json::from_value::<Vec<Row>>(part)? {
                each(row)?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}

async fn fetch(daemon: &Daemon, cache: Cache) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let each = |row| {
        rows.push(row);
        Ok(())
    };
    stream(daemon, cache, each).await.map_err(|error| daemon.explain(error))?;
    Ok(rows)
}

/// Which changes are shown.
#[derive(clap::Args, Debug)]
pub(super) struct Choice {
    /// Only connections from there: ADDRESS, ADDRESS:PORT or any:PORT; IPv6 as [ADDRESS]:PORT.
    #[arg(long, value_name = "ADDRESS")]
    source: Option<String>,
    /// Only connections to there.
    #[arg(long, value_name = "ADDRESS")]
    destination: Option<String>,
    /// Only this protocol, by name or number.
    #[arg(long)]
    protocol: Option<String>,
    /// Only this failover group.
    #[arg(long, add = ArgValueCandidates::new(super::completion::groups))]
    group: Option<String>,
}

/// A choice that was understood.
struct Wanted {
    ends: Ends,
    protocol: Option<u8>,
    group: Option<String>,
}

impl Wanted {
    async fn of(choice: Choice, daemon: &Daemon) -> Result<Wanted> {
        let end = |which: &str, text: Option<String>| {
            text.map_or(Ok(End::default()), |text| End::of_either(which, &text))
        };
        let ends = Ends {
            source: end("source", choice.source)?,
            destination: end("destination", choice.destination)?,
        };
        let number = |text: &str| {
            // `accept-protocol` calls it as VyOS does.
            let text = if text.eq_ignore_ascii_case("icmp6") { protocol_name(proto::ICMPV6) } else { text };
            let named = |number: &u8| protocol_name(*number).eq_ignore_ascii_case(text);
            text.parse().ok().or_else(|| (0..=u8::MAX).find(named))
        };
        let protocol = match choice.protocol {
            None => None,
            Some(text) => Some(
                number(&text)
                    .with_context(|| format!("no protocol is called {text}; expected a name or a number"))?,
            ),
        };
        // A group has two names, and events tell one of them.
        let group = match choice.group {
            None => None,
            Some(name) => {
                let status = daemon.ask(Request::Status, super::ANSWER).await?;
                super::of_group(status, &name)?["group"].as_str().map(str::to_owned)
            }
        };
        Ok(Wanted { ends, protocol, group })
    }

    fn admits(&self, told: &Told) -> bool {
        self.ends.admits(&told.entry.original)
            && self.protocol.is_none_or(|wanted| wanted == told.entry.protocol)
            && self.group.as_ref().is_none_or(|wanted| *wanted == told.group)
    }
}

#[derive(Deserialize)]
struct Told {
    when: jiff::Timestamp,
    /// An older daemon tells none.
    #[serde(default)]
    group: String,
    cache: Cache,
    change: Verb,
    entry: Row,
}

/// `events`, until interrupted.
pub(super) async fn events(daemon: &Daemon, choice: Choice, form: Form) -> Result<()> {
    let wanted = Wanted::of(choice, daemon).await?;
    let mut out = io::stdout().lock();
    let mut tell = |part: Value| -> io::Result<()> {
        for change in part["changes"].as_array().into_iter().flatten() {
            let told: Told = serde_json::from_value(change.clone())?;
            if !wanted.admits(&told) {
                continue;
            }
            if form.json {
                writeln!(out, "{change}")?;
                continue;
            }
            let when = format!("{:.3}", told.when);
            out.write_all(show::change(&when, told.cache, told.change, &told.entry).as_bytes())?;
        }
        match part["unshown"].as_u64() {
            Some(count) if count > 0 && form.json => writeln!(out, "{}", json!({ "unshown": count }))?,
            Some(count) if count > 0 => writeln!(out, "... {count} changes were too many to be shown")?,
            _ => {}
        }
        out.flush()
    };
    let watch =
        async { Asked::put(&daemon.socket, &Request::Events).await?.finish(&mut tell).await.map(|_| ()) };
    enough_is_fine(daemon, watch.await)
}

/// `diff`: this table against its own kernel, then against each peer's table.
pub(super) async fn diff(daemon: &Daemon, form: Form) -> Result<std::process::ExitCode> {
    let against_kernel = against_kernel(daemon).await?;
    let value = daemon.ask(Request::Diff, WORK).await?;
    let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    let (tables, failed) = (list("tables"), list("failed"));
    let same = |table: &Value| table["count"] == 0 && table["unseen"] == 0;
    let equal = tables.iter().all(same) && failed.is_empty() && against_kernel.is_empty();
    if form.json {
        let kernel: Vec<Value> = against_kernel
            .iter()
            .map(|(table, kernel)| json!({ "table": table, "kernel": kernel }))
            .collect();
        print(&pretty(&json!({
            "version": VERSION, "equal": equal, "own-kernel": kernel, "tables": tables, "failed": failed,
        }))?)?;
    } else {
        let mut text = match against_kernel.len() {
            0 => "own kernel: equal\n".to_owned(),
            differing => format!(
                "own kernel: {differing} entries differ\n{}",
                show::differing("table", "kernel", &against_kernel)
            ),
        };
        for table in &tables {
            text += &tell_difference(table)?;
        }
        for why in &failed {
            text += &format!("{}\n", why.as_str().unwrap_or_default());
        }
        print(&text)?;
    }
    Ok(if equal { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE })
}

/// What a comparison with one peer found.
fn tell_difference(table: &Value) -> Result<String> {
    let peer = table["peer"].as_str().unwrap_or("the peer");
    let count = |name: &str| table[name].as_u64().unwrap_or(0);
    let pairs: Vec<(Option<Row>, Option<Row>)> = table["differing"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pair| Ok((Option::deserialize(&pair["here"])?, Option::deserialize(&pair["there"])?)))
        .collect::<Result<_, serde_json::Error>>()
        .context("cannot read the reply")?;
    let mut text = match (count("count"), count("unseen")) {
        (0, 0) => format!("{peer}: equal\n"),
        (count, _) => {
            format!("{peer}: {count} entries differ\n{}", show::differing("this table", peer, &pairs))
        }
    };
    if count("unseen") > 0 {
        text +=
            &format!("({} parts of the table differ and are too large to be looked at)\n", count("unseen"));
    }
    if count("moving") > 0 {
        text += &format!("({} changes were on their way)\n", count("moving"));
    }
    Ok(text)
}

type Pair = (Option<Row>, Option<Row>);

/// Entries of the table that this kernel has otherwise or not at all, and entries of this kernel that take
/// part and are in no table, twice in a row: what is on its way does not count.
async fn against_kernel(daemon: &Daemon) -> Result<Vec<Pair>> {
    let mut first = compare(daemon).await?;
    if first.is_empty() {
        return Ok(Vec::new());
    }
    let contents =
        |(table, kernel): &Pair| (table.as_ref().map(Row::content), kernel.as_ref().map(Row::content));
    let second = compare(daemon).await?;
    let still = second
        .into_iter()
        .filter(|(key, pair)| first.remove(key).is_some_and(|before| contents(&before) == contents(pair)));
    Ok(still.map(|(_, pair)| pair).collect())
}

/// What differs, by key.
async fn compare(daemon: &Daemon) -> Result<BTreeMap<String, Pair>> {
    let filter: Filter = serde_json::from_value(daemon.ask(Request::Filter, super::ANSWER).await?)?;
    let mut rows = fetch(daemon, Cache::Internal).await?;
    rows.extend(fetch(daemon, Cache::External).await?);
    let mut kernel: HashMap<String, (Row, bool)> = HashMap::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        for table in [KernelTable::Connections, KernelTable::Expectations] {
            for (id, entry) in kernel::dump(table, family)? {
                let row = Row::of_kernel(id, &entry);
                kernel.insert(key(&row), (row, filter.accepts(&entry)));
            }
        }
    }
    let mut differing = BTreeMap::new();
    for row in rows {
        let key = key(&row);
        match kernel.remove(&key) {
            Some((found, _)) if found.content() == row.content() => {}
            found => _ = differing.insert(key, (Some(row), found.map(|(found, _)| found))),
        }
    }
    // Nobody owns these: a node that forwards without a role has its connections in no table.
    let strays = kernel.into_iter().filter(|(_, (_, takes_part))| *takes_part);
    differing.extend(strays.map(|(key, (row, _))| (key, (None, Some(row)))));
    Ok(differing)
}

fn key(row: &Row) -> String {
    format!("{} {} {:?} {}", row.zone, row.protocol, row.original, row.expectation.is_some())
}
