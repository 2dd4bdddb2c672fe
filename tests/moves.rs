//! Moves between real processes: what arrives is what left, whatever the machine is made of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use support::{Host, huge_pages, transparent_huge_pages, wait};

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
    let report = host.migrate("a", &to, &[]);
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
    assert!(host.qmp("a", "migrate_cancel", "{}").status.success());
    assert_eq!(job.wait().unwrap().code(), Some(4), "cancelled is status 4");
    host.wait_for_state("a", "running");
    source.check_all();
    assert_eq!(host.motion("a")["status"], "cancelled");
    destination.wait_for_end();

    host.qmp("a", "migrate-set-capabilities", &capability.replace("true", "false"));
    let (destination, to) = host.incoming("c", &[]);
    host.migrate("a", &to, &[]);
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
            "6s",
        ],
    );
    assert!(said.contains("converge"), "{said}");
    host.wait_for_state("a", "running");
    source.check_all();
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
    let unlimited = r#"{"max-bandwidth":0}"#;
    assert!(host.qmp("a", "migrate-set-parameters", unlimited).status.success());
    assert!(job.wait().unwrap().success());
    destination.check_all();
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
