//! Moves without end, moves that fail without end, saves and restores without end, updates without end: the
//! guest stays whole, and nothing is used up.
//!
//! `WHIMBREL_SOAK_MOVES`, `WHIMBREL_SOAK_FAILURES`, `WHIMBREL_SOAK_SAVES` and `WHIMBREL_SOAK_UPDATES` say how
//! many (`cargo xtask soak`); unless they do, it is a short form of the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "endurance/updates.rs"]
mod updates;
#[path = "endurance/usage.rs"]
mod usage;
#[path = "endurance/witness.rs"]
mod witness;

use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;
use support::{Host, Machine, wait};
use usage::Usage;

const SHAPE: [&str; 7] =
    ["--memory", "64M", "--cpus", "4", "--cmdline", "ws=16M rate=5000", "--exit-after-move"];
/// On a busy host a move may take its time: none of them is to be given up for that.
const PATIENTLY: [&str; 2] = ["--max-blackout", "unlimited"];
/// Slow enough for a move not to end before something is done about it, in bytes per second.
const SLOW: u64 = 1 << 20;
/// Between two checks of all the guest's memory at once. It checks itself all the time besides.
const CHECKED_EVERY: u64 = 25;

/// How a move is made to fail.
#[derive(Debug, Clone, Copy)]
enum Failure {
    /// By a destination with flags of its own.
    Refused,
    Cancelled,
    DestinationKilled,
    NotConverging,
}

const FAILURES: [Failure; 4] =
    [Failure::Refused, Failure::Cancelled, Failure::DestinationKilled, Failure::NotConverging];

#[test]
fn a_guest_that_moves_and_fails_to_move_for_long_uses_nothing_up() {
    let (moves, failures) = (count("WHIMBREL_SOAK_MOVES", 30), count("WHIMBREL_SOAK_FAILURES", 12));
    let host = Host::new();
    let guest = moves_in_a_row(&host, moves);
    let guest = fails_in_a_row(&host, guest, failures);
    host.ok(&["kill", &guest.name]);
    drop(guest);
    let left = files(host.folder());
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_guest_that_is_saved_and_restored_for_long_uses_nothing_up() {
    let saves = count("WHIMBREL_SOAK_SAVES", 10);
    let host = Host::new();
    let path = host.folder().join("it");
    let file = path.to_str().unwrap();
    let shape = &SHAPE[..SHAPE.len() - 1];
    let mut machine = host.selfcheck("guest", shape);
    let mut first = None;
    for turn in 1..=saves {
        // A copy is taken first, so that both ways are used.
        let copy = ["snapshot", "guest", file, "--force", "--max-blackout", "unlimited"];
        host.ok(&copy);
        host.ok(&["save", "guest", file, "--force"]);
        assert_eq!(machine.wait_for_end(), Some(0), "save {turn}: {}", machine.log());
        machine = host.restore("guest", file, &["--lazy"]);
        wait("RAM to be full", || {
            let fill = &host.motion("guest")["x-whimbrel-report"]["restore"]["fill_ns"];
            (fill.as_u64() > Some(0)).then_some(())
        });
        assert!(machine.faults().is_empty(), "restore {turn}: {:#?}", machine.faults());
        if turn == 1 || turn.is_multiple_of(CHECKED_EVERY) {
            machine.check_all();
        }
        if turn == 1 {
            first = Some(Usage::at_rest(machine.pid()));
        }
    }
    machine.check_all();
    if let Some(first) = first {
        first.is_still_that_of(machine.pid(), "a restored machine, the first and the last");
    }
    host.ok(&["kill", "guest"]);
    drop(machine);
    std::fs::remove_file(&path).unwrap();
    let left = files(host.folder());
    assert!(left.is_empty(), "left behind: {left:?}");
}

fn count(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |count| count.parse().unwrap())
}

/// Moves a guest so many times, each time to a new process; gives the last one.
fn moves_in_a_row(host: &Host, moves: u64) -> Machine {
    let mut machine = host.selfcheck("m0", &SHAPE);
    let mut first = None;
    let mut blackouts = Vec::new();
    let begun = Instant::now();
    for turn in 1..=moves {
        let (next, to) = host.incoming(&format!("m{turn}"), &["--exit-after-move"]);
        let report = host.migrate(&machine.name, &to, &PATIENTLY);
        assert_eq!(report["status"], "completed", "move {turn}: {report:#}");
        blackouts.push(report["blackout"]["ns"].as_u64().unwrap());
        assert_eq!(machine.wait_for_end(), Some(0), "move {turn}: {}", machine.log());
        machine = next;
        assert!(machine.faults().is_empty(), "move {turn}: {:#?}", machine.faults());
        if turn == 1 {
            machine.check_all();
            first = Some(Usage::at_rest(machine.pid()));
        } else if turn.is_multiple_of(CHECKED_EVERY) {
            machine.check_all();
            let each = begun.elapsed().as_secs_f64() / f64::from(u32::try_from(turn).unwrap());
            println!("{turn} of {moves} moves, {each:.2} s each");
        }
    }
    machine.check_all();
    if let Some(first) = first {
        first.is_still_that_of(machine.pid(), "a destination, the first and the last");
    }
    blackouts.sort_unstable();
    if let [least, .., most] = blackouts[..] {
        let median = blackouts[blackouts.len() / 2];
        println!("blackouts in ns: least {least}, median {median}, most {most}");
    }
    machine
}

