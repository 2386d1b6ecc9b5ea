//! The wider views: what the documented ones leave out.

use comfy_table::{ContentArrangement, Table, presets};

use super::ends;
use crate::engine::replica::{Cache, Verb};
use crate::faces::rows::Row;

/// Entries of the kernel's table, or of a cache (`held`: with age, owner and whether they are installed). The
/// reply direction stands below the original one where it is not simply its reverse. Nothing is folded or
/// cut: four whole IPv6 addresses with ports fit into 160 columns, IPv4 into 120.
pub fn wide(rows: &[Row], held: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let mut header = vec!["Source", "Destination", "Proto", "State", "NAT", "Timeout", "Mark", "Zone"];
    if held {
        header.extend(["Age", "Owner", "Installed"]);
    } else {
        header.insert(0, "Id");
    }
    table.set_header(header);
    for row in rows {
        table.add_row(cells(row, held));
    }
    table.column_iter_mut().for_each(|column| _ = column.set_padding((0, 1)));
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn cells(row: &Row, held: bool) -> Vec<String> {
    let number = |number: Option<u32>| number.map_or(String::new(), |number| number.to_string());
    let ([mut from, mut to], [reply_from, reply_to]) = (ends(&row.original), ends(&row.reply));
    if row.source_nat || row.destination_nat {
        from += &format!("\n{reply_from}");
        to += &format!("\n{reply_to}");
    }
    let protocol =
        if row.protocol_name.is_empty() { row.protocol.to_string() } else { row.protocol_name.clone() };
    let mut cells = vec![from, to, protocol];
    cells.push(state(row));
    cells.push(nat(row).to_owned());
    cells.extend([number(row.timeout), number(row.mark), row.zone.to_string()]);
    if held {
        let known = row.held.as_ref();
        cells.push(known.map_or(String::new(), |held| held.age.to_string()));
        cells.push(known.and_then(|held| held.owner.clone()).unwrap_or_default());
        cells.push(known.map_or(String::new(), |held| match (&held.failure, held.installed) {
            (Some(reason), _) => reason.clone(),
            (None, true) => "yes".to_owned(),
            (None, false) => "no".to_owned(),
        }));
    } else {
        cells.insert(0, number(row.id));
    }
    cells
}

/// TCP's state, else what packets were seen.
fn state(row: &Row) -> String {
    match &row.state {
        _ if row.expectation.is_some() => "EXPECTED".into(),
        Some(state) => state.clone(),
        None if row.assured => "ASSURED".into(),
        None if !row.seen_reply => "UNREPLIED".into(),
        None => String::new(),
    }
}

fn nat(row: &Row) -> &'static str {
    match (row.source_nat, row.destination_nat) {
        (true, true) => "both",
        (true, false) => "src",
        (false, true) => "dst",
        (false, false) => "",
    }
}

/// A line of `ctsync events`.
pub fn change(when: &str, cache: Cache, verb: Verb, row: &Row) -> String {
    let [from, to] = ends(&row.original);
    let [reply_from, reply_to] = ends(&row.reply);
    let cache = match cache {
        Cache::Internal => "internal",
        Cache::External => "external",
    };
    let verb = match verb {
        Verb::New => "new",
        Verb::Update => "update",
        Verb::Destroy => "destroy",
    };
    let mut line = format!("{when} {cache} {verb:<7} {} {from} {to}", row.protocol_name);
    if row.source_nat || row.destination_nat {
        line += &format!(" reply {reply_from} {reply_to}");
    }
    let state = state(row);
    if !state.is_empty() {
        line += &format!(" {state}");
    }
    line + "\n"
}
