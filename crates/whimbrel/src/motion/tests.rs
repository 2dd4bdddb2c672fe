use super::*;
use crate::terminal::Style;
use proptest::prelude::*;
use serde_json::json;

const STYLE: Style = Style { width: 79, height: 24, colour: false, unicode: true };

fn name() -> MachineName {
    "web".parse().unwrap()
}

fn info(status: MigrationStatus, report: Value) -> MigrationInfo {
    let ram = Some(qmp::reply::MigrationRam { page_size: 4096, ..Default::default() });
    MigrationInfo { status: Some(status), report: Some(report), ram, ..MigrationInfo::default() }
}

fn lines(info: &MigrationInfo) -> Vec<String> {
    motion_lines(&name(), info, &STYLE).iter().map(|line| line.whole(&STYLE)).collect()
}

/// A motion under way in its third pass.
fn under_way(more: &Value) -> MigrationInfo {
    let mut progress = json!({
        "peer": "tcp:[::1]:4444", "elapsed_ns": 12_000_000_000u64, "pass": 3, "pass_pages": 1000,
        "pass_done": 500, "bytes": 1 << 30, "rate": 800 << 20, "dirty_rate": 51_200,
        "predicted_blackout_ns": 21_000_000, "limit_ns": 300_000_000, "eta_ns": 4_000_000_000u64,
        "note": "passes still bring the blackout down",
    });
    for (key, value) in more.as_object().unwrap() {
        progress[key] = value.clone();
    }
    info(MigrationStatus::Active, json!({ "progress": progress }))
}

#[test]
fn no_motion_is_no_line() {
    assert!(lines(&MigrationInfo::default()).is_empty());
}

#[test]
fn a_check_that_found_nothing_says_so() {
    let report = Some(json!({ "checked": true }));
    let lines = lines(&MigrationInfo { report, ..MigrationInfo::default() });
    assert!(lines[0].contains("could take the guest"), "{lines:?}");
}

#[test]
fn a_check_of_an_update_says_what_it_risks() {
    let said = |update| {
        let report = Some(json!({ "checked": true, "update": update }));
        lines(&MigrationInfo { report, ..MigrationInfo::default() }).join("\n")
    };
    assert!(said(json!({ "from": "a", "to": "b" })).ends_with("nothing was touched"));
    let risky = said(json!({ "from": "a", "to": "b", "unguarded": true }));
    assert!(risky.contains("first of its PID namespace"), "{risky}");
}

#[test]
fn each_reason_of_a_refusal_has_a_line_of_its_own() {
    let refusal = |what: &str, advice: &str| json!({"what": what, "why": "no", "advice": advice});
    let mut info = info(
        MigrationStatus::Failed,
        json!({ "refusals": [refusal("cpu", ""), refusal("ram", "buy some")] }),
    );
    info.error_desc = Some("refused: all of it".into());
    assert_eq!(
        lines(&info),
        [
            "motion: failed; the guest is still here",
            "  refused: cpu: no",
            "  refused: ram: no; buy some"
        ]
    );
}

#[test]
fn how_it_stands_is_seen_at_a_glance() {
    assert_eq!(
        lines(&under_way(&json!({}))),
        [
            "web → tcp:[::1]:4444  12 s, 1.0 GiB sent, about 4 s left",
            "  pass 3    ━━━━━━━━━━━━━━━────────────────   50 %, 1.9 MiB of 3.9 MiB",
            "  link      ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  800 MiB/s",
            "  guest     ━━━━━━━────────────────────────  200 MiB/s written",
            "  blackout  ━━─────────────────────────────  21.0 ms of 300 ms promised",
            "  passes still bring the blackout down",
        ]
    );
}

#[test]
fn a_motion_that_does_not_converge_says_why_and_what_would_help() {
    let more = json!({
        "stuck": true, "dirty_rate": 500_000, "predicted_blackout_ns": 900_000_000,
        "note": "not converging: the guest writes too much", "eta_ns": null,
    });
    let text = lines(&under_way(&more)).join(" ");
    assert!(text.contains("not converging: the guest writes too much"), "{text}");
    assert!(text.contains("\"downtime-limit\": 1125"), "{text}");
    assert!(text.contains("migrate_cancel"), "{text}");
    let limited = json!({ "max_bandwidth": 100 << 20 });
    let mut more = more;
    more["max_bandwidth"] = limited["max_bandwidth"].clone();
    let text = lines(&under_way(&more)).join(" ");
    assert!(text.contains("\"max-bandwidth\": 0"), "{text}");
    assert!(!text.contains("downtime-limit"), "{text}");
}

