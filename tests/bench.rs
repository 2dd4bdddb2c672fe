//! `whimbrel bench move`, `keep` and `renew`, without a word about how fast anything is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use std::path::Path;
use support::Host;

#[test]
fn a_case_gives_lines_of_json_and_is_not_measured_twice() {
    let host = Host::new();
    let raw = host.folder().join("raw.jsonl");
    let raw = raw.to_str().unwrap();
    let words = ["bench", "move", "sparse-total", "--tiny", "--runs", "1", "--json", "--raw", raw];
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
fn the_floor_is_given_by_stage_and_by_the_guests_clock() {
    let said = Host::new().ok(&["bench", "floor", "--runs", "2", "--memory", "64M", "--json"]);
    let rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let median = |row: &Value| row["median"].as_f64().unwrap();
    let (gap, stages) = rows.split_last().unwrap();
    assert_eq!(gap["metric"], "gap that the guest saw", "{said}");
    assert!(
        stages.len() >= 4 && rows.iter().all(|row| row["runs"] == 2 && median(row) > 0.0),
        "{said}"
    );
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

/// Each case of a suite `but` for these runs once, with guests that are as small as they can be, and gives a
/// figure for everything that it is to be compared with. Files, if there are any, go to `folder`, where none is left.
fn all_figures(suite: &str, least: usize, but: &[&str], folder: Option<&Path>) {
    let host = Host::new();
    let list = host.ok(&["bench", suite, "--list", "--json"]);
    let cases = list.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let cases: Vec<Value> =
        cases.filter(|case| !but.contains(&case["case"].as_str().unwrap())).collect();
    assert!(cases.len() >= least, "{list}");
    let mut words = vec!["bench", suite, "--tiny", "--runs", "1", "--json"];
    words.extend(folder.into_iter().flat_map(|folder| ["--folder", folder.to_str().unwrap()]));
    words.extend(cases.iter().map(|case| case["case"].as_str().unwrap()));
    let said = host.ok(&words);
    let rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for case in &cases {
        let of_case = || rows.iter().filter(|row| row["case"] == case["case"]);
        assert!(of_case().all(|row| row["bench"] == suite && row["runs"].as_u64() >= Some(1)));
        // What only a peer, or a large guest, gives is missing in a trial of files.
        for metric in case["metrics"].as_array().unwrap().iter().filter(|_| suite == "renew") {
            assert!(of_case().any(|row| row["metric"] == *metric), "{metric} of {case}: {said}");
        }
        let first = of_case().next().unwrap_or_else(|| panic!("{case}: {said}"));
        assert!(first["median"].as_f64().unwrap() >= 0.0, "{first}");
        assert_eq!(first["floor_median"].is_f64(), case["floor"] == true, "{first}");
    }
    assert!(folder.is_none_or(|folder| std::fs::read_dir(folder).unwrap().count() == 0));
}

#[test]
fn every_case_of_files_gives_all_its_figures() {
    all_figures("keep", 14, &[], Some(tempfile::tempdir().unwrap().path()));
}

#[test]
fn every_case_of_moves_gives_all_its_figures() {
    all_figures("move", 10, &[], None);
}

#[test]
fn every_case_of_updates_gives_all_its_figures() {
    // RAM that outlives a reboot has to be on storage that lasts.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // More vCPUs make no other case of it.
    all_figures("renew", 5, &["renew-idle-2", "renew-idle-8"], Some(folder.path()));
}
