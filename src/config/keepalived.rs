//! keepalived's side of the `vrrp` mechanism: the fragments to write, and whether a configuration has them.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use super::mistake::{MachineMistake, nearest};
use super::{Config, Mechanism, Subject};

/// The fragments that keepalived.conf needs, or `None` when no group's mechanism is `vrrp`.
pub fn fragments(config: &Config) -> Option<String> {
    let fifo = config.notify_fifo()?.display();
    let mut groups = String::new();
    for (number, (_, mechanism)) in config.mechanisms().enumerate() {
        let Mechanism::Vrrp { subject, track_file, .. } = mechanism else { continue };
        let tracker = if number == 0 { "ctsync".to_owned() } else { format!("ctsync_{}", subject.name()) };
        let _ = write!(
            groups,
            "\ntrack_file {tracker} {{\n    file {}\n    weight 1\n}}\n",
            track_file.display()
        );
        let tracks = format!("    track_file {{\n        {tracker} weight 1\n    }}\n}}\n");
        groups += &match subject {
            Subject::SyncGroup(name) => format!(
                "\n# Into your vrrp_sync_group {name}, beside its `group {{ ... }}`:\n\
                 vrrp_sync_group {name} {{\n    \
                 # Without it keepalived ignores the weight in a sync group and goes to FAULT.\n    \
                 sync_group_tracking_weight\n{tracks}"
            ),
            Subject::Instance(name) => {
                format!("\n# Into your vrrp_instance {name}:\nvrrp_instance {name} {{\n{tracks}")
            }
        };
    }
    Some(format!(
        "global_defs {{\n    vrrp_notify_fifo {fifo}\n    \
         # Without it a reload of keepalived tells nobody which role it has.\n    \
         fifo_write_vrrp_states_on_reload\n}}\n{groups}"
    ))
}

/// A statement: its words, and what its braces hold.
struct Statement {
    words: Vec<String>,
    below: Vec<Statement>,
}

/// keepalived's own default.
pub const KEEPALIVED_CONF: &str = "/etc/keepalived/keepalived.conf";

