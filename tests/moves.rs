//! Moves between real processes: what arrives is what left, whatever the machine is made of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use qmp::Client;
use serde_json::{Value, json};
use support::{Host, Machine, PATIENCE, huge_pages, transparent_huge_pages, wait};

fn moves_whole(cpus: &str, backing: &str) {
    let host = Host::new();
    let shape = ["--memory", "128M", "--cpus", cpus, "--hugepages", backing];
    let source = host.selfcheck("a", &[&shape[..], &["--cmdline", "ws=48M rate=5000"]].concat());
    let (destination, to) = host.incoming("b", &[]);
    let report = host.migrate("a", &to, &["--connections", "3"]);
    assert_eq!(report["status"], "completed", "{report:#}");
    assert_eq!(report["connections"], 3);
    destination.wait_for("CLOCK", |_| true);
    destination.check_all();
    assert!(source.faults().is_empty());
    assert_eq!((host.state("a").as_str(), host.state("b").as_str()), ("postmigrate", "running"));
    let stages = report["blackout"]["stages"].as_array().unwrap();
    let sum: u64 = stages.iter().map(|stage| stage["ns"].as_u64().unwrap()).sum();
    let whole = report["blackout"]["ns"].as_u64().unwrap();
    assert!(sum.abs_diff(whole) <= whole / 20, "{report:#}");
    assert_eq!(report["still_protected_pages"], 0, "a guest that has gone pays for nothing");
    // What was never touched was neither read nor sent.
    let (here, there) = (touched(&host, "a"), touched(&host, "b"));
    let both = format!("{here} bytes were touched at the source, {there} at the destination");
    let of_them = 48 << 20..96 << 20;
    assert!(of_them.contains(&here) && of_them.contains(&there), "{both}");
    // A guest that runs on may touch one more. Where transparent huge pages are had is up to the kernel.
    assert!(backing == "thp" || there <= here + (2 << 20), "{both}");
}

/// How much of a machine's RAM was ever touched, in bytes.
fn touched(host: &Host, name: &str) -> u64 {
    host.view(name).unwrap()["memory"]["touched"].as_u64().unwrap()
}

#[test]
fn one_vcpu_arrives_whole() {
    moves_whole("1", "off");
}

#[test]
fn two_vcpus_arrive_whole() {
    moves_whole("2", "off");
}

#[test]
fn eight_vcpus_arrive_whole() {
    moves_whole("8", "off");
}

#[test]
fn a_guest_on_huge_pages_arrives_whole() {
    // Two machines of 128 MiB, and as much for a test beside this one.
    assert!(huge_pages(256), "no huge pages are to be had for this test");
    for cpus in ["1", "2", "8"] {
        moves_whole(cpus, "2M");
    }
}

#[test]
fn a_guest_on_transparent_huge_pages_arrives_whole() {
    assert!(transparent_huge_pages(), "shared memory may have no transparent huge pages here");
    moves_whole("2", "thp");
}

#[test]
fn a_guest_moves_between_kinds_of_pages() {
    assert!(huge_pages(128), "no huge pages are to be had for this test");
    let host = Host::new();
    let _source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M rate=2000"]);
    let (destination, to) = host.incoming("b", &["--hugepages", "2M"]);
    host.migrate("a", &to, &[]);
    destination.check_all();
}

#[test]
fn ram_above_4_gib_that_is_written_meanwhile_arrives_whole() {
    let host = Host::new();
    // Half of the working set lies below the hole, half of it above.
    let shape = ["--memory", "5G", "--cpus", "2", "--cmdline", "ws=64M rate=20000"];
    let _source = host.selfcheck("a", &shape);
    let (destination, to) = host.incoming("b", &[]);
    let report = host.migrate("a", &to, &["--max-bandwidth", "100M"]);
    assert_eq!(report["status"], "completed", "{report:#}");
    destination.check_all();
    assert!(touched(&host, "b") < 256 << 20);
}

#[test]
fn twenty_moves_there_and_back_lose_nothing() {
    let host = Host::new();
    let mut machine =
        host.selfcheck("m0", &["--memory", "64M", "--cpus", "2", "--cmdline", "ws=24M rate=5000"]);
    for turn in 1..=20 {
        let (next, to) = host.incoming(&format!("m{turn}"), &[]);
        let report = host.migrate(&machine.name, &to, &[]);
        assert_eq!(report["status"], "completed", "{report:#}");
        next.check_all();
        machine = next;
    }
}

