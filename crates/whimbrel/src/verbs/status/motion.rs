//! How a motion went, for people.

use crate::output::{bytes, nanos, table};
use qmp::reply::{MigrationInfo, MigrationStatus};
use serde_json::Value;

/// The present or last motion: a line that says how it stands, then its table.
pub fn motion_lines(info: &MigrationInfo) -> Vec<String> {
    let report = info.report.as_ref().unwrap_or(&Value::Null);
    if report["checked"] == true {
        return vec!["check: the destination could take the guest; nothing was touched".into()];
    }
    let Some(status) = info.status.filter(|status| *status != MigrationStatus::None) else {
        return Vec::new();
    };
    let word = serde_json::to_value(status).ok().and_then(|v| v.as_str().map(str::to_owned));
    let mut lines = vec![format!("motion: {}", word.unwrap_or_default())];
    lines.extend(why(info, report));
    let mut rows = Vec::new();
    if info.socket_address.is_some() {
        rows.push(row("received", pages(&report["ram"])));
    } else if report["passes"].as_array().is_some_and(|passes| !passes.is_empty()) {
        rows.extend(sent(report));
    }
    rows.extend(blackout(&report["blackout"]));
    if let Some(pause) = report["given_up_pause_ns"].as_u64() {
        rows.push(row("given up", format!("the guest stood still for {} in vain", nanos(pause))));
    }
    lines.extend(table(&rows));
    lines
}

/// Why it failed, where it did: one line for each reason.
fn why(info: &MigrationInfo, report: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let refusals = report["refusals"].as_array().into_iter().flatten();
    let reasons: Vec<String> = refusals
        .map(|refusal| {
            let advice = text(&refusal["advice"]);
            let advice = if advice.is_empty() { advice } else { format!("; {advice}") };
            format!("  refused: {}: {}{advice}", text(&refusal["what"]), text(&refusal["why"]))
        })
        .collect();
    match &info.error_desc {
        Some(error) if reasons.is_empty() => vec![format!("  {error}")],
        _ => reasons,
    }
}

fn row(what: &str, value: String) -> Vec<String> {
    vec![format!("  {what}"), value]
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn time(value: &Value) -> String {
    nanos(number(value))
}

fn pages(ram: &Value) -> String {
    let (data, zero) = (number(&ram["data_pages"]), number(&ram["zero_pages"]));
    format!("{data} pages with contents, {zero} zero")
}

fn sent(report: &Value) -> Vec<Vec<String>> {
    let (ram, connections) = (&report["ram"], number(&report["connections"]));
    let setup = time(&report["setup_ns"]);
    let mut rows = vec![
        row("total", format!("{}, of it setting up {setup}", time(&report["total_ns"]))),
        row(
            "sent",
            format!(
                "{} over {connections} connection{}: {}, {} never touched",
                bytes(number(&ram["bytes"])),
                if connections == 1 { "" } else { "s" },
                pages(ram),
                number(&ram["skipped_pages"]),
            ),
        ),
    ];
    for pass in report["passes"].as_array().into_iter().flatten() {
        let (sent, took) = (bytes(number(&pass["bytes"])), time(&pass["duration_ns"]));
        let dirtied = number(&pass["dirtied_pages"]);
        let text = format!("{sent} in {took}; meanwhile {dirtied} pages written");
        rows.push(row(&format!("pass {}", number(&pass["pass"])), text));
    }
    if let Some(switch) = report["switch"].as_str().filter(|why| !why.is_empty()) {
        rows.push(row("switch", switch.to_owned()));
    }
    rows
}

fn blackout(blackout: &Value) -> Vec<Vec<String>> {
    if !blackout.is_object() {
        return Vec::new();
    }
    let limit = match blackout["limit_ns"].as_u64() {
        Some(limit) => format!("limit {}", nanos(limit)),
        None => "no limit".to_owned(),
    };
    let (took, about) = (time(&blackout["ns"]), time(&blackout["uncertainty_ns"]));
    let predicted = time(&blackout["predicted_ns"]);
    let stages = blackout["stages"].as_array().into_iter().flatten();
    let stages = stages.filter(|stage| number(&stage["ns"]) > 0).map(|stage| {
        format!("{} {}", stage["name"].as_str().unwrap_or_default(), time(&stage["ns"]))
    });
    vec![
        row("blackout", format!("{took} (± {about}; predicted {predicted}, {limit})")),
        row("stages", stages.collect::<Vec<_>>().join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn info(status: MigrationStatus, report: Value) -> MigrationInfo {
        MigrationInfo { status: Some(status), report: Some(report), ..MigrationInfo::default() }
    }

    #[test]
    fn no_motion_is_no_line() {
        assert!(motion_lines(&MigrationInfo::default()).is_empty());
    }

    #[test]
    fn a_check_that_found_nothing_says_so() {
        let report = Some(json!({ "checked": true }));
        let lines = motion_lines(&MigrationInfo { report, ..MigrationInfo::default() });
        assert!(lines[0].contains("could take the guest"), "{lines:?}");
    }

    #[test]
    fn each_reason_of_a_refusal_has_a_line_of_its_own() {
        let refusal =
            |what: &str, advice: &str| json!({"what": what, "why": "no", "advice": advice});
        let mut info = info(
            MigrationStatus::Failed,
            json!({ "refusals": [refusal("cpu", ""), refusal("ram", "buy some")] }),
        );
        info.error_desc = Some("refused: all of it".into());
        let lines = motion_lines(&info);
        assert_eq!(lines, ["motion: failed", "  refused: cpu: no", "  refused: ram: no; buy some"]);
    }

    #[test]
    fn a_motion_that_completed_tells_its_passes_and_its_blackout() {
        let lines = motion_lines(&info(
            MigrationStatus::Completed,
            json!({
                "total_ns": 2_000_000, "setup_ns": 500_000, "connections": 1,
                "ram": { "bytes": 4096, "data_pages": 1, "zero_pages": 2, "skipped_pages": 3 },
                "passes": [{ "pass": 1, "bytes": 4096, "duration_ns": 1000, "dirtied_pages": 9 }],
                "switch": "it was time",
                "blackout": {
                    "ns": 1_500_000, "uncertainty_ns": 10_000, "predicted_ns": 1_000_000,
                    "limit_ns": null,
                    "stages": [{ "name": "save", "ns": 7000 }, { "name": "waiting", "ns": 0 }],
                },
            }),
        ));
        assert_eq!(
            lines,
            [
                "motion: completed",
                "  total     2.0 ms, of it setting up 500 µs",
                "  sent      4.0 KiB over 1 connection: 1 pages with contents, 2 zero, 3 never \
                 touched",
                "  pass 1    4.0 KiB in 1.0 µs; meanwhile 9 pages written",
                "  switch    it was time",
                "  blackout  1.5 ms (± 10.0 µs; predicted 1.0 ms, no limit)",
                "  stages    save 7.0 µs",
            ]
        );
    }

    #[test]
    fn a_destination_tells_what_it_received() {
        let mut info =
            info(MigrationStatus::Active, json!({ "ram": { "data_pages": 5, "zero_pages": 1 } }));
        info.socket_address = Some(Vec::new());
        assert_eq!(
            motion_lines(&info),
            ["motion: active", "  received  5 pages with contents, 1 zero"]
        );
    }
}
