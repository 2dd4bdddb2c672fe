//! Rows as people read them, at 80 columns.

use crate::cases::{Goal, Metric};
use crate::{Row, Sum};
use std::fmt::Write;

/// Columns of a bar.
const BAR: usize = 24;

/// Columns of a bar of `part` where a full one is `whole`.
fn columns(part: f64, whole: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the length of a bar, cut to what is drawn"
    )]
    let columns = (part / whole.max(f64::MIN_POSITIVE) * BAR as f64).round() as usize;
    columns.min(BAR)
}

/// A figure with as many places as say something.
fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1e-9..0.1 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

/// Rows with medians, minimum and maximum, and a bar for the median.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let name = |row: &Row| format!("{}, {}", row.case, row.metric);
    let width = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0);
    let most = rows.iter().map(|row| row.median).fold(0.0, f64::max);
    let mut text = String::new();
    for row in rows {
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
            "█".repeat(columns(row.median, most))
        );
    }
    text
}

/// Rows of a case with the ratio to floor and peer drawn as bars. A bar is filled as far as the
/// ratio reaches, and shaded up to what is to be reached.
#[must_use]
pub fn chart(rows: &[(&Metric, Row)]) -> String {
    let mut text = String::new();
    for (metric, row) in rows {
        let _ = writeln!(
            text,
            "  {:<26} {:>7} {:<6} {} – {} – {} ({})",
            row.metric,
            figure(row.median),
            row.unit,
            figure(row.min),
            figure(row.p90),
            figure(row.max),
            row.runs
        );
        let mut line = |beside: String, ratio: f64, goal| {
            let _ = writeln!(text, "    {beside:<24} {:>7} {}", figure(ratio), bar(ratio, goal));
        };
        if let Some((limit, goal)) = metric.itself.and_then(Goal::as_ratio) {
            line(format!("÷ to reach {}", figure(limit)), row.median / limit, Some(goal));
        }
        // A share is what it is to be, or is not; a ratio of two says nothing.
        if metric.sum == Sum::Share {
            continue;
        }
        if let Some((median, ratio)) = row.floor_median.zip(row.floor_ratio) {
            line(format!("÷ floor {}", figure(median)), ratio, metric.floor);
        }
        if let Some((median, ratio)) = row.peer_median.zip(row.peer_ratio) {
            let name = row.peer.as_deref().unwrap_or("peer");
            line(format!("÷ {name} {}", figure(median)), ratio, metric.peer);
        }
    }
    text
}

fn bar(ratio: f64, goal: Option<Goal>) -> String {
    let (limit, sign) = match goal {
        Some(Goal::AtMost(limit)) => (limit, Some("≤")),
        Some(Goal::AtLeast(limit)) => (limit, Some("≥")),
        None => (1.0, None),
    };
    let whole = ratio.max(limit).max(1.0);
    let (filled, up_to) = (columns(ratio, whole), columns(limit, whole));
    let mut text = "█".repeat(filled);
    text.push_str(&"░".repeat(up_to.saturating_sub(filled)));
    if let Some(sign) = sign {
        let pad = " ".repeat(BAR.saturating_sub(filled.max(up_to)));
        let _ = write!(text, "{pad} {sign} {}", figure(limit));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(floor: Option<Goal>, peer: Option<Goal>) -> Metric {
        let itself = Some(Goal::AtMost(10.0));
        Metric {
            name: "what is the very longest m",
            unit: "GiB/s",
            sum: Sum::Median,
            itself,
            floor,
            peer,
        }
    }

    #[test]
    fn the_ratio_is_drawn_against_what_is_to_be_reached() {
        assert_eq!(
            bar(0.5, Some(Goal::AtMost(1.0))),
            format!("{}{} ≤ 1.00", "█".repeat(12), "░".repeat(12))
        );
        assert_eq!(bar(2.0, Some(Goal::AtMost(1.0))), format!("{} ≤ 1.00", "█".repeat(24)));
        assert_eq!(bar(0.0, None), "░".repeat(24));
    }

    #[test]
    fn no_line_is_longer_than_80_columns_whatever_the_figures() {
        let (least, most) = (Some(Goal::AtLeast(0.85)), Some(Goal::AtMost(0.3)));
        for figures in [vec![0.001], vec![123_456.7, 99_999.4, 0.5], vec![0.0; 50]] {
            let metric = metric(least, most);
            let row = Row::of("move", "c", metric.name, metric.unit, figures.clone())
                .unwrap()
                .beside_floor(Sum::Median, vec![0.37])
                .beside_peer(Sum::Median, "qemu", figures);
            let text = chart(&[(&metric, row)]);
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{} {line}", line.chars().count());
            }
        }
    }

    #[test]
    fn figures_have_three_digits_or_what_they_need() {
        let shown = [0.0, 0.0035, 0.366, 12.34, 1234.4].map(figure);
        assert_eq!(shown, ["0.00", "0.0035", "0.37", "12.3", "1234"]);
    }

    #[test]
    fn a_plain_table_names_each_row_once() {
        let row = Row::of("b", "c", "m", "µs", vec![3.0]).unwrap();
        assert!(table(&[row]).contains("3.0 µs"));
    }
}
