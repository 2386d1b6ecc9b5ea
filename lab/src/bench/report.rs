//! The figures for people and for programs: a table, JSON, a page with plots.

use std::fmt::Write;

use anyhow::{Context, Result};
use plotters::prelude::*;
use serde_json::{Value, json};

use super::budget::Judged;
use super::figures::Figures;

/// Pixels of a plot.
const WIDTH: u32 = 720;
const LINE: u32 = 26;
const NAMES: i32 = 170;

/// Medians, least and most; then the budgets.
pub(super) fn text(figures: &Figures, judged: &[Judged]) -> String {
    let subjects = figures.subjects();
    let mut text = format!("{:<42}", "median (least to most)");
    for subject in &subjects {
        let _ = write!(text, " {:>22}", subject.name());
    }
    text.push('\n');
    for row in &figures.rows {
        let _ = write!(text, "{row:<42}");
        for subject in &subjects {
            let cell = figures.get(row, *subject).map_or(String::new(), |series| {
                let [least, most] = series.spread();
                format!("{:.2} ({least:.2}-{most:.2})", series.median())
            });
            let _ = write!(text, " {cell:>22}");
        }
        text.push('\n');
    }
    let _ = writeln!(text, "\n{:<76} {:>9} {:>9} {:>9}", "budget", "measured", "must", "aim");
    for [what, measured, must, aim, verdict] in judged.iter().map(Judged::cells) {
        let _ = writeln!(text, "{what:<76} {measured:>9} {must:>9} {aim:>9}  {verdict}");
    }
    text
}

pub(super) fn json(figures: &Figures, judged: &[Judged]) -> Value {
    let series = figures.all.iter();
    let rows: Vec<Value> = series
        .map(|((row, subject), series)| {
            json!({ "row": row, "subject": subject.name(), "median": series.median(), "rounds": series.0 })
        })
        .collect();
    let budgets: Vec<Value> = judged.iter().map(Judged::json).collect();
    json!({ "figures": rows, "budgets": budgets })
}

/// A page that needs nothing beside it: the budgets, and a plot for each row.
pub(super) fn html(figures: &Figures, judged: &[Judged]) -> Result<String> {
    let mut page = String::from(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>ctsync bench</title>\n<style>body { font: 15px sans-serif; \
         margin: 2em; } td, th { padding: 2px 12px; text-align: right; } td:first-child { text-align: left; } \
         .MISSED { color: #b00; font-weight: bold; }</style>\n<h1>ctsync bench</h1>\n<p>Medians; the thin line is from the \
         least to the most. Times are this machine's: compare within a plot.</p>\n<table>\n<tr><th>budget<th>measured<th>must\
         <th>aim<th></tr>\n",
    );
    for [what, measured, must, aim, verdict] in judged.iter().map(Judged::cells) {
        let _ = writeln!(
            page,
            "<tr class=\"{verdict}\"><td>{what}<td>{measured}<td>{must}<td>{aim}<td>{verdict}</tr>"
        );
    }
    page += "</table>\n";
    for row in &figures.rows {
        let _ = write!(page, "<h3>{row}</h3>\n{}\n", plot(figures, row)?);
    }
    Ok(page)
}

/// A bar for each subject.
fn plot(figures: &Figures, row: &str) -> Result<String> {
    let subjects = figures.subjects().into_iter();
    let bars: Vec<_> =
        subjects.filter_map(|subject| Some((subject.name(), figures.get(row, subject)?))).collect();
    let most = bars.iter().map(|(_, series)| series.spread()[1]).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = String::new();
    let height = LINE * u32::try_from(bars.len())?;
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let font = ("sans-serif", 13).into_font();
        let width = f64::from(WIDTH) - f64::from(NAMES) - 90.0;
        #[expect(clippy::cast_possible_truncation, reason = "a place within some hundred pixels")]
        let place = |value: f64| NAMES + (value / most * width).round().max(0.0) as i32;
        for (at, (name, series)) in bars.iter().enumerate() {
            let top = i32::try_from(at)? * i32::try_from(LINE)?;
            let (median, [least, highest]) = (series.median(), series.spread());
            let color = if name.starts_with("ctsync") { BLUE } else { RGBColor(150, 150, 150) };
            root.draw(&Text::new((*name).to_owned(), (0, top + 7), font.clone()))?;
            root.draw(&Rectangle::new(
                [(NAMES, top + 4), (place(median), top + 20)],
                color.mix(0.6).filled(),
            ))?;
            root.draw(&PathElement::new([(place(least), top + 12), (place(highest), top + 12)], BLACK))?;
            root.draw(&Text::new(
                format!("{median:.2}"),
                (place(highest.max(median)) + 6, top + 7),
                font.clone(),
            ))?;
        }
        root.present().context("cannot draw a plot")?;
    }
    Ok(svg)
}