#[test]
fn two_machines_move_at_once() {
    let host = Host::new();
    let arguments = ["--memory", "64M", "--cpus", "2", "--cmdline", "ws=24M rate=5000"];
    let _sources = [host.selfcheck("a1", &arguments), host.selfcheck("a2", &arguments)];
    let (first, to_first) = host.incoming("b1", &[]);
    let (second, to_second) = host.incoming("b2", &[]);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| host.migrate("a1", &to_first, &[]));
        let two = scope.spawn(|| host.migrate("a2", &to_second, &[]));
        assert_eq!(one.join().unwrap()["status"], "completed");
        assert_eq!(two.join().unwrap()["status"], "completed");
    });
    first.check_all();
    second.check_all();
}

#[test]
fn a_guest_that_was_paused_arrives_paused() {
    let host = Host::new();
    let _source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M"]);
    host.ok(&["pause", "a"]);
    let (destination, to) = host.incoming("b", &[]);
    let mut job = host.begin_migrate("a", &to, &["--max-bandwidth", "100K"]);
    host.wait_for_motion("a", "active");
    let said = host.fails(1, &["resume", "a"]);
    assert!(said.contains("migrate_cancel"), "{said}");
    lift_the_limit(&host);
    assert!(job.wait().unwrap().success());
    let report = &host.motion("a")["x-whimbrel-report"];
    assert_eq!(report["frozen"], true);
    assert_eq!(report["blackout"], Value::Null);
    assert_eq!(host.state("b"), "paused");
    host.fails(1, &["resume", "a"]);
    host.ok(&["resume", "b"]);
    destination.check_all();
}

