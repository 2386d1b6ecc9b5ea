//! What was measured: each figure of each round, by row and subject; medians and spread.
//!
//! Called by the loads, which note, and by `budget` and `report`, which tell.

use std::collections::BTreeMap;

use super::subject::Subject;

/// All rounds of one figure.
#[derive(Default)]
pub(super) struct Series(pub Vec<f64>);

impl Series {
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The least and the most.
    pub(super) fn spread(&self) -> [f64; 2] {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        [least, most]
    }
}

/// The figures, rows in the order in which they came.
#[derive(Default)]
pub(super) struct Figures {
    pub rows: Vec<String>,
    pub all: BTreeMap<(String, Subject), Series>,
}

impl Figures {
    pub(super) fn note(&mut self, subject: Subject, row: impl Into<String>, value: f64) {
        let row = row.into();
        if !self.rows.contains(&row) {
            self.rows.push(row.clone());
        }
        self.all.entry((row, subject)).or_default().0.push(value);
    }

    pub(super) fn get(&self, row: &str, subject: Subject) -> Option<&Series> {
        self.all.get(&(row.to_owned(), subject))
    }

    pub(super) fn median(&self, row: &str, subject: Subject) -> Option<f64> {
        self.get(row, subject).map(Series::median)
    }

    /// Who has been measured at all.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        let mut subjects: Vec<Subject> = self.all.keys().map(|(_, subject)| *subject).collect();
        subjects.sort_unstable();
        subjects.dedup();
        subjects
    }
}