/// Has so many moves of this guest fail; gives it back.
fn fails_in_a_row(host: &Host, guest: Machine, failures: u64) -> Machine {
    let (strict, to_strict) = host.incoming("strict", &["--memory", "128M"]);
    let (patient, to_patient) = host.incoming("patient", &["--wait"]);
    let mover = Mover { host, guest: &guest, strict: to_strict, patient: to_patient };
    let mut before = Vec::new();
    for (turn, failure) in (1..=failures).zip(FAILURES.into_iter().cycle()) {
        mover.fails(failure, turn);
        assert_eq!(host.state(&guest.name), "running", "{failure:?}, failure {turn}");
        // Each kind once: whatever is set up for the first time is set up by then.
        if turn == 4 {
            before = [&guest, &strict, &patient]
                .map(|machine| (machine, Usage::at_rest(machine.pid())))
                .into();
        }
    }
    guest.check_all();
    for (machine, usage) in before {
        let who = format!("`{}`, after 4 failures and after {failures}", machine.name);
        usage.is_still_that_of(machine.pid(), &who);
    }
    // It is none the worse for it, and moves.
    let Mover { patient: to, .. } = mover;
    let report = host.migrate(&guest.name, &to, &PATIENTLY);
    assert_eq!(report["status"], "completed", "{report:#}");
    patient.check_all();
    host.ok(&["kill", "strict"]);
    patient
}

struct Mover<'a> {
    host: &'a Host,
    guest: &'a Machine,
    strict: String,
    patient: String,
}

impl Mover<'_> {
    fn fails(&self, failure: Failure, turn: u64) {
        let name = &self.guest.name;
        let ended = match failure {
            Failure::Refused => self.start(&self.strict, &json!({})),
            Failure::Cancelled => {
                self.start(&self.patient, &json!({}));
                self.host.ask(name, "migrate_cancel", None).unwrap();
                self.end()
            }
            Failure::DestinationKilled => {
                let (mut doomed, to) = self.host.incoming(&format!("doomed{turn}"), &[]);
                self.start(&to, &json!({}));
                doomed.kill();
                // Nobody else removes the socket at a path that it had been given.
                std::fs::remove_file(doomed.console()).unwrap();
                self.end()
            }
            Failure::NotConverging => {
                self.start(&self.patient, &json!({ "x-whimbrel-timeout": 300 }));
                self.end()
            }
        };
        let code =
            ended["x-whimbrel-report"]["error"]["code"].as_str().unwrap_or("none").to_owned();
        let expected: &[&str] = match failure {
            Failure::Refused => &["config-conflict"],
            Failure::Cancelled => &["cancelled"],
            Failure::DestinationKilled => &["link-lost"],
            Failure::NotConverging => &["timed-out"],
        };
        assert!(expected.contains(&code.as_str()), "{failure:?}, failure {turn}: {ended:#}");
    }

    /// Starts a slow move, and returns when pages are sent or it has failed.
    fn start(&self, to: &str, more: &Value) -> Value {
        let name = &self.guest.name;
        let slow = json!({ "max-bandwidth": SLOW, "downtime-limit": 300 });
        self.host.ask(name, "migrate-set-parameters", slow).unwrap();
        let mut arguments = more.clone();
        arguments["uri"] = to.into();
        loop {
            self.host.ask(name, "migrate", arguments.clone()).unwrap();
            let begun = wait("a move to begin, or to fail", || {
                let motion = self.host.ask(name, "query-migrate", None).unwrap();
                (motion["status"] != "setup" && motion["status"] != "failing").then_some(motion)
            });
            // It may not be done yet with the motion before.
            if begun["x-whimbrel-report"]["error"]["code"] != "busy" {
                return begun;
            }
        }
    }

    /// The answer of `query-migrate` when it is over.
    fn end(&self) -> Value {
        wait("a move to fail", || {
            let motion = self.host.ask(&self.guest.name, "query-migrate", None).unwrap();
            let ended = motion["status"] == "failed" || motion["status"] == "cancelled";
            ended.then_some(motion)
        })
    }
}

/// All files below a folder but the logs that the tests themselves have had written.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_none_or(|extension| extension != "log") {
            found.push(path.display().to_string());
        }
    }
    found
}
