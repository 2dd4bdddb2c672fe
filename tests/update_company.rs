//! Updates that are not alone: many at once, beside what else goes on with a machine, and with a program
//! that changes on disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/disk.rs"]
mod disk;
mod support;

use disk::{FaultyDisk, How, What};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use support::{Host, Machine, wait};

const SHAPE: [&str; 6] = ["--memory", "16M", "--cpus", "2", "--cmdline", "ws=4M rate=2000"];
/// Where the RAM of such a guest lies in a file.
const RAM: What = What::Reads(2 << 20, 18 << 20);
/// How a machine is updated in all of these.
const WAY: [&str; 4] = ["--mode", "transfer", "--max-blackout", "unlimited"];

/// Ends all machines, whichever processes have them by then.
struct Ends<'a>(&'a Host);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        for machine in self.0.machines() {
            self.0.run(&["kill", "--force", machine["name"].as_str().unwrap()]);
        }
    }
}

fn update(host: &Host, name: &str) {
    let before = pid(host, name);
    host.ok(&[&["update", name], &WAY[..]].concat());
    assert_ne!(pid(host, name), before, "the process of {name}");
}

fn refused(host: &Host, machine: &Machine, status: i32, reason: &str) {
    let before = pid(host, &machine.name);
    let said = host.fails(status, &[&["update", &machine.name], &WAY[..]].concat());
    assert!(said.contains(reason), "{said}");
    assert_eq!(pid(host, &machine.name), before);
}

fn pid(host: &Host, name: &str) -> u64 {
    host.view(name).unwrap()["pid"].as_u64().unwrap()
}

/// Is set when whoever has it has ended, however that was.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_machine_that_is_updated_is_listed_once_and_says_how_it_is() {
    let host = Host::new();
    let _ends = Ends(&host);
    let machine = host.selfcheck("guest", &SHAPE);
    let over = AtomicBool::new(false);
    let look = || {
        let listed = host.machines();
        let status: Value = serde_json::from_str(&host.ok(&["status", "guest", "--json"])).unwrap();
        assert_eq!(listed.len(), 1, "of one machine: {listed:?}");
        for shown in [&listed[0], &status["machine"]] {
            assert_eq!((&shown["name"], &shown["status"]), (&"guest".into(), &"running".into()));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                look();
            }
        });
        let _over = Over(&over);
        for mode in ["transfer", "exec", "transfer", "exec"] {
            host.ok(&["update", "guest", "--mode", mode, "--max-blackout", "unlimited"]);
        }
    });
    machine.check_all();
}

#[test]
fn ten_machines_are_updated_at_once() {
    let host = Host::new();
    let _ends = Ends(&host);
    let names = ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9"];
    let machines = names.map(|name| {
        let machine = host.selfcheck(name, &SHAPE);
        // They never rest: more than a few that run leave no processor for anything else.
        if name > "m1" {
            host.ok(&["pause", name]);
        }
        machine
    });
    thread::scope(|scope| {
        for name in names {
            scope.spawn(|| update(&host, name));
        }
    });
    for machine in &machines {
        if machine.name.as_str() > "m1" {
            assert_eq!(host.state(&machine.name), "paused");
            host.ok(&["resume", &machine.name]);
        }
        machine.check_all();
        host.ok(&["pause", &machine.name]);
    }
    let mut listed: Vec<_> =
        host.machines().iter().map(|machine| machine["name"].clone()).collect();
    listed.sort_by_key(ToString::to_string);
    assert_eq!(listed, names);
}

#[test]
fn a_guest_whose_memory_is_still_coming_is_updated_when_it_is_here() {
    let host = Host::new();
    let _ends = Ends(&host);
    let disk = FaultyDisk::mount(host.folder());
    let mut machine = host.selfcheck("a", &SHAPE);
    let file = disk.path("a.save");
    host.ok(&["save", "a", &file]);
    assert_eq!(machine.wait_for_end(), Some(0));
    disk.ails(RAM, How::Hangs);
    let machine = host.begin_restore("b", &file, &["--lazy"]);
    let _cure = disk.cure();
    host.wait_for_state("b", "running");
    refused(&host, &machine, 1, "still to come");
    disk.heals();
    wait("RAM to be full", || {
        host.run(&[&["update", "b"], &WAY[..]].concat()).status.success().then_some(())
    });
    assert_ne!(pid(&host, "b"), u64::from(machine.pid()));
    machine.check_all();
}

