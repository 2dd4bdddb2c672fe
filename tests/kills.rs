//! Processes that die in the middle of a move. Whoever is left has the guest, or nobody says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::Host;

const SHAPE: [&str; 6] = ["--memory", "64M", "--cpus", "2", "--cmdline", "ws=32M rate=5000"];

#[test]
fn a_destination_killed_during_the_passes_costs_nothing() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    let (mut destination, to) = host.incoming("b", &[]);
    let mut job = host.begin_migrate("a", &to, &["--max-bandwidth", "4M"]);
    host.wait_for_motion("a", "active");
    destination.kill();
    assert_eq!(job.wait().unwrap().code(), Some(1));
    assert_eq!(host.motion("a")["status"], "failed");
    host.goes_on(&source);
}

#[test]
fn a_destination_killed_while_the_guest_is_stopped_costs_a_pause() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    let capability = r#"{"capabilities":[{"capability":"pause-before-switchover","state":true}]}"#;
    assert!(host.qmp("a", "migrate-set-capabilities", capability).status.success());
    let (mut destination, to) = host.incoming("b", &[]);
    let mut job = host.begin_migrate("a", &to, &[]);
    host.wait_for_motion("a", "pre-switchover");
    destination.kill();
    assert_eq!(job.wait().unwrap().code(), Some(1));
    let off = capability.replace("true", "false");
    assert!(host.qmp("a", "migrate-set-capabilities", &off).status.success());
    host.goes_on(&source);
}

#[test]
fn a_destination_killed_before_anybody_came_is_an_error_at_once() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    let (mut destination, to) = host.incoming("b", &[]);
    destination.kill();
    host.fails(1, &["migrate", "a", &to]);
    host.goes_on(&source);
}

#[test]
fn a_destination_whose_source_was_killed_during_the_passes_ends_with_an_error() {
    let host = Host::new();
    let mut source = host.selfcheck("a", &SHAPE);
    let (mut destination, to) = host.incoming("b", &[]);
    let mut job = host.begin_migrate("a", &to, &["--max-bandwidth", "4M"]);
    host.wait_for_motion("a", "active");
    source.kill();
    let _ = job.wait();
    assert_eq!(destination.wait_for_end(), Some(1));
    assert!(destination.log().contains("source"), "{}", destination.log());
}

#[test]
fn a_destination_told_to_wait_on_takes_the_next_guest() {
    let host = Host::new();
    let mut first = host.selfcheck("a", &SHAPE);
    let (destination, to) = host.incoming("b", &["--wait"]);
    let mut job = host.begin_migrate("a", &to, &["--max-bandwidth", "4M"]);
    host.wait_for_motion("a", "active");
    first.kill();
    let _ = job.wait();
    host.wait_for_state("b", "inmigrate");
    let _second = host.selfcheck("a2", &SHAPE);
    host.migrate("a2", &to, &[]);
    destination.check_all();
}

#[test]
fn a_process_that_was_killed_leaves_its_name_free() {
    let host = Host::new();
    let mut machine = host.selfcheck("a", &SHAPE);
    host.fails(1, &["run", "--name", "a", "--guest", "clock", "--console", "off"]);
    machine.kill();
    assert_eq!(host.state("a"), "gone");
    let again = host.selfcheck("a", &SHAPE);
    again.check_all();
}
