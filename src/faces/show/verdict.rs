//! Our own views: `status` and `diff`.

#![allow(clippy::indexing_slicing, reason = "serde_json answers a missing key with Null")]

use std::fmt::Write;

use serde_json::Value;

use super::ends;
use crate::faces::rows::Row;

/// Transitions that text shows; `--json` has all that are remembered.
const TRANSITIONS: usize = 3;

/// Where values begin.
const INDENT: &str = "                        ";

/// `status`: the verdict first, why and what to do, then what it rests on; further groups after the first.
/// `width`: that of a terminal, at whose edge no word is to be broken.
pub fn status(value: &Value, width: Option<usize>) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let whole = format!("{name:<22}: {value}");
        let _ = match width {
            None => writeln!(out, "{whole}"),
            Some(width) => {
                let options = textwrap::Options::new(width).subsequent_indent(INDENT).break_words(false);
                writeln!(out, "{}", textwrap::fill(&whole, options))
            }
        };
    };
    line("verdict", plain(value.get("verdict")));
    tell_reasons(value, &mut line);
    line("node", plain(value.pointer("/state/node")));
    line("now", format!("{:.6}", jiff::Timestamp::now()));
    tell_group(value, &mut line);
    for group in value["groups"].as_array().into_iter().flatten() {
        line("group", plain(group.get("group")));
        line("verdict", plain(group.get("verdict")));
        tell_reasons(group, &mut line);
        tell_group(group, &mut line);
    }
    line(
        "channel",
        if value["authenticated"] == true { "authenticated" } else { "NOT authenticated: no key" }.into(),
    );
    let keys: Vec<&str> =
        value["key-fingerprints"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    line("key fingerprints", if keys.is_empty() { "none".into() } else { keys.join(", ") });
    line("channel at", plain(value.get("channel")));
    if let Some(holds) = value["holding"].as_bool() {
        line("hold", if holds { "on: packets to be forwarded are dropped" } else { "off" }.into());
    }
    for remark in value["remarks"].as_array().into_iter().flatten() {
        line("to be changed", plain(Some(remark)));
    }
    out
}

/// Why a failover would lose something, each with what to do about it.
fn tell_reasons(group: &Value, line: &mut impl FnMut(&str, String)) {
    let reasons = group["reasons"].as_array().map_or(&[][..], Vec::as_slice);
    for reason in reasons {
        let [what, cure, seconds] = ["what", "cure", "seconds"].map(|name| plain(reason.get(name)));
        line("for", if reasons.len() == 1 { format!("{seconds} s") } else { format!("{seconds} s: {what}") });
        line("what to do", cure);
    }
    for unfit in group.pointer("/backups/unfit").and_then(Value::as_array).into_iter().flatten() {
        let [what, cure] = ["what", "cure"].map(|name| plain(unfit.get(name)));
        line("not fit", what);
        line("what to do", cure);
    }
}

/// A role, how it is known, and the addresses that belong to it.
fn tell_seat(role: String, seat: Option<&Value>) -> String {
    let Some(seat) = seat else { return role };
    let known = match seat["evidence"].as_str() {
        Some("addresses") => ", known by its addresses alone (nobody told it)",
        Some("nobody") => ", told by nobody",
        _ => "",
    };
    let addresses = match seat["addresses"].as_u64() {
        Some(all) if all > 0 => format!(", {} of {all} virtual addresses", seat["here"]),
        _ => String::new(),
    };
    format!("{role}{known}{addresses}")
}

fn tell_group(group: &Value, line: &mut impl FnMut(&str, String)) {
    let text = |pointer: &str| plain(group.pointer(pointer));
    line("role", format!("{}, {}", text("/state/role"), text("/state/readiness")));
    let seat = tell_seat(String::new(), group.pointer("/state/seat"));
    if !seat.is_empty() {
        line("role rests on", seat.trim_start_matches(", ").to_owned());
    }
    line("mechanism", text("/failover-mechanism"));
    match group["aside"].as_str() {
        Some("moving") => line("stands aside", "until another router has taken over".into()),
        Some(_) => {
            line("stands aside", "since a switch; `ctsync switch` here lets it be elected again".into());
        }
        None => {}
    }
    line("claim", format!("owner {}, epoch {}", text("/owner"), text("/state/epoch")));
    line("entries", format!("internal {}, external {}", text("/state/internal"), text("/state/external")));
    line("digests equal", equal(group));
    line("last sweep", sweep(group));
    line("waiting", waiting(group));
    line("cannot be installed", refused(group));
    for peer in group.pointer("/state/peers").and_then(Value::as_array).into_iter().flatten() {
        line("peer", tell_peer(peer) + &another_build(peer, group.pointer("/state/kernel/build")));
    }
    if group.pointer("/state/peers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        line("peer", "none has been heard".into());
    }
    if let Some(fence) = group.get("last-fence").filter(|fence| !fence.is_null()) {
        line("last takeover", tell_fence(fence));
    }
    let transitions = group["transitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if transitions.is_empty() {
        // An earlier run remembers when, and no more.
        let at = group["last-transition-at"].as_str();
        line("transition", at.map_or("none".into(), |at| format!("{at} (in an earlier run)")));
    }
    for transition in transitions.iter().rev().take(TRANSITIONS) {
        let [at, from, to, cause] = ["at", "from", "to", "cause"].map(|name| plain(transition.get(name)));
        let mut told = format!("{at} {from} to {to}, {cause}");
        if transition.get("held").is_some() {
            let _ = write!(told, ": {}", tell_fence(transition));
        }
        line("transition", told);
    }
}

