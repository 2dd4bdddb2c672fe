//! Updates where a process may not be just any: it is the first of its PID namespace, as in a container, or holds a
//! terminal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use support::{Host, wait};

const GUEST: [&str; 4] = ["--memory", "16M", "--cmdline", "ws=4M rate=2000"];
const WHIMBREL: &str = env!("CARGO_BIN_EXE_whimbrel");
/// Makes what it starts the first process of a PID namespace of its own, which ends with whoever made it.
const CONTAINED: &str = "unshare --pid --fork --kill-child --mount-proc";

fn script(host: &Host, name: &str, line: &str) -> PathBuf {
    let path = host.folder().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// Has processes be started by this command from now on, with their standard input from there.
fn started_by(host: &mut Host, command: &str, input: &str) {
    let line = format!("exec {command} {WHIMBREL} \"$@\" <{input}");
    let path = script(host, command.split(' ').next().unwrap(), &line);
    host.runs(&path);
}

fn started_as_usual(host: &mut Host) {
    host.runs(Path::new(WHIMBREL));
}

fn pid(host: &Host) -> u64 {
    host.view("m").unwrap()["pid"].as_u64().unwrap()
}

fn update(host: &Host, more: &[&str]) -> Value {
    let words = ["update", "m", "--json", "--max-blackout", "unlimited"];
    let text = host.ok(&[&words[..], more].concat());
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// What was said, however wide the screen is.
fn in_one_line(said: &str) -> String {
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_first_process_of_its_namespace_stays_and_says_what_that_risks() {
    let mut host = Host::new();
    started_by(&mut host, CONTAINED, "/dev/null");
    let machine = host.selfcheck("m", &GUEST);
    started_as_usual(&mut host);
    assert_eq!(pid(&host), 1);
    let said = in_one_line(&host.ok(&["update", "m", "--check"]));
    assert!(said.contains("the guardian ends with it"), "{said}");
    let report = update(&host, &[]);
    assert_eq!(report["update"]["unguarded"], true, "{report:#}");
    assert!(report["update"]["first-blackout-ns"].is_u64(), "{report:#}");
    assert_eq!(pid(&host), 1);
    machine.check_all();
    let transfer = ["update", "m", "--mode", "transfer", "--max-blackout", "unlimited"];
    let said = in_one_line(&host.fails(3, &transfer));
    assert!(said.contains("first of its PID namespace") && said.contains("--mode exec"), "{said}");
    assert_eq!((pid(&host), host.state("m")), (1, "running".to_owned()));
    machine.check_all();
}

#[test]
fn the_first_process_of_its_namespace_gives_its_machine_to_one_outside_and_to_none_inside() {
    let mut host = Host::new();
    started_by(&mut host, CONTAINED, "/dev/null");
    let mut machine = host.selfcheck("m", &GUEST);
    let children = format!("/proc/{0}/task/{0}/children", machine.pid());
    let first = std::fs::read_to_string(children).unwrap();
    let inside = format!("nsenter --pid --mount --target {}", first.trim());
    started_by(&mut host, &inside, "/dev/null");
    let socket = host.folder().join("inside.sock");
    let mut next = host.successor("inside", &socket);
    started_as_usual(&mut host);
    let unlimited = json!({ "x-whimbrel-downtime-unlimited": true });
    host.ask("m", "migrate-set-parameters", unlimited).unwrap();
    host.ask("m", "x-whimbrel-update", json!({ "to": socket })).unwrap();
    host.wait_for_motion("m", "failed");
    let why = host.motion("m")["error-desc"].to_string();
    assert!(why.contains("first of its PID namespace"), "{why}");
    assert_eq!(next.wait_for_end(), Some(1), "{}", next.log());
    assert_eq!((pid(&host), host.state("m")), (1, "running".to_owned()));
    machine.check_all();
    let socket = host.folder().join("outside.sock");
    let next = host.successor("outside", &socket);
    host.ask("m", "x-whimbrel-update", json!({ "to": socket })).unwrap();
    assert_eq!(machine.wait_for_end(), Some(0), "{}", machine.log());
    host.wait_for_motion("m", "completed");
    assert_eq!(pid(&host), u64::from(next.pid()));
    machine.check_all();
}

#[test]
fn the_first_process_of_its_namespace_outlives_a_guardian_that_keeps_its_guest() {
    let mut host = Host::new();
    started_by(&mut host, CONTAINED, "/dev/null");
    let mut machine = host.selfcheck("m", &GUEST);
    started_as_usual(&mut host);
    let path = host.folder().join("goes");
    let binary = script(&host, "goes", &format!("rm {}\nexec {WHIMBREL} \"$@\"", path.display()));
    let binary = binary.to_str().unwrap();
    let words = ["update", "m", "--max-blackout", "unlimited", "--binary", binary];
    let said = host.fails(1, &words);
    assert!(said.contains("new image"), "{said}");
    assert_ne!(pid(&host), 1);
    machine.check_all();
    assert!(!machine.has_ended(), "{}", machine.log());
    // What is left of it ends with the last of the others.
    host.ok(&["kill", "m"]);
    assert_eq!(machine.wait_for_end(), Some(1), "{}", machine.log());
}

#[test]
fn a_process_that_holds_a_terminal_stays_and_one_that_holds_none_is_replaced() {
    let mut host = Host::new();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let place = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    started_by(&mut host, "setsid --ctty", &place);
    let mut machine = host.selfcheck("m", &GUEST);
    started_as_usual(&mut host);
    let report = update(&host, &[]);
    assert!(report["update"]["unguarded"].is_null(), "{report:#}");
    assert_eq!(pid(&host), u64::from(machine.pid()));
    machine.check_all();
    host.ok(&["kill", "m"]);
    assert_eq!(machine.wait_for_end(), Some(0), "{}", machine.log());
    started_by(&mut host, "setsid", "/dev/null");
    let mut machine = host.selfcheck("m", &GUEST);
    started_as_usual(&mut host);
    update(&host, &[]);
    assert_ne!(pid(&host), u64::from(machine.pid()));
    assert_eq!(machine.wait_for_end(), Some(0), "{}", machine.log());
    machine.check_all();
    host.ok(&["kill", "m"]);
    wait("the machine to be gone", || (host.state("m") == "gone").then_some(()));
}
