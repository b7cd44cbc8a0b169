//! Diagrams as SVG.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use crate::rounds::Samples;

/// A bar up to the median of each row, and a line over its quartiles.
pub(crate) fn bars(path: &Path, title: &str, unit: &str, rows: &[Samples]) -> Result<()> {
    draw(path, title, unit, rows)
        .map_err(|error| anyhow!("{error}"))
        .with_context(|| format!("cannot draw {}", path.display()))
}

fn draw(
    path: &Path,
    title: &str,
    unit: &str,
    rows: &[Samples],
) -> Result<(), Box<dyn std::error::Error>> {
    const ROW: u32 = 34;
    const FRAME: u32 = 110;

    let height = FRAME + ROW * u32::try_from(rows.len())?;
    let longest = rows
        .iter()
        .map(|row| row.quantile(0.75))
        .fold(0.0, f64::max);
    let area = SVGBackend::new(path, (900, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(0)
        .build_cartesian_2d(0.0..(longest * 1.05).max(f64::MIN_POSITIVE), 0.0..count)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc(unit)
        .draw()?;
    for (row, index) in rows.iter().zip(0..) {
        let top = count - f64::from(index);
        let middle = top - 0.5;
        chart.draw_series([Rectangle::new(
            [(0.0, top - 0.85), (row.median(), top - 0.15)],
            RGBColor(150, 190, 230).filled(),
        )])?;
        chart.draw_series([PathElement::new(
            vec![(row.quantile(0.25), middle), (row.quantile(0.75), middle)],
            BLACK,
        )])?;
        chart.draw_series([Text::new(
            row.name.clone(),
            (longest * 0.01, top - 0.3),
            ("sans-serif", 14),
        )])?;
    }
    area.present()?;
    Ok(())
}