/// What `switch` came to.
pub fn switched(value: &Value) -> String {
    if value["returned"] == true {
        let [group, owner] = ["group", "owner"].map(|name| plain(value.get(name)));
        return format!("this router may be elected again; {owner} owns {group}\n");
    }
    let [group, to, entries] = ["group", "to", "entries"].map(|name| plain(value.get(name)));
    let seconds = value["milliseconds"].as_f64().unwrap_or_default() / 1e3;
    format!(
        "{to} owns {group} and holds {entries} entries, after {seconds:.2} s; this router stands aside until ctsync is started \
         again or `ctsync switch` is typed here\n"
    )
}

/// What a takeover did.
fn tell_fence(fence: &Value) -> String {
    let milliseconds = fence["microseconds"].as_f64().unwrap_or_default() / 1e3;
    let [held, pending, failed] = ["held", "pending", "failed"].map(|name| plain(fence.get(name)));
    let mut told = format!("{milliseconds:.1} ms: {held} held, {pending} installed, {failed} failed");
    if let Some(taken) = fence["taken"].as_u64().filter(|taken| *taken > 0) {
        let _ = write!(told, ", {taken} taken of other backups");
    }
    for (reason, count) in fence["failures"].as_object().into_iter().flatten() {
        let _ = write!(told, ", {reason} {count}");
    }
    told
}

fn plain(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".into(),
        Some(Value::Number(number)) if number.is_f64() => {
            format!("{:.1}", number.as_f64().unwrap_or_default())
        }
        Some(other) => other.to_string(),
    }
}

fn equal(value: &Value) -> String {
    match value.pointer("/state/equal-for").and_then(Value::as_f64) {
        Some(seconds) => format!("for {seconds:.1} s"),
        None => "no".into(),
    }
}

fn sweep(value: &Value) -> String {
    let age = plain(value.pointer("/state/sweep-age"));
    match value.pointer("/state/swept") {
        Some(Value::Bool(true)) => format!("{age} s ago"),
        _ => format!("not yet, started {age} s ago"),
    }
}

fn waiting(value: &Value) -> String {
    let text = |pointer: &str| plain(value.pointer(pointer));
    let mut line =
        format!("{} for the kernel, {} for the channel", text("/state/pending"), text("/state/unsent"));
    if let Some(seconds) = value.pointer("/state/unsent-for").and_then(Value::as_f64) {
        let _ = write!(line, ", the oldest for {seconds:.3} s");
    }
    match value.pointer("/state/behind").and_then(Value::as_u64) {
        Some(behind) if behind > 0 => {
            let _ = write!(line, ", {behind} datagrams of the owner's stream");
        }
        _ => {}
    }
    line
}

fn refused(value: &Value) -> String {
    let now = plain(value.pointer("/state/failed"));
    let reasons: Vec<String> = value
        .pointer("/state/failures")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|pair| pair[1].as_u64().is_some_and(|count| count > 0))
        .map(|pair| format!("{} {}", plain(pair.get(0)), plain(pair.get(1))))
        .collect();
    if reasons.is_empty() { now } else { format!("{now} now; since start: {}", reasons.join(", ")) }
}

fn tell_peer(peer: &Value) -> String {
    let name = plain(peer.get("name"));
    if peer["alive"] != true {
        // What it said before counts no more.
        return format!(
            "{name}, lost: silent for {:.1} s",
            peer["silent-ms"].as_f64().unwrap_or_default() / 1e3
        );
    }
    let ready = if peer["ready"] == true { "ready" } else { "not ready" };
    let mut line = format!(
        "{name}, alive, {}, heard {} ms ago, {ready}, {} entries",
        tell_seat(plain(peer.get("role")), peer.get("seat")),
        peer["silent-ms"],
        peer["entries"]
    );
    if peer["behind"].as_u64().is_some_and(|behind| behind > 0) {
        let lag = peer["lag-seconds"].as_f64().unwrap_or_default();
        let _ = write!(line, ", behind by {} datagrams, {lag:.3} s", peer["behind"]);
    }
    line
}

/// While one router is upgraded before the other.
fn another_build(peer: &Value, own: Option<&Value>) -> String {
    match peer.pointer("/kernel/build") {
        Some(build) if Some(build) != own && peer["alive"] == true => {
            format!(", version {} (here {})", plain(Some(build)), plain(own))
        }
        _ => String::new(),
    }
}

/// Where two tables differ: one line an entry. `here` and `there` name them.
pub fn differing(here: &str, there: &str, pairs: &[(Option<Row>, Option<Row>)]) -> String {
    let mut out = String::new();
    for (ours, theirs) in pairs {
        let Some(row) = ours.as_ref().or(theirs.as_ref()) else { continue };
        let [from, to] = ends(&row.original);
        let what = match (ours, theirs) {
            (Some(_), None) => format!("only in {here}"),
            (None, Some(_)) => format!("only in {there}"),
            (Some(ours), Some(theirs)) => format!("differs: {}", fields(ours, theirs).join(", ")),
            (None, None) => continue,
        };
        let _ = writeln!(out, "{} {from} {to}: {what}", row.protocol_name);
    }
    out
}

/// Names of the fields that differ, ours and theirs.
fn fields(ours: &Row, theirs: &Row) -> Vec<String> {
    let object = |row: &Row| serde_json::to_value(row.content()).unwrap_or_default();
    let (ours, theirs) = (object(ours), object(theirs));
    let Value::Object(ours) = ours else { return Vec::new() };
    ours.iter()
        .filter(|(name, value)| theirs.get(name.as_str()) != Some(value))
        .map(|(name, value)| {
            format!("{name} {value} here, {} there", theirs.get(name.as_str()).unwrap_or(&Value::Null))
        })
        .collect()
}
