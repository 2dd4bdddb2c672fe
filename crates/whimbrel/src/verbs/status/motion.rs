//! How a motion went, for people.

use crate::output::{bytes, nanos, table};
use qmp::reply::{MigrationInfo, MigrationStatus};
use serde_json::Value;

/// The present or last motion: a line that says how it stands, then its table.
pub fn motion_lines(info: &MigrationInfo) -> Vec<String> {
    let Some(status) = info.status.filter(|status| *status != MigrationStatus::None) else {
        return Vec::new();
    };
    let word = serde_json::to_value(status).ok().and_then(|v| v.as_str().map(str::to_owned));
    let mut lines = vec![format!("motion: {}", word.unwrap_or_default())];
    if let Some(error) = &info.error_desc {
        lines.push(format!("  {error}"));
    }
    if let Some(report) = &info.report {
        lines.extend(report_lines(report));
    }
    lines
}

/// The report of the engine as a short table.
fn report_lines(report: &Value) -> Vec<String> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let time = |value: &Value| nanos(number(value));
    let mut rows = vec![vec![
        "  total".to_owned(),
        format!("{}, of it setting up {}", time(&report["total_ns"]), time(&report["setup_ns"])),
    ]];
    let ram = &report["ram"];
    rows.push(vec![
        "  sent".to_owned(),
        format!(
            "{} over {} connections: {} pages with contents, {} zero, {} never touched",
            bytes(number(&ram["bytes"])),
            number(&report["connections"]),
            number(&ram["data_pages"]),
            number(&ram["zero_pages"]),
            number(&ram["skipped_pages"]),
        ),
    ]);
    for pass in report["passes"].as_array().into_iter().flatten() {
        rows.push(vec![
            format!("  pass {}", number(&pass["pass"])),
            format!(
                "{} in {}; meanwhile {} pages written",
                bytes(number(&pass["bytes"])),
                time(&pass["duration_ns"]),
                number(&pass["dirtied_pages"]),
            ),
        ]);
    }
    if let Some(switch) = report["switch"].as_str().filter(|why| !why.is_empty()) {
        rows.push(vec!["  switch".to_owned(), switch.to_owned()]);
    }
    let blackout = &report["blackout"];
    if blackout.is_object() {
        let limit = match blackout["limit_ns"].as_u64() {
            Some(limit) => format!("limit {}", nanos(limit)),
            None => "no limit".to_owned(),
        };
        rows.push(vec![
            "  blackout".to_owned(),
            format!(
                "{} (± {}; predicted {}, {limit})",
                time(&blackout["ns"]),
                time(&blackout["uncertainty_ns"]),
                time(&blackout["predicted_ns"]),
            ),
        ]);
        let stages = blackout["stages"].as_array().into_iter().flatten();
        let stages = stages.map(|stage| {
            format!("{} {}", stage["name"].as_str().unwrap_or_default(), time(&stage["ns"]))
        });
        rows.push(vec!["  stages".to_owned(), stages.collect::<Vec<_>>().join(", ")]);
    }
    if let Some(pause) = report["given_up_pause_ns"].as_u64() {
        let text = format!("the guest stood still for {} in vain", nanos(pause));
        rows.push(vec!["  given up".to_owned(), text]);
    }
    table(&rows)
}
