//! keepalived's side of the `vrrp` mechanism: the fragments to write, and whether a configuration has them.

use std::path::{Path, PathBuf};

use super::mistake::{Mistake, nearest};
use super::{Config, Mechanism};

/// The three fragments that keepalived.conf needs, or `None` when the mechanism is another.
pub fn fragments(config: &Config) -> Option<String> {
    let Mechanism::Vrrp { sync_group, notify_fifo, track_file, .. } = &config.mechanism else { return None };
    let (fifo, track) = (notify_fifo.display(), track_file.display());
    Some(format!(
        "global_defs {{\n    vrrp_notify_fifo {fifo}\n}}\n\n\
         vrrp_track_file ctsync {{\n    file {track}\n    weight 1\n}}\n\n\
         # Into your vrrp_sync_group {sync_group}, beside its `group {{ ... }}`:\n\
         vrrp_sync_group {sync_group} {{\n    \
         # Without it keepalived ignores the weight in a sync group and goes to FAULT.\n    \
         sync_group_tracking_weight\n    track_file {{\n        ctsync weight 1\n    }}\n}}\n"
    ))
}

/// A statement: its words, and what its braces hold.
struct Statement {
    words: Vec<String>,
    below: Vec<Statement>,
}

/// What is missing in a keepalived configuration, if the mechanism is `vrrp`.
pub(super) fn check(config: &Config, file: &Path, text: &str) -> Vec<(&'static str, Mistake)> {
    let Mechanism::Vrrp { sync_group, notify_fifo, track_file, .. } = &config.mechanism else {
        return Vec::new();
    };
    const GROUP: &str = "/failover-mechanism/vrrp/sync-group";
    let statements = parse(text);
    let named = |name: &'static str| statements.iter().filter(move |statement| word(statement, 0) == name);
    let groups: Vec<&Statement> = named("vrrp_sync_group").collect();
    let Some(group) = groups.iter().find(|group| word(group, 1) == sync_group) else {
        let nearest = nearest(sync_group, groups.iter().map(|group| word(group, 1)));
        let mistake = Mistake::SyncGroupMissing { group: sync_group.clone(), file: file.to_owned(), nearest };
        return vec![(GROUP, mistake)];
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
        let mistake = Mistake::NotifyFifo { file: file.to_owned(), found, expected: notify_fifo.clone() };
        missing.push(("/failover-mechanism/vrrp/notify-fifo", mistake));
    }
    let tracked: Vec<&str> = named("vrrp_track_file")
        .filter(|tracker| {
            tracker.below.iter().any(|line| word(line, 0) == "file" && Path::new(word(line, 1)) == track_file)
        })
        .map(|tracker| word(tracker, 1))
        .collect();
    let tracks = group
        .below
        .iter()
        .filter(|line| word(line, 0) == "track_file")
        .flat_map(|line| &line.below)
        .any(|line| tracked.contains(&word(line, 0)));
    if !tracks {
        let (file, group, expected) = (file.to_owned(), sync_group.clone(), track_file.clone());
        missing.push(("/failover-mechanism/vrrp/track-file", Mistake::TrackFile { file, group, expected }));
    }
    if !group.below.iter().any(|line| word(line, 0) == "sync_group_tracking_weight") {
        let (file, group): (PathBuf, String) = (file.to_owned(), sync_group.clone());
        missing.push((GROUP, Mistake::TrackingWeight { file, group }));
    }
    missing
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
