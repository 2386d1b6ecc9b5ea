//! The plot of `soak fence`: entries against milliseconds, both in powers of ten.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::{How, Row, median};

/// A line for each kind of takeover: medians.
pub(super) fn draw(rows: &[Row], file: &Path) -> Result<()> {
    let root = SVGBackend::new(file, (800, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let entries = rows.iter().map(|row| f64::from(row.entries));
    let right = entries.clone().fold(1e3, f64::max) * 1.2;
    let left = entries.fold(f64::INFINITY, f64::min) / 1.2;
    let times = || rows.iter().map(|row| median(&row.told).max(1e-3));
    let (bottom, top) = (times().fold(1.0, f64::min) / 2.0, times().fold(1.0, f64::max) * 2.0);
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d((left..right).log_scale(), (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("entries")
        .y_desc("takeover, ms")
        .x_label_formatter(&|entries| format!("{entries:.0}"))
        .y_label_formatter(&|time| format!("{time}"))
        .draw()?;
    for (how, color) in [(How::Hot, BLUE), (How::Cold, GREEN), (How::Conntrackd, RED)] {
        let line: Vec<(f64, f64)> = rows
            .iter()
            .filter(|row| row.how == how)
            .map(|row| (f64::from(row.entries), median(&row.told).max(1e-3)))
            .collect();
        if line.is_empty() {
            continue;
        }
        chart
            .draw_series(LineSeries::new(line.clone(), color.stroke_width(2)))?
            .label(how.word())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
        chart.draw_series(line.into_iter().map(|at| Circle::new(at, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present().context("cannot write the plot")
}
