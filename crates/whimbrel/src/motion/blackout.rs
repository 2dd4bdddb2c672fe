//! The blackout, and where its time went.

use super::{labelled, number};
use crate::output::nanos;
use crate::terminal::{Ink, Line, Style};
use serde_json::Value;

/// Label, time and share, and the space around them.
const BESIDE: usize = 14 + 2 + 8 + 2 + 6;
/// A longer bar says nothing more.
const LONGEST: usize = 60;

/// One line for each stage, each where the one before ended: together they are the whole.
pub fn chart(blackout: &Value, style: &Style) -> Vec<Line> {
    if !blackout.is_object() {
        return Vec::new();
    }
    let mut lines = labelled("blackout", &summary(blackout), style);
    let stages: Vec<(&str, u64)> = blackout["stages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|stage| (stage["name"].as_str().unwrap_or_default(), number(&stage["ns"])))
        .filter(|(_, ns)| *ns > 0)
        .collect();
    // Somebody had it wait: that is no work, and would make everything else look like nothing.
    let whole: u64 = stages.iter().filter(|(name, _)| *name != "waiting").map(|(_, ns)| ns).sum();
    let width = style.width.saturating_sub(BESIDE).clamp(8, LONGEST);
    let mut before = 0;
    for (name, ns) in stages {
        let label = format!("    {:<10}", words(name));
        if name == "waiting" {
            let text = format!("  {:>8}  for the word to go on; no part of the promise", nanos(ns));
            lines.push(Line::default().ink(Ink::Faint, label).plain(text));
            continue;
        }
        let (from, to) = (column(before, whole, width), column(before + ns, whole, width));
        before += ns;
        let bar = match (from == to, style.unicode) {
            (false, true) => "█".repeat(to - from),
            (false, false) => "#".repeat(to - from),
            (true, true) => "▏".to_owned(),
            (true, false) => "|".to_owned(),
        };
        let from = from.min(width - 1);
        let percent = (u128::from(ns) * 100 + u128::from(whole / 2)) / u128::from(whole.max(1));
        let percent = if percent == 0 { "<1".to_owned() } else { percent.to_string() };
        lines.push(
            Line::default()
                .ink(Ink::Faint, label)
                .plain(format!("  {:>8}  {percent:>3} % ", nanos(ns)))
                .plain(" ".repeat(from))
                .ink(Ink::Blue, bar),
        );
    }
    lines
}

fn summary(blackout: &Value) -> String {
    let about = nanos(number(&blackout["uncertainty_ns"]));
    let took = format!("{} (± {about})", nanos(number(&blackout["ns"])));
    let predicted = match number(&blackout["predicted_ns"]) {
        0 => String::new(),
        predicted => format!("; {} were predicted", nanos(predicted)),
    };
    match blackout["limit_ns"].as_u64() {
        Some(limit) => format!("{took}{predicted}, {} promised", nanos(limit)),
        None => format!("{took}{predicted}, nothing was promised"),
    }
}

/// The column at which a moment lies.
fn column(moment: u64, whole: u64, width: usize) -> usize {
    let columns = u128::try_from(width).unwrap_or(0);
    let exact = (u128::from(moment) * columns + u128::from(whole / 2)) / u128::from(whole.max(1));
    usize::try_from(exact).unwrap_or(width).min(width)
}

fn words(stage: &str) -> String {
    stage.replace('-', " ")
}
