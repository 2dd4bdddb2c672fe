//! Printing.

use crate::exit::code_of;
use serde::Serialize;
use std::io::{self, Write};

/// Prints one object on a line of its own.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let line = serde_json::to_string(value)?;
    print_line(&line);
    Ok(())
}

/// Prints a line. A reader that has gone away is no error: it has seen what it wanted.
pub fn print_line(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Prints an error to stderr for people, or to stdout for scripts.
pub fn print_error(error: &anyhow::Error, json: bool) {
    if json {
        let code = code_of(error).map(state::Code::as_str);
        let object = serde_json::json!({
            "error": { "code": code, "message": format!("{error:#}") }
        });
        print_line(&object.to_string());
    } else {
        let _ = writeln!(io::stderr().lock(), "whimbrel: {error:#}");
    }
}

/// Lines up rows in columns, two spaces apart; the last column is left ragged.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves a number of at least one.
pub fn bytes(count: u64) -> String {
    scaled(count, 1024, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A time in the largest unit that leaves a number of at least one.
pub fn nanos(count: u64) -> String {
    match count {
        60_000_000_000.. => {
            format!("{}m{:02}s", count / 60_000_000_000, count / 1_000_000_000 % 60)
        }
        _ => scaled(count, 1000, &["ns", "µs", "ms", "s"]),
    }
}

fn scaled(count: u64, step: u64, units: &[&str]) -> String {
    let mut factor = 1;
    let mut unit = 0;
    while unit + 1 < units.len() && count / factor >= step {
        factor *= step;
        unit += 1;
    }
    // Three digits say enough, and tenths are exact enough for people.
    let tenths = u128::from(count) * 10 / u128::from(factor);
    match (unit, tenths) {
        (0, _) | (_, 1000..) => format!("{} {}", tenths / 10, units[unit]),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["NAME", "STATE"], ["a", "running"], ["längere", ""]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(table(&rows), ["NAME     STATE", "a        running", "längere"]);
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn quantities_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215 TiB");
        assert_eq!(nanos(1_500), "1.5 µs");
        assert_eq!(nanos(300_000_000), "300 ms");
        assert_eq!(nanos(61_000_000_000), "1m01s");
    }
}
