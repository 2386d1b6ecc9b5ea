//! What has happened in a simulation, so that a world in which nothing happens does not pass.

/// How much of everything happened.
#[derive(Default, Debug, Clone)]
pub(crate) struct Totals {
    pub opened: u64,
    pub ended: u64,
    pub takeovers: u64,
    pub restarts: u64,
    pub powers: u64,
    pub overruns: u64,
    pub partitions: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub repairs: u64,
    pub yields: u64,
    pub offers: u64,
    /// Offers of what had ended, refused.
    pub ended_offers: u64,
    /// Claims followed that covered what was here.
    pub covered: u64,
    /// Lower claims followed.
    pub fallbacks: u64,
    /// Fences closed after something was taken of a backup that was ahead.
    pub caught_up: u64,
    pub strays: u64,
    pub foreseen: u64,
    pub resets: u64,
    pub corrupted: u64,
    pub replayed: u64,
    pub comparisons: u64,
    pub clock_jumps: u64,
    pub full: u64,
    pub unheard: u64,
    /// Datagrams heard between requests and their answers.
    pub meanwhile: u64,
    pub tampered: u64,
    pub quiet: u64,
    pub checks: u64,
    /// Milliseconds from the end of the faults to agreement, of each quiet point.
    pub settled: Vec<u32>,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Totals) {
        for (total, more) in self.all_mut().into_iter().zip(other.clone().all_mut()) {
            *total += *more;
        }
        self.settled.extend(&other.settled);
    }

    /// The worst and the middle time to agreement, in milliseconds.
    pub(crate) fn time_to_agreement(&mut self) -> (u32, u32) {
        self.settled.sort_unstable();
        let middle = self.settled.get(self.settled.len() / 2).copied().unwrap_or(0);
        (self.settled.last().copied().unwrap_or(0), middle)
    }

    fn all_mut(&mut self) -> [&mut u64; 29] {
        [
            &mut self.opened,
            &mut self.ended,
            &mut self.takeovers,
            &mut self.restarts,
            &mut self.powers,
            &mut self.overruns,
            &mut self.partitions,
            &mut self.lost,
            &mut self.duplicated,
            &mut self.repairs,
            &mut self.yields,
            &mut self.offers,
            &mut self.ended_offers,
            &mut self.covered,
            &mut self.fallbacks,
            &mut self.caught_up,
            &mut self.strays,
            &mut self.foreseen,
            &mut self.resets,
            &mut self.corrupted,
            &mut self.replayed,
            &mut self.comparisons,
            &mut self.clock_jumps,
            &mut self.full,
            &mut self.unheard,
            &mut self.meanwhile,
            &mut self.tampered,
            &mut self.quiet,
            &mut self.checks,
        ]
    }
}
