//! Several backups: who of them would carry everything on. One that could be elected and would lose something
//! spoils the verdict; one that cannot be elected, or would first take what it lacks from a fit one, is
//! told beside it.
//!
//! Called by [`super::findings`] and the judge. Pure.

use serde::Serialize;

use super::{Around, Finding, as_owner, finding, nobody_heard};
use crate::replica::view::{PeerView, View};

/// What does no harm in a backup while another one is fit: it is not elected, or takes what it lacks from
/// that one before its fence closes.
const HARMLESS: [&str; 5] =
    ["peer-not-ready", "role-fault", "role-unknown", "role-never-told", "mover-absent"];

/// The other nodes, as an owner judges them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Backups {
    /// So many would carry everything on.
    pub fit: usize,
    /// So many have been heard of since the start, dead ones too.
    pub known: usize,
    /// What is wrong with those that are not fit and do no harm.
    pub unfit: Vec<Finding>,
    /// The fit ones, and how many entries each holds.
    #[serde(skip)]
    pub(super) holders: Vec<(String, u32)>,
}

/// What an owner finds wrong with its backups, and which of them are fit.
pub(super) fn judge(view: &View, around: &Around) -> (Vec<Finding>, Backups) {
    let living: Vec<&PeerView> = view.peers.iter().filter(|peer| peer.alive).collect();
    let mut judged: Vec<(&PeerView, Vec<Finding>)> =
        living.iter().map(|peer| (*peer, as_owner(view, peer, around))).collect();
    let fit = judged.iter().filter(|(_, wrong)| wrong.is_empty());
    let holders: Vec<(String, u32)> = fit.map(|(peer, _)| (peer.name.clone(), peer.entries)).collect();
    let mut backups = Backups { fit: holders.len(), known: view.peers.len(), holders, ..Backups::default() };
    if backups.fit == 0 {
        // What is wrong may only belong to a handover: then they hold what they hold.
        backups.holders = living.iter().map(|peer| (peer.name.clone(), peer.entries)).collect();
        // The fittest would be elected.
        let wrong = judged.into_iter().map(|(_, wrong)| wrong).min_by_key(Vec::len);
        return (wrong.unwrap_or_else(|| vec![nobody_heard(view, around)]), backups);
    }
    judged.retain(|(_, wrong)| !wrong.is_empty());
    let harmless = |wrong: &[Finding]| wrong.iter().all(|finding| HARMLESS.contains(&finding.word));
    let (harmless, harmful): (Vec<_>, Vec<_>) = judged.into_iter().partition(|(_, wrong)| harmless(wrong));
    backups.unfit = harmless.into_iter().flat_map(|(_, wrong)| wrong).collect();
    backups.unfit.extend(view.peers.iter().filter(|peer| !peer.alive).map(|peer| lost(peer, around)));
    (harmful.into_iter().flat_map(|(_, wrong)| wrong).collect(), backups)
}

fn lost(peer: &PeerView, around: &Around) -> Finding {
    finding(
        "peer-lost",
        format!("{} is not heard for {:.0} s", peer.name, peer.silent_ms as f64 / 1e3),
        format!(
            "is it up, does ctsync run there, does its cable carry? The channel is {}; one that is gone for good is \
             forgotten when ctsync is started again",
            around.channel_at
        ),
    )
}

impl Backups {
    /// Whether a node would carry everything on.
    pub fn is_fit(&self, name: &str) -> bool {
        self.fit > 0 && self.holders.iter().any(|(holder, _)| holder == name)
    }

    /// Who holds what, in the verdict's line.
    pub(super) fn line(&self) -> String {
        let one = self.holders.first();
        match (self.fit, self.known) {
            (0, _) | (1, 0 | 1) => one.map_or_else(String::new, |(name, entries)| {
                format!("protected: {name} holds {entries} entries")
            }),
            (fit, known) if fit == known => {
                let least = self.holders.iter().map(|(_, entries)| *entries).min().unwrap_or(0);
                format!("protected: {fit} of {known} backups hold {least} entries")
            }
            (fit, known) => {
                let holders: Vec<String> = self
                    .holders
                    .iter()
                    .map(|(name, entries)| format!("{name} holds {entries} entries"))
                    .collect();
                format!("protected by {fit} of {known} backups: {}", holders.join(", "))
            }
        }
    }
}