/// The virtual addresses that a keepalived configuration moves for a group; none when it does not name the
/// group.
pub fn virtual_addresses(subject: &Subject, text: &str) -> Vec<IpAddr> {
    let statements = parse(text);
    let named = |name: &'static str| statements.iter().filter(move |statement| word(statement, 0) == name);
    let members: Vec<&str> = match subject {
        Subject::Instance(name) => vec![name],
        Subject::SyncGroup(name) => named("vrrp_sync_group")
            .filter(|group| word(group, 1) == name)
            .flat_map(|group| &group.below)
            .filter(|line| word(line, 0) == "group")
            .flat_map(|line| &line.below)
            .flat_map(|line| line.words.iter().map(String::as_str))
            .collect(),
    };
    let lists = ["virtual_ipaddress", "virtual_ipaddress_excluded"];
    let mut all: Vec<IpAddr> = named("vrrp_instance")
        .filter(|instance| members.contains(&word(instance, 1)))
        .flat_map(|instance| &instance.below)
        .filter(|list| lists.contains(&word(list, 0)))
        .flat_map(|list| &list.below)
        .filter_map(|line| word(line, 0).split('/').next()?.parse().ok())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What a keepalived configuration lacks for a group, in sentences; nothing is said of one that is read in
/// parts.
pub fn keepalived_remarks(mechanism: &Mechanism, file: &Path, text: &str) -> Vec<String> {
    if parse(text).iter().any(|statement| word(statement, 0).starts_with("include")) {
        return Vec::new();
    }
    check(mechanism, file, text).into_iter().map(|(_, mistake)| mistake.to_string()).collect()
}

/// What is missing in a keepalived configuration, and where below the mechanism's place that is written.
pub(super) fn check(mechanism: &Mechanism, file: &Path, text: &str) -> Vec<(&'static str, MachineMistake)> {
    let Mechanism::Vrrp { subject, notify_fifo, track_file, .. } = mechanism else { return Vec::new() };
    let statements = parse(text);
    let named = |name: &'static str| statements.iter().filter(move |statement| word(statement, 0) == name);
    let (keyword, kind, at) = match subject {
        Subject::SyncGroup(_) => ("vrrp_sync_group", "sync-group", "/vrrp/sync-group"),
        Subject::Instance(_) => ("vrrp_instance", "instance", "/vrrp/instance"),
    };
    let found: Vec<&Statement> = named(keyword).collect();
    let name = subject.name();
    let Some(statement) = found.iter().find(|statement| word(statement, 1) == name) else {
        let nearest = nearest(name, found.iter().map(|statement| word(statement, 1)));
        let file = file.to_owned();
        return vec![(
            at,
            MachineMistake::SyncGroupMissing { group: format!("{kind} {name}"), file, nearest },
        )];
    };
    let mut missing = Vec::new();
    let fifos: Vec<&str> = named("global_defs")
        .flat_map(|defs| &defs.below)
        .filter(|line| word(line, 0) == "vrrp_notify_fifo")
        .map(|line| word(line, 1))
        .collect();
    if !fifos.iter().any(|fifo| Path::new(fifo) == notify_fifo) {
        let found = fifos
            .first()
            .map_or("no vrrp_notify_fifo".to_owned(), |fifo| format!("`vrrp_notify_fifo {fifo}`"));
        let mistake =
            MachineMistake::NotifyFifo { file: file.to_owned(), found, expected: notify_fifo.clone() };
        missing.push(("/vrrp/notify-fifo", mistake));
    }
    let tells_on_reload = named("global_defs")
        .flat_map(|defs| &defs.below)
        .any(|line| word(line, 0) == "fifo_write_vrrp_states_on_reload");
    if !tells_on_reload {
        missing.push(("/vrrp", MachineMistake::StatesOnReload { file: file.to_owned() }));
    }
    let member = |instance: &Statement| match subject {
        Subject::Instance(name) => word(instance, 1) == name,
        Subject::SyncGroup(_) => statement
            .below
            .iter()
            .filter(|line| word(line, 0) == "group")
            .flat_map(|line| &line.below)
            .any(|line| line.words.iter().any(|name| name == word(instance, 1))),
    };
    let highest = |instance: &&Statement| {
        instance.below.iter().any(|line| word(line, 0) == "priority" && word(line, 1) == "255")
    };
    for instance in named("vrrp_instance").filter(|instance| member(instance)).filter(highest) {
        let (file, instance) = (file.to_owned(), word(instance, 1).to_owned());
        missing.push(("/vrrp", MachineMistake::HighestPriority { file, instance }));
    }
    // What it was called before 2.0.20.
    let trackers = named("track_file").chain(named("vrrp_track_file"));
    if !tracks(statement, trackers, track_file) {
        let (file, group, expected) = (file.to_owned(), format!("{kind} {name}"), track_file.clone());
        missing.push(("/vrrp/track-file", MachineMistake::TrackFile { file, group, expected }));
    }
    let weighs = statement.below.iter().any(|line| word(line, 0) == "sync_group_tracking_weight");
    if matches!(subject, Subject::SyncGroup(_)) && !weighs {
        let (file, group) = (file.to_owned(), name.to_owned());
        missing.push((at, MachineMistake::TrackingWeight { file, group }));
    }
    missing
}

/// Whether a group or an instance tracks the file, by the name of one of these statements.
fn tracks<'a>(statement: &Statement, trackers: impl Iterator<Item = &'a Statement>, file: &Path) -> bool {
    let of_file = |tracker: &&Statement| {
        tracker.below.iter().any(|line| word(line, 0) == "file" && Path::new(word(line, 1)) == file)
    };
    let names: Vec<&str> = trackers.filter(of_file).map(|tracker| word(tracker, 1)).collect();
    let tracking = statement.below.iter().filter(|line| word(line, 0) == "track_file");
    tracking.flat_map(|line| &line.below).any(|line| names.contains(&word(line, 0)))
}

fn word(statement: &Statement, at: usize) -> &str {
    statement.words.get(at).map_or("", String::as_str)
}

/// keepalived.conf(5): a statement a line, `!` and `#` begin comments, braces hold statements.
fn parse(text: &str) -> Vec<Statement> {
    let mut stack: Vec<Vec<Statement>> = vec![Vec::new()];
    for line in text.lines() {
        let line = line.split(['#', '!']).next().unwrap_or_default();
        let line = line.replace('{', " { ").replace('}', " } ");
        let mut words: Vec<String> = Vec::new();
        for token in line.split_whitespace() {
            match token {
                "{" => {
                    if words.is_empty() {
                        // A brace on a line of its own belongs to the statement before.
                        words = stack.last_mut().and_then(Vec::pop).map_or(Vec::new(), |before| before.words);
                    }
                    let statement = Statement { words: std::mem::take(&mut words), below: Vec::new() };
                    if let Some(level) = stack.last_mut() {
                        level.push(statement);
                    }
                    stack.push(Vec::new());
                }
                "}" => {
                    finish(&mut stack, &mut words);
                    if stack.len() > 1 {
                        let below = stack.pop().unwrap_or_default();
                        if let Some(statement) = stack.last_mut().and_then(|level| level.last_mut()) {
                            statement.below = below;
                        }
                    }
                }
                word => words.push(word.trim_matches('"').to_owned()),
            }
        }
        finish(&mut stack, &mut words);
    }
    stack.into_iter().next().unwrap_or_default()
}

fn finish(stack: &mut [Vec<Statement>], words: &mut Vec<String>) {
    if !words.is_empty()
        && let Some(level) = stack.last_mut()
    {
        level.push(Statement { words: std::mem::take(words), below: Vec::new() });
    }
}
