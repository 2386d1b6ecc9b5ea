//! The budgets of design section 12 (docs/performance.md): ratios within one run, or numbers; what must be
//! reached, and what is aimed at.

use serde_json::{Value, json};

use super::figures::Figures;
use super::stories::{self, TAKEOVERS, takeover_row};
use super::subject::Subject;
use super::{bulk, elsewhere, repair};

/// A budget: one figure against another one of the same run, or against a number.
struct Budget {
    what: String,
    of: (String, Subject),
    against: Option<(String, Subject)>,
    must: f64,
    aim: f64,
}

/// A budget, measured.
pub(super) struct Judged {
    what: String,
    measured: f64,
    must: f64,
    aim: f64,
}

impl Judged {
    fn verdict(&self) -> &'static str {
        // More is better where the aim is above what must be.
        let reached = |bound: f64| {
            if self.aim <= self.must { self.measured <= bound } else { self.measured >= bound }
        };
        match (reached(self.aim), reached(self.must)) {
            (true, _) => "aim reached",
            (false, true) => "reached",
            (false, false) => "MISSED",
        }
    }

    /// What, measured, must, aim, verdict.
    pub(super) fn cells(&self) -> [String; 5] {
        let number = |value: f64| if value.is_finite() { format!("{value:.2}") } else { "-".to_owned() };
        let numbers = [self.measured, self.must, self.aim].map(number);
        let [measured, must, aim] = numbers;
        [self.what.clone(), measured, must, aim, self.verdict().to_owned()]
    }

    pub(super) fn json(&self) -> Value {
        json!({ "what": self.what, "measured": self.measured, "must": self.must, "aim": self.aim, "verdict": self.verdict() })
    }
}

fn at(row: &str, subject: Subject) -> (String, Subject) {
    (row.to_owned(), subject)
}

fn ratio(what: &str, of: (String, Subject), against: (String, Subject), must: f64, aim: f64) -> Budget {
    Budget { what: what.to_owned(), of, against: Some(against), must, aim }
}

fn number(what: &str, of: (String, Subject), must: f64, aim: f64) -> Budget {
    Budget { what: what.to_owned(), of, against: None, must, aim }
}

/// What a change costs, against what it cannot do without.
fn of_work() -> Vec<Budget> {
    let [small, large] = bulk::ends("owner");
    let [small_backup, large_backup] = bulk::ends("backup");
    vec![
        ratio(
            "CPU per event on the owner, against the napping reader",
            at("create: owner, us/event", Subject::CtsyncCold),
            at("create: owner, us/event", Subject::NullNapping),
            2.5,
            1.6,
        ),
        ratio(
            "CPU per change on a cold backup, against conntrackd",
            at("create: backup, us/event", Subject::CtsyncCold),
            at("create: backup, us/event", Subject::Ftfw),
            0.5,
            0.33,
        ),
        ratio(
            "CPU per change on a hot backup at 20k/s, its owner elsewhere, against conntrackd without cache",
            at(elsewhere::PACED_ROW, Subject::Ctsync),
            at("20k/s: backup, us/event", Subject::FtfwInject),
            0.5,
            0.33,
        ),
        ratio(
            "CPU per event on the owner with a sealed channel, against without",
            at("create: owner, us/event", Subject::CtsyncKey),
            at("create: owner, us/event", Subject::CtsyncCold),
            1.15,
            1.05,
        ),
        ratio(
            "new UDP flows a second, against a null reader",
            at("new flows: k/s", Subject::Ctsync),
            at("new flows: k/s", Subject::NullWoken),
            45.0 / 58.0,
            52.0 / 58.0,
        ),
        ratio(
            "CPU per event on the owner, beside 2000000 entries against 10000",
            (large, Subject::CtsyncCold),
            (small, Subject::CtsyncCold),
            1.2,
            1.0,
        ),
        ratio(
            "CPU per event on a cold backup, beside 2000000 entries against 10000",
            (large_backup, Subject::CtsyncCold),
            (small_backup, Subject::CtsyncCold),
            1.2,
            1.0,
        ),
    ]
}

/// Bytes, and what does not fit.
fn of_size() -> Vec<Budget> {
    vec![
        number("events lost at full rate, 64 MB", at("create: events lost", Subject::CtsyncCold), 0.0, 0.0),
        number(
            "events lost at full rate, 8 MB",
            at("8 MB of events: events lost", Subject::CtsyncCold),
            f64::INFINITY,
            0.0,
        ),
        number(
            "memory per entry, owner, bytes",
            at("create: owner, bytes/entry", Subject::CtsyncCold),
            176.0,
            112.0,
        ),
        number(
            "memory per entry, backup, bytes",
            at("create: backup, bytes/entry", Subject::CtsyncCold),
            176.0,
            112.0,
        ),
        number(
            "bytes on the wire per change",
            at("update: wire, bytes/event", Subject::CtsyncCold),
            45.0,
            32.0,
        ),
    ]
}

/// How soon it is done.
fn of_time() -> Vec<Budget> {
    vec![
        number(
            "500000 entries to an empty cold peer's table, s",
            at("500000 to an empty peer's table, s", Subject::CtsyncCold),
            0.7,
            0.6,
        ),
        ratio(
            "500000 entries to an empty peer's kernel, its owner elsewhere, against batched creates",
            at(elsewhere::WHOLE_ROW, Subject::Ctsync),
            at("limit: creates in batches, k/s", Subject::Nobody),
            0.85,
            0.9,
        ),
        number(
            "repair of 100 differences between tables of 500000, s",
            at(repair::TABLES_SECONDS, Subject::Ctsync),
            1.0,
            1.0,
        ),
        number(
            "repair of 100 differences between tables of 500000, kB",
            at(repair::TABLES_BYTES, Subject::Ctsync),
            200.0,
            50.0,
        ),
        number(
            "equal after the owner's daemon was killed under churn and restarted, s",
            at(stories::KILLED_ROW, Subject::Ctsync),
            2.0,
            1.0,
        ),
        number(
            "longest gap of 500 TCP connections beside 200000 entries, adverts each 0.1 s, s",
            at(stories::GAP_ROW, Subject::Ctsync),
            0.9,
            // The aim is that the fence adds nothing: the gap's parts are rows of their own.
            f64::NEG_INFINITY,
        ),
        number(
            "change in the peer's kernel, idle, p99, ms",
            at("latency idle: p99, ms", Subject::Ctsync),
            1.0,
            0.3,
        ),
        number(
            "change in the peer's kernel, 20k/s, p99, ms",
            at("latency 20k/s: p99, ms", Subject::Ctsync),
            2.0,
            0.5,
        ),
        number(
            "change in the peer's kernel, 60k/s, p99, ms",
            at("latency 60k/s: p99, ms", Subject::Ctsync),
            10.0,
            2.0,
        ),
    ]
}

fn budgets() -> Vec<Budget> {
    let takeovers = TAKEOVERS.map(|entries| {
        let row = takeover_row(entries);
        number(&row, at(&row, Subject::Ctsync), 100.0, 10.0)
    });
    [of_work(), of_size(), of_time()].into_iter().flatten().chain(takeovers).collect()
}

/// Those that this run has figures for.
pub(super) fn judge(figures: &Figures) -> Vec<Judged> {
    let judged = |budget: Budget| {
        let of = figures.median(&budget.of.0, budget.of.1)?;
        let measured = match &budget.against {
            Some((row, subject)) => of / figures.median(row, *subject)?,
            None => of,
        };
        Some(Judged { what: budget.what, measured, must: budget.must, aim: budget.aim })
    };
    budgets().into_iter().filter_map(judged).collect()
}