#[test]
fn whoever_is_waited_for_is_told_what_to_do() {
    let mut paused = under_way(&json!({}));
    paused.status = Some(MigrationStatus::PreSwitchover);
    let text = lines(&paused).join(" ");
    assert!(text.contains("waits for the word") && text.contains("migrate-continue"), "{text}");

    let mut undecided = under_way(&json!({ "note": "undecided: nothing came back" }));
    undecided.status = Some(MigrationStatus::Device);
    undecided.undecided = Some(
        serde_json::from_value(
            json!({"token": "", "peer": "", "since": {"seconds": 0, "microseconds": 0}}),
        )
        .unwrap(),
    );
    let text = lines(&undecided).join(" ");
    assert!(text.contains("undecided: nothing came back"), "{text}");
    assert!(text.contains("handover query web"), "{text}");
    assert!(text.contains("handover resolve") && text.contains("operating.md"), "{text}");
}

#[test]
fn a_motion_that_completed_tells_its_passes_and_where_the_blackout_went() {
    let lines = lines(&info(
        MigrationStatus::Completed,
        json!({
            "status": "completed", "total_ns": 2_000_000, "setup_ns": 500_000, "connections": 1, "peer": "unix:/b",
            "ram": { "bytes": 8192, "data_pages": 2, "zero_pages": 2, "skipped_pages": 65_536 },
            "passes": [
                { "pass": 1, "bytes": 4096, "duration_ns": 1_000_000, "dirtied_pages": 9,
                  "predicted_blackout_ns": 1_000_000 },
                { "pass": 2, "bytes": 4096, "duration_ns": 1_000_000, "dirtied_pages": 0 },
            ],
            "switch": "it was time",
            "blackout": {
                "ns": 1_000_000, "uncertainty_ns": 10_000, "predicted_ns": 1_000_000,
                "limit_ns": null,
                "stages": [
                    { "name": "pause", "ns": 250_000 }, { "name": "waiting", "ns": 0 },
                    { "name": "last-pages", "ns": 500_000 }, { "name": "commit", "ns": 1000 },
                    { "name": "start", "ns": 249_000 },
                ],
            },
        }),
    ));
    let expected = [
        "motion: completed after 2.0 ms; the guest is at unix:/b",
        "  sent      8.0 KiB over 1 connection, after 500 µs of setting up",
        "  pages     2 with contents, 2 zero, 65,536 left out",
        "  pass       sent      took         rate     written  blackout then",
        "     1    4.0 KiB    1.0 ms    3.9 MiB/s    36.0 KiB         1.0 ms",
        "     2    4.0 KiB    1.0 ms    3.9 MiB/s     stopped",
        "  stopped   it was time",
        "  blackout  1.0 ms (± 10.0 µs); 1.0 ms were predicted, nothing was promised",
        "    pause         250 µs   25 % ████████████",
        "    last pages    500 µs   50 %             ███████████████████████",
        "    commit        1.0 µs   <1 %                                    ▏",
        "    start         249 µs   25 %                                    ████████████",
    ];
    assert_eq!(lines, expected, "{lines:#?}");
}

#[test]
fn many_passes_are_told_by_their_first_and_last() {
    let passes: Vec<Value> = (1..=500).map(|pass| json!({ "pass": pass })).collect();
    let table: Vec<String> =
        passes::table(&json!({ "passes": passes })).iter().map(|l| l.whole(&STYLE)).collect();
    assert_eq!(table.len(), 12, "{table:#?}");
    assert!(table[6].contains("490 more") && table[11].contains("500"), "{table:#?}");
}

#[test]
fn a_destination_tells_what_it_received() {
    let report = json!({ "ram": { "data_pages": 5, "zero_pages": 1 } });
    let mut info = info(MigrationStatus::Completed, report);
    info.socket_address = Some(Vec::new());
    assert_eq!(
        lines(&info),
        ["motion: completed; the guest came here", "  received  5 with contents, 1 zero"]
    );
}

proptest! {
    #[test]
    fn no_line_is_wider_than_the_screen_whatever_is_reported(
        width in 40usize..250,
        figures in proptest::array::uniform8(any::<u64>()),
        unicode in any::<bool>(),
        note in "[a-z ]{0,200}",
    ) {
        let [pass, pages, done, rate, dirty, predicted, limit, eta] = figures;
        let info = under_way(&json!({
            "pass": pass, "pass_pages": pages, "pass_done": done, "rate": rate,
            "dirty_rate": dirty, "predicted_blackout_ns": predicted, "limit_ns": limit,
            "eta_ns": eta, "max_bandwidth": limit, "note": note,
        }));
        let style = Style { width, unicode, ..STYLE };
        for line in frame(&name(), &info, &style) {
            prop_assert!(line.fitted(&style).chars().count() <= width);
            prop_assert!(unicode || line.fitted(&style).is_ascii());
        }
        prop_assert!(!one_line(&name(), &info, true).contains(char::is_control));
    }
}
