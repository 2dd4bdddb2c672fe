//! Snapshots of the moment when they begin: that it is one moment, and that the guest is never harmed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use memory::PageRange;
use serde_json::{Value, json};
use snapshot::{Buffer, Kind, Origin, Reader};
use std::process::{Child, Stdio};
use support::{Host, Machine, huge_pages, transparent_huge_pages, wait};

const PAGE: usize = 4096;

fn path(host: &Host, name: &str) -> String {
    host.folder().join(name).to_str().unwrap().to_owned()
}

/// Writes a copy of the start, and gives the report.
fn snapshot(host: &Host, file: &str, more: &[&str]) -> Value {
    let text = host.ok(&[&["snapshot", "a", file, "--at", "start", "--json"], more].concat());
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Begins one so slowly that the guest waits for the disk.
fn begin(host: &Host, file: &str, rate: &str) -> Child {
    let command = ["snapshot", "a", file, "--at", "start", "--max-bandwidth", rate];
    let child = host.whimbrel(&command).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    wait("a copy that is under way", || (host.motion("a")["status"] == "active").then_some(()));
    child.unwrap()
}

/// The file is complete, a snapshot, and every page of it is what was written.
fn open(file: &str) -> Reader {
    let reader = Reader::open(Origin::Path { path: file.into(), offset: 0 }, false).unwrap();
    assert_eq!(reader.header().kind, Kind::Snapshot);
    let wrong = reader.verify(2, &|_| {});
    assert!(wrong.is_empty(), "{wrong:?}");
    reader
}

/// Nothing is left of a file that was not completed.
fn is_gone(host: &Host, name: &str) {
    wait("what was begun to be gone", || {
        let mut entries = std::fs::read_dir(host.folder()).unwrap().map(|entry| entry.unwrap());
        let left = entries.any(|entry| entry.file_name().to_str().unwrap().contains(name));
        (!left).then_some(())
    });
}

/// The machine `a` with a guest that writes a counter into each page of 32 MiB, in order, over and over
/// and flat out, and has done so for a while.
fn counting(host: &Host, shape: &[&str], cmdline: &str) -> Machine {
    let guest = ["--guest", "workload", "--memory", "128M", "--cmdline", cmdline];
    let machine = host.start("a", &[&guest[..], shape].concat());
    machine.wait_for("WORK", |line| {
        let of = |key: &str| {
            let word = line.split(' ').find_map(|word| word.strip_prefix(key));
            word.and_then(|word| word.parse::<usize>().ok()).unwrap_or(0)
        };
        of("pages=") >= 4 * of("ws=") / PAGE
    });
    machine
}

/// The counters of the pages of the guest's working set, in their order.
fn counters(reader: &Reader, pages: usize) -> Vec<u64> {
    let mut runs: Vec<(u64, Vec<u64>)> = Vec::new();
    let mut buffer = Buffer::new(1);
    for page in reader.present().runs().flat_map(|run| run.start..run.end()) {
        reader.read(PageRange::new(page, 1), &mut buffer).unwrap();
        let (word, rest) = buffer.as_slice().split_at(8);
        if rest.iter().any(|byte| *byte != 0) {
            continue;
        }
        let word = u64::from_le_bytes(word.try_into().unwrap());
        match runs.last_mut() {
            Some((start, words)) if *start + words.len() as u64 == page => words.push(word),
            _ => runs.push((page, vec![word])),
        }
    }
    // Just before it may lie a page that looks like one of it, but for what it counts.
    let (start, words) = runs.into_iter().find(|(_, words)| words.len() >= 64).unwrap();
    let strange = words.windows(2).take_while(|two| two[0].wrapping_sub(two[1]) > 1).count();
    // What a vCPU has not come to yet is zero, and not in the file.
    let first = start + strange as u64;
    let mut buffer = Buffer::new(pages as u64);
    reader.read(PageRange::new(first, pages as u64), &mut buffer).unwrap();
    let word = |page: &[u8]| u64::from_le_bytes(page[..8].try_into().unwrap());
    buffer.as_slice().chunks(PAGE).map(word).collect()
}

/// Whoever writes a counter into one page after the other, round after round, leaves at one moment so
/// many pages of one round, and all behind them of the round before.
fn is_of_one_moment(counters: &[u64], vcpus: usize) {
    for vcpu in 0..vcpus {
        let bound = |rank: usize| counters.len() * rank / vcpus;
        let part = &counters[bound(vcpu)..bound(vcpu + 1)];
        let steps: Vec<_> =
            part.windows(2).enumerate().filter(|(_, two)| two[0] != two[1]).collect();
        assert!(
            steps.len() <= 1 && steps.iter().all(|(_, two)| two[0] == two[1] + 1),
            "vCPU {vcpu} of {vcpus}: {:?}",
            steps.iter().take(8).collect::<Vec<_>>()
        );
    }
}

fn is_of_one_moment_on(backing: &str) {
    for cpus in ["1", "2", "8"] {
        let host = Host::new();
        let shape = ["--cpus", cpus, "--hugepages", backing];
        let machine = counting(&host, &shape, "ws=32M rate=max report=100ms");
        let file = path(&host, "a.snap");
        // Slow enough that the guest comes by everywhere while it is copied.
        let more = ["--max-bandwidth", "48M", "--max-blackout", "unlimited"];
        let report = snapshot(&host, &file, &more);
        assert_eq!(report["status"], "completed", "{report:#}");
        let of = |key: &str| report["copy"][key].as_u64().unwrap();
        assert!(of("fault_pages") > 0, "the guest wrote nothing: {report:#}");
        assert_eq!(of("fault_pages") + of("streamed_pages"), of("protected_pages"));
        let stages = report["blackout"]["stages"].as_array().unwrap();
        let sum: u64 = stages.iter().map(|stage| stage["ns"].as_u64().unwrap()).sum();
        assert_eq!(report["blackout"]["ns"], sum, "{report:#}");
        let reader = open(&file);
        is_of_one_moment(&counters(&reader, (32 << 20) / PAGE), cpus.parse().unwrap());
        // What it wrote meanwhile is fetched first when the copy is restored.
        assert_eq!(reader.recent().count(), of("fault_pages"), "{report:#}");
        assert_eq!(host.state("a"), "running");
        let before = machine.lines().len();
        wait("the guest to go on", || (machine.lines().len() > before + 2).then_some(()));
    }
}

#[test]
fn a_copy_of_the_start_is_of_one_moment_on_small_pages() {
    is_of_one_moment_on("off");
}

#[test]
fn a_copy_of_the_start_is_of_one_moment_on_transparent_huge_pages() {
    assert!(transparent_huge_pages(), "this test needs transparent huge pages for shared memory");
    is_of_one_moment_on("thp");
}

#[test]
fn a_copy_of_the_start_is_of_one_moment_on_huge_pages() {
    assert!(huge_pages(64), "this test needs 64 huge pages");
    is_of_one_moment_on("2M");
}

#[test]
fn original_and_copy_go_on_whole() {
    for cpus in ["1", "2", "8"] {
        let host = Host::new();
        let shape = ["--memory", "128M", "--cpus", cpus, "--cmdline", "ws=48M rate=max"];
        let machine = host.selfcheck("a", &shape);
        let file = path(&host, "a.snap");
        let report = snapshot(&host, &file, &["--max-blackout", "unlimited"]);
        assert_eq!(report["status"], "completed", "{report:#}");
        machine.check_all();
        host.restore("b", &file, &[]).check_all();
        // It can still be saved, moved, and copied again.
        snapshot(&host, &path(&host, "b.snap"), &["--max-blackout", "unlimited"]);
        let (destination, to) = host.incoming("c", &[]);
        host.migrate("a", &to, &["--max-blackout", "unlimited"]);
        destination.check_all();
    }
}

#[test]
fn a_cancelled_copy_leaves_no_file_and_the_guest_goes_on() {
    let host = Host::new();
    let machine =
        host.selfcheck("a", &["--memory", "128M", "--cpus", "2", "--cmdline", "ws=96M rate=max"]);
    let mut child = begin(&host, &path(&host, "x.snap"), "1M");
    host.ok(&["qmp", "a", "migrate_cancel"]);
    assert_eq!(child.wait().unwrap().code(), Some(4));
    is_gone(&host, "x.snap");
    assert_eq!(host.state("a"), "running");
    machine.check_all();
}

#[test]
fn a_machine_killed_while_it_is_copied_leaves_no_file() {
    let host = Host::new();
    let mut machine = counting(&host, &["--cpus", "2"], "ws=32M rate=max report=100ms");
    let mut child = begin(&host, &path(&host, "x.snap"), "1M");
    machine.kill();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    is_gone(&host, "x.snap");
}

#[test]
fn while_the_guest_waits_for_the_disk_it_can_be_stopped_run_reset_and_ended() {
    let host = Host::new();
    let mut machine =
        host.selfcheck("a", &["--memory", "256M", "--cpus", "2", "--cmdline", "ws=192M rate=max"]);
    let mut child = begin(&host, &path(&host, "x.snap"), "1M");
    // The buffers are full when more than they hold has been asked for.
    std::thread::sleep(std::time::Duration::from_secs(3));
    for _ in 0..3 {
        host.ok(&["pause", "a"]);
        assert_eq!(host.state("a"), "paused");
        wait("a guest that runs again", || {
            // One that waits inside KVM can be run when its page was copied.
            host.run(&["resume", "a"]).status.success().then_some(())
        });
    }
    assert_eq!(host.motion("a")["status"], "active");
    host.ok(&["kill", "a"]);
    machine.wait_for_end();
    assert_ne!(child.wait().unwrap().code(), Some(0));
    is_gone(&host, "x.snap");
}

#[test]
fn a_disk_that_takes_nothing_costs_the_copy_and_not_the_guest() {
    let host = Host::new();
    let machine =
        host.selfcheck("a", &["--memory", "256M", "--cpus", "2", "--cmdline", "ws=192M rate=max"]);
    host.ask("a", "migrate-set-parameters", json!({"x-whimbrel-io-stall": 300})).unwrap();
    let file = path(&host, "x.snap");
    // A buffer is written in a quarter of an hour.
    let said = host.fails(1, &["snapshot", "a", &file, "--at", "start", "--max-bandwidth", "64"]);
    assert!(said.contains("link-stalled") && said.contains("given up"), "{said}");
    assert_eq!(host.state("a"), "running");
    is_gone(&host, "x.snap");
    machine.check_all();
}

#[test]
fn the_guest_is_held_before_its_memory_is_protected_until_told_to_go_on() {
    let host = Host::new();
    let machine = counting(&host, &["--cpus", "2"], "ws=32M rate=max report=100ms");
    let switch = |name: &str, state: bool| {
        let set = json!({"capabilities": [{"capability": name, "state": state}]});
        host.ask("a", "migrate-set-capabilities", set).unwrap();
    };
    switch("pause-before-switchover", true);
    // As QEMU's clients say it.
    switch("background-snapshot", true);
    let file = path(&host, "a.snap");
    host.ask("a", "migrate", json!({"uri": format!("file:{file}")})).unwrap();
    host.wait_for_motion("a", "pre-switchover");
    assert_eq!(host.state("a"), "save-vm");
    let held = host.view("a").unwrap();
    host.ask("a", "migrate-continue", json!({"state": "pre-switchover"})).unwrap();
    host.wait_for_motion("a", "completed");
    assert_eq!(host.state("a"), "running");
    is_of_one_moment(&counters(&open(&file), (32 << 20) / PAGE), 2);
    assert!(held["migration"]["x-whimbrel-report"]["copy"].is_null(), "{held:#}");
    let before = machine.lines().len();
    wait("the guest to go on", || (machine.lines().len() > before + 2).then_some(()));
    let refused = host.ask("a", "migrate", json!({"uri": "tcp:127.0.0.1:1"})).unwrap_err();
    assert!(refused.to_string().contains("background-snapshot"), "{refused}");
}

#[test]
fn a_guest_that_is_reset_while_it_is_copied_does_the_copy_no_harm() {
    let host = Host::new();
    let machine = counting(&host, &["--cpus", "2"], "ws=32M rate=max report=100ms");
    let file = path(&host, "a.snap");
    let mut child = begin(&host, &file, "8M");
    let before = machine.lines().len();
    host.ask("a", "system_reset", None).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    is_of_one_moment(&counters(&open(&file), (32 << 20) / PAGE), 2);
    wait("the guest to begin anew", || {
        // It may have been in the middle of a line.
        machine.lines()[before..].iter().any(|line| line.contains("HELLO guest=")).then_some(())
    });
}
