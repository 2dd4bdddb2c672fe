//! `whimbrel bench move`, without a word about how fast anything is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use support::Host;

#[test]
fn a_case_gives_lines_of_json_and_is_not_measured_twice() {
    let host = Host::new();
    let raw = host.folder().join("raw.jsonl");
    let raw = raw.to_str().unwrap();
    let words = ["bench", "move", "sparse-total", "--runs", "1", "--json", "--raw", raw];
    let first = host.ok(&words);
    let rows: Vec<Value> = first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let blackout = rows.iter().find(|row| row["metric"] == "blackout").unwrap();
    assert_eq!((&blackout["bench"], &blackout["case"]), (&"move".into(), &"sparse-total".into()));
    assert_eq!((&blackout["unit"], &blackout["runs"]), (&"ms".into(), &1.into()));
    assert!(blackout["median"].as_f64().unwrap() > 0.0, "{blackout}");
    assert_eq!(blackout["min"], blackout["max"]);
    assert!(blackout["peer"].is_null());

    let samples = std::fs::read_to_string(raw).unwrap();
    assert_eq!(samples.lines().count(), 2, "the machine and one sample: {samples}");
    assert!(samples.starts_with("{\"host\":"));
    assert_eq!(host.ok(&words), first, "the same sample gives the same figures");
    assert_eq!(std::fs::read_to_string(raw).unwrap(), samples);
}

#[test]
fn cases_are_listed_and_unknown_ones_refused() {
    let host = Host::new();
    let list = host.ok(&["bench", "move", "--list", "--json"]);
    let cases: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(cases.iter().any(|case| case["case"] == "idle-blackout"), "{list}");
    let said = host.fails(2, &["bench", "move", "quickest"]);
    assert!(said.contains("no case `quickest`"), "{said}");
}