#[test]
fn a_guest_that_is_held_in_its_file_or_mapped_from_it_is_refused_and_the_way_out_is_named() {
    let host = Host::new();
    let mut machine = host.selfcheck("a", &SHAPE);
    let file = host.folder().join("a.save").to_str().unwrap().to_owned();
    host.ok(&["save", "a", &file]);
    assert_eq!(machine.wait_for_end(), Some(0));
    // Nobody has claimed it yet, and a guest that is held in it can be let go.
    let mut held = host.restore("held", &file, &["--paused"]);
    refused(&host, &held, 1, "`whimbrel resume` it first");
    host.ok(&["kill", "held"]);
    assert_eq!(held.wait_for_end(), Some(0));
    let machine = host.restore("b", &file, &["--mmap"]);
    refused(&host, &machine, 3, "whimbrel migrate");
    machine.check_all();
}

#[test]
fn an_update_and_whatever_else_moves_or_copies_the_guest_keep_out_of_each_others_way() {
    let host = Host::new();
    let _ends = Ends(&host);
    let machine = host.selfcheck("m", &SHAPE);
    let (_destination, to) = host.incoming("d", &[]);
    let busy = |doing: &str, what: &str| {
        let mut words = doing.split(' ');
        let (command, first) = (words.next().unwrap(), words.next());
        let arguments =
            first.map(|uri| json!({ "uri": uri, "x-whimbrel-snapshot": words.next().is_some() }));
        let error = host.ask("m", command, arguments.unwrap_or(json!({}))).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("under way"), "{doing}: {error}");
    };
    let file = format!("file:{}", host.folder().join("m.snap").display());
    host.ask("m", "migrate-set-parameters", json!({ "max-bandwidth": 64 << 10 })).unwrap();
    let copied = ("x-whimbrel-snapshot", true);
    let saved = ("x-whimbrel-frozen", true);
    let moved = ("x-whimbrel-frozen", false);
    let ways = [(&to, moved, "motion"), (&file, copied, "snapshot"), (&file, saved, "save")];
    for (uri, (how, wanted), what) in ways {
        host.ask("m", "migrate", json!({ "uri": uri, how: wanted })).unwrap();
        busy("x-whimbrel-update", &format!("its {what} to"));
        host.ask("m", "migrate_cancel", None).unwrap();
        host.wait_for_motion("m", "cancelled");
        assert_eq!(host.state("m"), "running");
    }
    let hangs = host.folder().join("hangs");
    std::fs::write(&hangs, b"#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&hangs, std::fs::Permissions::from_mode(0o700)).unwrap();
    let arguments = json!({ "binary": hangs, "mode": "transfer" });
    host.ask("m", "x-whimbrel-update", arguments).unwrap();
    busy("x-whimbrel-update", "its update to");
    busy(&format!("migrate {to}"), "its update to");
    busy(&format!("migrate {file}"), "its update to");
    busy(&format!("migrate {file} snapshot"), "its update to");
    host.ask("m", "migrate_cancel", None).unwrap();
    host.wait_for_motion("m", "cancelled");
    host.ask("m", "migrate-set-parameters", json!({ "max-bandwidth": 0 })).unwrap();
    update(&host, "m");
    machine.check_all();
}

#[test]
fn a_program_that_was_replaced_on_disk_takes_over_and_one_that_was_removed_is_missed() {
    let mut host = Host::new();
    let program = host.folder().join("program");
    let copy = |to: &Path| {
        std::fs::copy(env!("CARGO_BIN_EXE_whimbrel"), to).unwrap();
    };
    copy(&program);
    host.runs(&program);
    let _ends = Ends(&host);
    let machine = host.selfcheck("m", &SHAPE);
    let next = host.folder().join("next");
    copy(&next);
    std::fs::rename(&next, &program).unwrap();
    update(&host, "m");
    let runs = std::fs::read_link(format!("/proc/{}/exe", pid(&host, "m"))).unwrap();
    assert_eq!(runs, program);
    let kept = host.folder().join("kept");
    std::fs::rename(&program, &kept).unwrap();
    std::fs::copy(&kept, &program).unwrap();
    std::fs::remove_file(&kept).unwrap();
    // The one that runs is gone, and by its last name; who asks for an update has to name another.
    let words = [&["update", "m"], &WAY[..]].concat();
    let said = host.fails(1, &words);
    assert!(said.contains("No such file"), "{said}");
    assert_eq!(host.state("m"), "running");
    machine.check_all();
    host.ok(&[&words[..], &["--binary", program.to_str().unwrap()]].concat());
    machine.check_all();
}
