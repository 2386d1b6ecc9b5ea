//! From what is wrong at this moment to what is told: an alarm at once, what belongs to every handover after
//! its patience, the all-clear with patience.
//!
//! Called by the daemon, a judge for each failover group. No clock: the moment comes in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Around, Backups, Finding, judged};
use crate::replica::view::View;

/// The last alarm is over when it has not been seen for so long.
const ALL_CLEAR: Duration = Duration::from_secs(1);

/// Would a failover lose something, as it is told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Verdict {
    /// One line.
    pub verdict: String,
    /// A failover now would lose nothing, as far as the nodes together can know.
    pub protected: bool,
    /// What is wrong, longest first.
    pub reasons: Vec<Reason>,
    /// An owner's backups: which of them would carry everything on.
    pub backups: Backups,
}

/// A finding that counts, and since when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reason {
    /// What.
    #[serde(flatten)]
    pub finding: Finding,
    /// For how many seconds.
    pub seconds: u64,
}

/// Since when a finding has been there, and when it was last.
struct Seen {
    finding: Finding,
    first: Instant,
    last: Instant,
}

/// Remembers findings: patient with what belongs to a handover, at once with an alarm, slow with the
/// all-clear.
#[derive(Default)]
pub struct Judge {
    seen: BTreeMap<(&'static str, String), Seen>,
}

impl Judge {
    /// Judge a group at this moment.
    pub fn judge(&mut self, view: &View, around: &Around, now: Instant) -> Verdict {
        let (findings, backups) = judged(view, around);
        for finding in findings {
            // Another number in the same sentence is no news.
            let kind = finding.what.replace(|letter: char| letter.is_ascii_digit() || letter == '.', "");
            let seen = self.seen.entry((finding.word, kind)).or_insert_with(|| Seen {
                finding: finding.clone(),
                first: now,
                last: now,
            });
            seen.last = now;
            seen.finding = finding;
        }
        // What has not come of age yet is forgotten when it goes; an alarm stays until it has been over for a
        // while.
        self.seen.retain(|_, seen| {
            let alarmed = seen.last >= seen.first + seen.finding.patience;
            seen.last == now || (alarmed && now < seen.last + ALL_CLEAR)
        });
        let alarmed = |seen: &Seen| seen.last >= seen.first + seen.finding.patience;
        // An alarm that is over only delays the all-clear: beside one that is not, it would mislead.
        if self.seen.values().any(|seen| alarmed(seen) && seen.last == now) {
            self.seen.retain(|_, seen| seen.last == now);
        }
        let mut counting: Vec<&Seen> = self.seen.values().filter(|seen| alarmed(seen)).collect();
        counting.sort_by_key(|seen| seen.first);
        let reasons: Vec<Reason> = counting
            .into_iter()
            .map(|seen| Reason {
                finding: seen.finding.clone(),
                seconds: now.saturating_duration_since(seen.first).as_secs(),
            })
            .collect();
        Verdict { verdict: line(view, &reasons, &backups), protected: reasons.is_empty(), reasons, backups }
    }
}

/// The verdict in one line.
fn line(view: &View, reasons: &[Reason], backups: &Backups) -> String {
    let whats: Vec<&str> = reasons.iter().map(|reason| reason.finding.what.as_str()).collect();
    match reasons {
        [] if view.owner => backups.line(),
        [] => format!("ready to take over {} entries", view.external),
        [only] if only.finding.word == "not-ready" => only.finding.what.clone(),
        [only] if only.finding.word == "entries-refused" => format!("degraded: {}", only.finding.what),
        _ => format!("NOT protected: {}", whats.join("; ")),
    }
}
