//! The longest silence of a client when router1 loses power, many times over, beside many entries: VRRP's
//! detection, the fence, TCP's back-off.
//!
//! Called as `soak gap`. Each takeover is a telling of the demo in a process of its own.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use crate::machine::wait::now;
use crate::scenario::demo::PARTS;
use crate::story::retold::demo;

/// So many takeovers; a line each, and the median and the worst of every part.
pub(crate) fn run(runs: u32, connections: usize, entries: u32) -> Result<ExitCode> {
    let (connections, entries) = (connections.to_string(), entries.to_string());
    let plot = [
        "--fault",
        "power",
        "--advert",
        "0.1",
        "--connections",
        &connections,
        "--entries",
        &entries,
        "--no-return",
    ];
    let began = now();
    let (mut dead, mut failed) = (0, 0);
    let mut all: [Vec<f64>; 4] = Default::default();
    for number in 1..=runs {
        match demo(&plot) {
            Ok(facts) => {
                let lost = count(&facts, "before").saturating_sub(count(&facts, "alive"));
                dead += lost;
                failed += u32::from(facts["good"] != true);
                let mut line = format!("{number:>3}  dead {lost}");
                for ((name, word, a_second), values) in PARTS.iter().zip(&mut all) {
                    let value = facts[*name].as_f64().unwrap_or(f64::NAN) / a_second;
                    line += &format!("  {word} {value:.5} s");
                    values.push(value);
                }
                println!("{line}");
            }
            Err(error) => {
                failed += 1;
                println!("{number:>3}  FAILED: {error:#}");
            }
        }
    }
    println!("\n{:<10} {:>10} {:>10}", "seconds", "median", "worst");
    for ((_, word, _), values) in PARTS.iter().zip(&mut all) {
        values.sort_by(f64::total_cmp);
        let median = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
        println!("{word:<10} {median:>10.5} {:>10.5}", values.last().copied().unwrap_or(f64::NAN));
    }
    println!("{runs} takeovers in {:.0} s: {dead} dead, {failed} failed", began.elapsed().as_secs_f64());
    Ok(if dead == 0 && failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn count(facts: &Value, name: &str) -> u64 {
    facts[name].as_u64().unwrap_or(0)
}