#[test]
fn a_frozen_move_refuses_cont_until_it_ends() {
    let host = Host::new();
    let source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=32M"]);
    let (_destination, to) = host.incoming("b", &[]);
    let mut job = host
        .whimbrel(&["migrate", "a", &to, "--frozen", "--max-bandwidth", "2M", "--json"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    host.wait_for_motion("a", "active");
    let said = host.fails(1, &["resume", "a"]);
    assert!(said.contains("migrate_cancel") || said.contains("cancel"), "{said}");
    host.qmp("a", "migrate_cancel", "{}");
    assert_eq!(job.wait().unwrap().code(), Some(4));
    host.wait_for_state("a", "running");
    source.check_all();
}

#[test]
fn a_check_touches_nothing_and_leaves_the_destination_waiting() {
    let host = Host::new();
    let source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M"]);
    let (destination, to) = host.incoming("b", &[]);
    host.ok(&["migrate", "a", &to, "--check"]);
    host.ok(&["migrate", "a", &to, "--check", "--json"]);
    source.check_all();
    assert_eq!(host.state("b"), "inmigrate");
    host.migrate("a", &to, &[]);
    destination.check_all();
}

#[test]
fn a_destination_with_flags_of_its_own_refuses_a_machine_that_differs() {
    let host = Host::new();
    let source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M"]);
    let (_destination, to) = host.incoming("b", &["--memory", "128M", "--cpus", "4"]);
    let said = host.fails(3, &["migrate", "a", &to]);
    // All reasons at once.
    assert!(said.contains("128") || said.contains("134217728"), "{said}");
    assert!(said.contains('4'), "{said}");
    source.check_all();
    assert_eq!(host.state("b"), "inmigrate");
}

/// Cancels when the motion of `a` is in `phase`, and requires that the guest goes on there, and that
/// the next move works.
fn cancelled_in(phase: &str, arguments: &[&str]) {
    let host = Host::new();
    let source =
        host.selfcheck("a", &["--memory", "64M", "--cpus", "2", "--cmdline", "ws=32M rate=5000"]);
    let (mut destination, to) = host.incoming("b", &[]);
    let capability = r#"{"capabilities":[{"capability":"pause-before-switchover","state":true}]}"#;
    if phase == "pre-switchover" {
        host.qmp("a", "migrate-set-capabilities", capability);
    }
    let mut job = host
        .whimbrel(&[&["migrate", "a", &to, "--json"], arguments].concat())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    host.wait_for_motion("a", phase);
    wait("pages to be sent", || host.motion("a")["ram"]["transferred"].as_u64().filter(|n| *n > 0));
    assert!(host.qmp("a", "migrate_cancel", "{}").status.success());
    assert_eq!(job.wait().unwrap().code(), Some(4), "cancelled is status 4");
    host.wait_for_state("a", "running");
    source.check_all();
    let motion = host.motion("a");
    assert_eq!(motion["status"], "cancelled");
    // What the guest has yet to pay for it.
    let left = motion["x-whimbrel-report"]["still_protected_pages"].as_u64().unwrap();
    assert!((1..=touched(&host, "a") / 4096).contains(&left), "{left}");
    destination.wait_for_end();

    let (destination, to) = host.incoming("c", &[]);
    let mut job = host.begin_migrate("a", &to, &[]);
    if phase == "pre-switchover" {
        host.wait_for_motion("a", phase);
        let early = host.ask("a", "migrate-continue", json!({ "state": "device" }));
        assert!(early.is_err(), "{early:?}");
        assert_eq!(host.state("a"), "finish-migrate");
        host.ask("a", "migrate-continue", json!({ "state": phase })).unwrap();
    }
    assert!(job.wait().unwrap().success());
    destination.check_all();
}

#[test]
fn cancel_during_the_passes_leaves_the_guest() {
    cancelled_in("active", &["--max-bandwidth", "2M"]);
}

#[test]
fn cancel_at_the_switchover_leaves_the_guest() {
    cancelled_in("pre-switchover", &[]);
}

#[test]
fn a_move_that_cannot_converge_says_so_and_ends_in_time() {
    let host = Host::new();
    let source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=32M rate=20000"]);
    let (_destination, to) = host.incoming("b", &[]);
    let said = host.fails(
        1,
        &[
            "migrate",
            "a",
            &to,
            "--max-bandwidth",
            "4M",
            "--max-blackout",
            "20ms",
            "--timeout",
            "3s",
        ],
    );
    assert!(said.contains("converge"), "{said}");
    host.wait_for_state("a", "running");
    source.check_all();

    // What it then does is up to whoever moves it.
    let (destination, to) = host.incoming("c", &[]);
    let never = ["--max-bandwidth", "40M", "--max-blackout", "5ms"];
    let anyway = ["--timeout", "1s", "--timeout-action", "switch"];
    let report = host.migrate("a", &to, &[never, anyway].concat());
    assert_eq!(report["status"], "completed", "{report:#}");
    destination.check_all();
}

/// Moves `a` slowly, and has something happen to its guest in that phase, after which there is none
/// to move. Gives what QMP tells until the motion has failed, and after that until `last`.
fn ended_in(
    host: &Host,
    phase: &str,
    last: &str,
    happens: impl FnOnce(&mut Client),
) -> Vec<(String, Value)> {
    let mut client = Client::connect(&host.folder().join("a.sock")).unwrap();
    let hold = json!({ "capability": "pause-before-switchover", "state": true });
    let capabilities = json!({ "capabilities": [hold] });
    client.execute("migrate-set-capabilities", Some(capabilities), Some(PATIENCE)).unwrap();
    let (mut destination, to) = host.incoming("b", &[]);
    let slowly: &[&str] = if phase == "active" { &["--max-bandwidth", "2M"] } else { &[] };
    let mut job = host.begin_migrate("a", &to, slowly);
    host.wait_for_motion("a", phase);
    happens(&mut client);
    assert_eq!(job.wait().unwrap().code(), Some(1));
    destination.wait_for_end();
    let mut told = Vec::new();
    let failed = ("MIGRATION".to_owned(), json!({ "status": "failed" }));
    while !(told.contains(&failed) && told.iter().any(|(event, _)| event == last)) {
        match client.next_event(Some(PATIENCE)) {
            Ok(event) => {
                let event = event.unwrap_or_else(|| panic!("no {last} came after {told:#?}"));
                told.push((event.event, event.data));
            }
            Err(error) => panic!("{error}, and no {last} came after {told:#?}"),
        }
    }
    told
}

/// The last thing that was told with this name.
fn last<'a>(told: &'a [(String, Value)], event: &str) -> &'a Value {
    &told.iter().rev().find(|(name, _)| name == event).unwrap().1
}

/// The guest has begun anew, and runs; and the next move does it no harm.
fn boots_again(host: &Host, source: &Machine, boots: usize) {
    wait("the guest to boot again", || {
        let said = source.said();
        let (_, since) = said.rsplit_once("HELLO guest")?;
        let checked = since.contains("CHECK ok");
        (said.matches("HELLO guest").count() == boots && checked).then_some(())
    });
    assert_eq!(host.state("a"), "running");
    source.check_all();
}

