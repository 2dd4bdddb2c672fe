//! A guest that comes out of a file: how far that is, and how it went.

use super::{bar, label_of, labelled, number};
use crate::output::{bytes, grouped, nanos};
use crate::terminal::{Ink, Line, Style};
use memory::PAGE_SIZE;
use monitor::MachineName;
use serde_json::Value;

/// What stands beside the bar needs so many columns.
const BESIDE: usize = 42;
/// A longer bar says nothing more.
const LONGEST: usize = 40;

/// How it stands, on a few lines.
pub fn frame(name: &MachineName, progress: &Value, style: &Style) -> Vec<Line> {
    let (arrow, file) = (if style.unicode { "←" } else { "<-" }, file(progress));
    let line = Line::default().ink(Ink::Bold, format!("{name} {arrow} {file}"));
    let mut rest = format!("  {}", nanos(number(&progress["elapsed_ns"])));
    if let Some(eta) = progress["eta_ns"].as_u64() {
        rest.push_str(&format!(", about {} left", nanos(eta)));
    }
    let width = style.width.saturating_sub(super::VALUES + BESIDE).clamp(8, LONGEST);
    let (done, all) = (number(&progress["pass_done"]), number(&progress["pass_pages"]));
    let filled = bar(label_of("filled"), Ink::Plain, done, all.max(1), width, style);
    vec![line.plain(rest), filled.plain("  ").plain(amount(progress))]
}

/// The same on one line, for where there is no terminal.
pub fn one_line(progress: &Value) -> String {
    format!("{}: {}", nanos(number(&progress["elapsed_ns"])), amount(progress))
}

fn amount(progress: &Value) -> String {
    let of = |key: &str| number(&progress[key]).saturating_mul(PAGE_SIZE);
    let (done, all) = (of("pass_done"), of("pass_pages"));
    let percent = u128::from(done) * 100 / u128::from(all.max(1));
    let note = progress["note"].as_str().unwrap_or_default();
    if !note.is_empty() {
        return format!("{percent} %, {note}");
    }
    let rate = bytes(number(&progress["rate"]));
    format!("{percent} %, {} of {} at {rate}/s", bytes(done), bytes(all))
}

fn file(about: &Value) -> &str {
    about["peer"].as_str().unwrap_or_default()
}

/// What came of it where nothing came.
pub const NOTHING: &str = "no guest came out of the file, which is as it was";

/// What came of it, in the words of a headline.
pub fn outcome(report: &Value) -> String {
    format!("the guest came out of {}", file(report))
}

/// What it took.
pub fn details(report: &Value, style: &Style) -> Vec<Line> {
    let restore = &report["restore"];
    let (fill, lazy) = (number(&restore["fill_ns"]), restore["how"] == "lazy");
    if fill == 0 && restore["fill"].is_null() {
        return Vec::new();
    }
    let text = if fill == 0 {
        format!("{}; the file is needed", amount(&report["progress"]))
    } else {
        let filled = number(&report["ram"]["bytes"]);
        let rate = u128::from(filled) * 1_000_000_000 / u128::from(fill);
        format!(
            "{} in {}, {}/s{}; {} pages verified",
            bytes(filled),
            nanos(fill),
            bytes(u64::try_from(rate).unwrap_or(u64::MAX)),
            if lazy { ", while the guest ran" } else { "" },
            grouped(number(&restore["verified_pages"])),
        )
    };
    let mut lines = labelled("filled", &text, style);
    let latency = &restore["fill"]["latency"];
    if number(&latency["count"]) > 0 {
        let of = |key: &str| nanos(number(&latency[key]));
        let text = format!(
            "{} waited for; half came within {}, 99 of 100 within {}, all within {}",
            grouped(number(&latency["count"])),
            of("p50_ns"),
            of("p99_ns"),
            of("max_ns")
        );
        lines.extend(labelled("faults", &text, style));
    }
    let claim = match (restore["claims"] == true, restore["claim_ns"].as_u64()) {
        (false, _) => "none: it is a copy".to_owned(),
        (true, None) => "not yet: it is made when the guest is resumed".to_owned(),
        (true, Some(took)) => {
            let token = report["token"].as_str().unwrap_or_default();
            format!("in the file, durable within {}; token {token}", nanos(took))
        }
    };
    lines.extend(labelled("claim", &claim, style));
    if let Some(first) = restore["first_instruction_ns"].as_u64() {
        let text = format!("{} after the command", nanos(first));
        lines.extend(labelled("guest ran", &text, style));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const STYLE: Style = Style { width: 100, height: 24, colour: false, unicode: false };

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|line| line.whole(&STYLE) + "\n").collect()
    }

    #[test]
    fn how_far_it_is_is_told_with_rate_and_rest() {
        let progress = json!({
            "peer": "/f", "elapsed_ns": 2_000_000_000u64, "eta_ns": 1_000_000_000u64, "note": "",
            "pass_done": 1 << 18, "pass_pages": 3 << 17, "rate": 512 << 20,
        });
        let text = text(&frame(&"a".parse().unwrap(), &progress, &STYLE));
        for part in ["a <- /f", "about", "left", "66 %", "1.0 GiB of 1.5 GiB", "512 MiB/s"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(one_line(&progress).contains("66 %"));
        let loading = json!({ "pass_done": 2, "pass_pages": 2, "note": "loading the state" });
        assert!(one_line(&loading).ends_with("100 %, loading the state"));
    }

    #[test]
    fn what_it_took_says_what_became_of_the_claim() {
        let report = |restore: Value| {
            let mut report = json!({ "ram": { "bytes": 1 << 30 }, "token": "ab" });
            report["restore"] = restore;
            text(&details(&report, &STYLE))
        };
        let fill = 500_000_000u64;
        let claimed = report(json!({
            "fill_ns": fill, "verified_pages": 262_144, "claims": true, "claim_ns": 1_000_000u64,
            "first_instruction_ns": 600_000_000u64,
        }));
        for part in ["2.0 GiB/s", "262,144", "token ab", "durable", "after the command"] {
            assert!(claimed.contains(part), "{part}: {claimed}");
        }
        let held = report(json!({ "fill_ns": fill, "claims": true }));
        assert!(held.contains("when the guest is resumed") && !held.contains("command"), "{held}");
        assert!(report(json!({ "fill_ns": fill, "claims": false })).contains("a copy"));
        assert_eq!(report(json!({ "claims": true })), "");
        let latency =
            json!({ "count": 4200, "p50_ns": 80_000, "p99_ns": 250_000, "max_ns": 900_000 });
        let lazily = |fill: u64| {
            let fill_report = json!({ "latency": latency });
            report(json!({ "fill_ns": fill, "how": "lazy", "fill": fill_report, "claims": false }))
        };
        assert!(lazily(0).contains("the file is needed"), "{}", lazily(0));
        for part in ["while the guest ran", "4,200 waited for", "250"] {
            assert!(lazily(fill).contains(part), "{part}: {}", lazily(fill));
        }
    }
}
