//! One figure over several runs.

use serde::Serialize;
use std::fmt::Write;

/// One figure over several runs. Serialized, it is a line of a benchmark's raw data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Which benchmark.
    pub bench: &'static str,
    /// What was done.
    pub case: String,
    /// What was measured.
    pub metric: String,
    /// The unit of all figures of the row.
    pub unit: &'static str,
    /// How often.
    pub runs: usize,
    /// The least.
    pub min: f64,
    /// Half of all are below it.
    pub median: f64,
    /// Nine in ten are below it.
    pub p90: f64,
    /// The most.
    pub max: f64,
    /// Median of what the kernel needs at least for the same thing, in the same run.
    pub floor_median: Option<f64>,
    /// Median over floor.
    pub floor_ratio: Option<f64>,
}

impl Row {
    /// The row of these figures. `None` where there are none.
    #[must_use]
    pub fn of(
        bench: &'static str,
        case: &str,
        metric: &str,
        unit: &'static str,
        mut figures: Vec<f64>,
    ) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let at = |tenths: usize| figures[(figures.len() * tenths / 10).min(figures.len() - 1)];
        Some(Self {
            bench,
            case: case.to_owned(),
            metric: metric.to_owned(),
            unit,
            runs: figures.len(),
            min,
            median: at(5),
            p90: at(9),
            max,
            floor_median: None,
            floor_ratio: None,
        })
    }
}

/// The rows as people read them: medians with minimum and maximum, and a bar for the median.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    const BAR: usize = 24;
    let name = |row: &Row| format!("{}, {}", row.case, row.metric);
    let width = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0);
    let most = rows.iter().map(|row| row.median).fold(0.0, f64::max);
    let mut text = String::new();
    for row in rows {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "the length of a bar"
        )]
        let bar = (row.median / most.max(f64::MIN_POSITIVE) * BAR as f64).round() as usize;
        let _ = writeln!(
            text,
            "{:<width$}  {:>9.1} {}  (min {:.1}, p90 {:.1}, max {:.1}, {} runs)  {}",
            name(row),
            row.median,
            row.unit,
            row.min,
            row.p90,
            row.max,
            row.runs,
            "█".repeat(bar)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_their_median_and_bounds() {
        let row = Row::of("b", "c", "m", "µs", vec![3.0, 1.0, 2.0, 10.0, 4.0]).unwrap();
        assert_eq!((row.min, row.median, row.max, row.runs), (1.0, 3.0, 10.0, 5));
        assert!(Row::of("b", "c", "m", "µs", vec![]).is_none());
        assert!(table(&[row]).contains("3.0 µs"));
    }
}