#[test]
fn a_guest_that_is_reset_during_its_move_runs_on_where_it_was() {
    let host = Host::new();
    let shape = ["--memory", "64M", "--cpus", "2", "--cmdline", "ws=16M rate=5000"];
    let source = host.selfcheck("a", &shape);
    let reset = |client: &mut Client| {
        client.execute("system_reset", None, Some(PATIENCE)).unwrap();
    };
    // By somebody else, who also finds it stopped for its switchover; and by its own wish.
    let told = ended_in(&host, "pre-switchover", "RESUME", reset);
    assert_eq!(last(&told, "RESET"), &json!({ "guest": false, "reason": "host-qmp-system-reset" }));
    let place = |event| told.iter().rposition(|(name, _)| name == event).unwrap();
    assert!(place("STOP") < place("RESUME"), "{told:#?}");
    boots_again(&host, &source, 2);
    let told = ended_in(&host, "active", "RESET", reset);
    assert!(told.iter().all(|(event, _)| event != "STOP"), "{told:#?}");
    boots_again(&host, &source, 3);
    let told = ended_in(&host, "active", "RESET", |_| source.type_byte(b'r'));
    assert_eq!(last(&told, "RESET"), &json!({ "guest": true, "reason": "guest-reset" }));
    boots_again(&host, &source, 4);
    assert_eq!(
        host.motion("a")["error-desc"].as_str().map(|why| why.contains("reset")),
        Some(true)
    );

    // One that was paused stays so.
    host.ok(&["pause", "a"]);
    ended_in(&host, "pre-switchover", "RESET", reset);
    assert_eq!(host.state("a"), "paused");
    host.ok(&["resume", "a"]);
    boots_again(&host, &source, 5);
    let off = json!({ "capability": "pause-before-switchover", "state": false });
    host.ask("a", "migrate-set-capabilities", json!({ "capabilities": [off] })).unwrap();
    host.goes_on(&source);
}

#[test]
fn a_guest_that_fails_or_powers_off_during_its_move_ends_that() {
    let host = Host::new();
    let shape = ["--memory", "64M", "--cmdline", "ws=16M rate=5000"];
    let mut source = host.selfcheck("a", &shape);
    let told = ended_in(&host, "active", "x-whimbrel-guest-error", |_| source.type_byte(b't'));
    let error = last(&told, "x-whimbrel-guest-error");
    assert!(error["reason"].as_str().unwrap().contains("triple fault"), "{error}");
    assert!(error["registers"]["rip"].as_str().unwrap().starts_with("0x"), "{error}");
    assert_eq!(host.state("a"), "internal-error");
    let (_waits, to) = host.incoming("c", &[]);
    host.fails(3, &["migrate", "a", &to]);
    host.ask("a", "system_reset", None).unwrap();
    host.ok(&["resume", "a"]);
    boots_again(&host, &source, 2);

    let told = ended_in(&host, "active", "SHUTDOWN", |_| source.type_byte(b'p'));
    assert_eq!(last(&told, "SHUTDOWN"), &json!({ "guest": true, "reason": "guest-shutdown" }));
    assert_eq!(source.wait_for_end(), Some(0));
}

#[test]
fn a_bandwidth_limit_can_be_lifted_while_it_runs() {
    let host = Host::new();
    let _source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=32M rate=100"]);
    let (destination, to) = host.incoming("b", &[]);
    let mut job = host
        .whimbrel(&["migrate", "a", &to, "--max-bandwidth", "100K", "--json"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    host.wait_for_motion("a", "active");
    lift_the_limit(&host);
    assert!(job.wait().unwrap().success());
    destination.check_all();
}

fn lift_the_limit(host: &Host) {
    host.ask("a", "migrate-set-parameters", json!({ "max-bandwidth": 0 })).unwrap();
}

#[test]
fn a_unix_socket_carries_a_move() {
    let host = Host::new();
    let _source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M"]);
    let folder = tempfile::tempdir().unwrap();
    let to = format!("unix:{}", folder.path().join("move").display());
    let destination = host.start("b", &["--incoming", &to]);
    wait("the socket", || folder.path().join("move").exists().then_some(()));
    host.migrate("a", &to, &[]);
    destination.check_all();
}

#[test]
fn a_source_told_so_ends_when_its_guest_has_gone() {
    let host = Host::new();
    let mut source =
        host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M", "--exit-after-move"]);
    let (destination, to) = host.incoming("b", &[]);
    host.migrate("a", &to, &[]);
    assert_eq!(source.wait_for_end(), Some(0));
    destination.check_all();
}
