//! Reboots: a guest whose RAM is in a memory file goes on after all processes have ended, once, and
//! only with the state that belongs to it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Host, Machine, PATIENCE, wait};

const GUEST: [&str; 4] = ["--memory", "64M", "--cmdline", "ws=16M rate=2000"];

/// A folder on storage that lasts, as a memory file needs it.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

/// A machine whose RAM is in that file, after it has written all its pages.
fn begin(host: &Host, name: &str, ram: &str, more: &[&str]) -> Machine {
    host.selfcheck(name, &[&GUEST[..], &["--memory-file", ram], more].concat())
}

fn leave(host: &Host, machine: &mut Machine, state: &str) -> Value {
    let name = machine.name.clone();
    let text = host.ok(&["update", &name, "--mode", "reboot", "--state", state, "--json"]);
    assert_eq!(machine.wait_for_end(), Some(0), "{}", machine.log());
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// It is refused, for this reason, and nothing of a machine is left.
fn refused(host: &Host, arguments: &[&str], reason: &str) {
    let output = host.run(&[arguments, &["--name", "refused", "--console", "off"]].concat());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 3)), "{arguments:?}: {text}");
    assert!(text.contains(reason), "{arguments:?}: {text}");
    assert_eq!(host.state("refused"), "gone");
}

fn goes_on(cpus: &str) {
    let (host, disk) = (Host::new(), Disk::new());
    let (ram, state, later) = (disk.path("ram"), disk.path("state"), disk.path("later"));
    let mut machine = begin(&host, "m", &ram, &["--cpus", cpus]);
    let report = leave(&host, &mut machine, &state);
    assert_eq!((&report["status"], &report["ram"]["bytes"]), (&json!("completed"), &json!(0)));
    assert!(std::fs::metadata(&state).unwrap().len() < 4 << 20, "only state is in it");
    let mut machine = host.restore("m", &state, &[]);
    machine.check_all();
    let report = host.motion("m")["x-whimbrel-report"]["restore"].clone();
    assert_eq!((&report["how"], &report["verified_pages"]), (&json!("in-place"), &json!(0)));
    // It goes on as often as it is left, and never twice from one state.
    leave(&host, &mut machine, &later);
    refused(&host, &["restore", &state], "was continued on");
    refused(&host, &["restore", &state, "--reclaim"], "ran on in the memory file");
    let moved = disk.path("moved");
    std::fs::rename(&ram, &moved).unwrap();
    std::fs::rename(format!("{ram}.lock"), format!("{moved}.lock")).unwrap();
    refused(&host, &["restore", &later], "No such file");
    let machine = host.restore("m", &later, &["--memory-file", &moved]);
    machine.check_all();
    assert!(machine.faults().is_empty());
}

#[test]
fn one_vcpu_goes_on_after_a_reboot() {
    goes_on("1");
}

#[test]
fn two_vcpus_go_on_after_a_reboot() {
    goes_on("2");
}

#[test]
fn a_guest_with_a_kernel_of_a_usual_size_can_still_be_reset_after_a_reboot() {
    let (host, disk) = (Host::new(), Disk::new());
    let (kernel, initrd) = (disk.path("kernel"), disk.path("initrd"));
    host.ok(&["guest", "export", "clock", &kernel]);
    std::fs::write(&initrd, vec![7; 15 << 20]).unwrap();
    let boots = ["--kernel", &kernel, "--initrd", &initrd, "--cmdline", "report=20ms"];
    let ram = ["--memory", "64M", "--memory-file", &disk.path("ram")];
    let mut machine = host.start("m", &[&boots[..], &ram].concat());
    machine.wait_for("CLOCK", |_| true);
    let state = disk.path("state");
    leave(&host, &mut machine, &state);
    std::fs::remove_file(&kernel).unwrap();
    std::fs::remove_file(&initrd).unwrap();
    let machine = host.restore("m", &state, &[]);
    host.ask("m", "system_reset", None).unwrap();
    // In the middle of a line, perhaps.
    let is_there = || machine.lines().iter().any(|line| line.contains("HELLO"));
    wait("the guest to boot again", || is_there().then_some(()));
    assert_eq!(host.state("m"), "running");
}

#[test]
fn a_memory_file_has_one_machine_at_a_time() {
    let (host, disk) = (Host::new(), Disk::new());
    let (ram, state) = (disk.path("ram"), disk.path("state"));
    let run = ["run", "--guest", "clock", "--memory", "64M", "--memory-file", &ram];
    let mut machine = begin(&host, "m", &ram, &[]);
    refused(&host, &run, "in use");
    refused(&host, &[&run[..], &["--discard-memory"]].concat(), "in use");
    machine.check_all();
    leave(&host, &mut machine, &state);
    let machine = host.restore("m", &state, &["--paused"]);
    refused(&host, &["restore", &state], "in use");
    host.ok(&["resume", "m"]);
    machine.check_all();
}

#[test]
fn ram_without_its_state_is_given_up_only_when_that_is_said() {
    let (host, disk) = (Host::new(), Disk::new());
    let (ram, state) = (disk.path("ram"), disk.path("state"));
    let run = ["run", "--guest", "clock", "--memory", "64M", "--memory-file", &ram];
    let mut machine = begin(&host, "m", &ram, &[]);
    machine.kill();
    refused(&host, &run, "--discard-memory");
    // Anew, and what belonged to the guest before belongs to it no more.
    let mut machine = begin(&host, "m", &ram, &["--discard-memory"]);
    leave(&host, &mut machine, &state);
    let mut machine = begin(&host, "m", &ram, &["--discard-memory"]);
    machine.check_all();
    machine.kill();
    refused(&host, &["restore", &state], "another machine");
}

#[test]
fn ram_that_does_not_last_is_refused_before_anything_is_touched() {
    let (host, disk) = (Host::new(), Disk::new());
    let state = disk.path("state");
    let update = ["update", "m", "--mode", "reboot", "--state", &state];
    let machine = host.selfcheck("m", &GUEST);
    let text = host.fails(3, &update);
    assert!(text.contains("--memory-file"), "{text}");
    assert_eq!(host.state("m"), "running");
    machine.check_all();
    drop(machine);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let ram = memory.path().join("ram");
    let machine = begin(&host, "m", ram.to_str().unwrap(), &[]);
    let text = host.fails(3, &update);
    assert!(text.contains("tmpfs"), "{text}");
    machine.check_all();
    assert!(!Path::new(&state).exists());
}

#[test]
fn asking_whether_it_could_touches_nothing() {
    let (host, disk) = (Host::new(), Disk::new());
    let state = disk.path("state");
    let machine = begin(&host, "m", &disk.path("ram"), &[]);
    host.ok(&["update", "m", "--mode", "reboot", "--state", &state, "--check"]);
    assert_eq!(host.state("m"), "running");
    assert!(!Path::new(&state).exists());
    machine.check_all();
}

#[test]
fn a_state_that_cannot_be_written_leaves_the_guest_where_it_is() {
    let (host, disk) = (Host::new(), Disk::new());
    let (ram, state) = (disk.path("ram"), disk.path("state"));
    let mut machine = begin(&host, "m", &ram, &[]);
    std::fs::write(&state, "something").unwrap();
    let text = host.fails(3, &["update", "m", "--mode", "reboot", "--state", &state]);
    assert!(text.contains("exists already"), "{text}");
    host.fails(1, &["update", "m", "--mode", "reboot", "--state", "/nowhere/state"]);
    assert_eq!(host.state("m"), "running");
    machine.check_all();
    std::fs::remove_file(&state).unwrap();
    leave(&host, &mut machine, &state);
    host.restore("m", &state, &[]).check_all();
}

#[test]
fn a_client_of_qmp_says_it_with_the_mode() {
    let (host, disk) = (Host::new(), Disk::new());
    let state = disk.path("state");
    let mut machine = begin(&host, "m", &disk.path("ram"), &[]);
    let ask = |command: &str, arguments: Value| host.ask("m", command, Some(arguments));
    ask("migrate-set-parameters", json!({ "mode": "cpr-reboot" })).unwrap();
    let error = ask("migrate", json!({ "uri": "tcp:127.0.0.1:1" })).unwrap_err();
    assert!(error.to_string().contains("to a file"), "{error}");
    ask("migrate", json!({ "uri": format!("file:{state}") })).unwrap();
    host.wait_for_motion("m", "completed");
    let error = host.ask("m", "cont", None).unwrap_err();
    assert!(error.to_string().contains("whimbrel restore"), "{error}");
    host.ask("m", "quit", None).unwrap();
    assert_eq!(machine.wait_for_end(), Some(0));
    host.restore("m", &state, &[]).check_all();
}

#[test]
fn ram_in_a_file_goes_wherever_other_ram_goes() {
    let (host, disk) = (Host::new(), Disk::new());
    let (ram, state, save) = (disk.path("ram"), disk.path("state"), disk.path("save"));
    let mut machine = begin(&host, "m", &ram, &[]);
    let before = host.view("m").unwrap()["pid"].clone();
    host.ok(&["update", "m", "--mode", "transfer", "--max-blackout", "unlimited"]);
    assert_ne!(host.view("m").unwrap()["pid"], before);
    assert_eq!(machine.wait_for_end(), Some(0));
    machine.check_all();
    let before = host.view("m").unwrap()["pid"].clone();
    host.ok(&["update", "m", "--mode", "exec", "--max-blackout", "unlimited"]);
    assert_eq!(host.view("m").unwrap()["pid"], before);
    machine.check_all();
    // The new process has the locks, and can leave the guest as the old one could.
    refused(&host, &["restore", &state, "--memory-file", &ram], "No such file");
    let run = ["run", "--guest", "clock", "--memory-file", &ram, "--discard-memory"];
    refused(&host, &run, "in use");
    host.ok(&["update", "m", "--mode", "reboot", "--state", &state]);
    let machine = host.restore("m", &state, &[]);
    let text = host.fails(3, &["snapshot", "m", &save, "--at", "start"]);
    assert!(text.contains("--at end"), "{text}");
    host.ok(&["snapshot", "m", &save, "--at", "end"]);
    machine.check_all();
    let copy = host.restore("copy", &save, &["--clone"]);
    copy.check_all();
    let (destination, to) = host.incoming("there", &[]);
    assert_eq!(host.migrate("m", &to, &[])["status"], "completed");
    destination.check_all();
    host.ok(&["save", "there", &save, "--force"]);
    host.restore("again", &save, &[]).check_all();
}

#[test]
fn a_file_that_is_cut_short_stops_the_guest_with_the_reason() {
    let (host, disk) = (Host::new(), Disk::new());
    let ram = disk.path("ram");
    let mut machine = begin(&host, "m", &ram, &[]);
    std::fs::File::options().write(true).open(&ram).unwrap().set_len(0).unwrap();
    host.wait_for_state("m", "io-error");
    let view = host.view("m").unwrap();
    assert!(view["reason"].as_str().unwrap().contains("cut short"), "{view:#}");
    host.run(&["resume", "m"]);
    host.wait_for_state("m", "io-error");
    host.ok(&["kill", "m"]);
    machine.wait_for_end();
}

#[test]
fn a_full_file_system_stops_the_guest_until_there_is_room() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let mount = |options: &str| {
        let arguments = ["-t", "tmpfs", "-o", options, "tmpfs"];
        let mount = Command::new("mount").args(arguments).arg(folder.path()).status();
        mount.is_ok_and(|status| status.success())
    };
    assert!(mount("size=14m"), "this test mounts a small file system, and may not");
    let ram = folder.path().join("ram");
    let ram = ram.to_str().unwrap();
    let run = ["--guest", "selfcheck", "--memory-file", ram];
    let text = host.fails(1, &[&["run"], &run[..], &GUEST, &["--console", "off"]].concat());
    assert!(text.contains("make room"), "{text}");
    let machine = host.start("m", &[&run[..], &GUEST, &["--overcommit"]].concat());
    host.wait_for_state("m", "io-error");
    let view = host.view("m").unwrap();
    assert!(view["reason"].as_str().unwrap().contains("full"), "{view:#}");
    assert!(mount("remount,size=128m"));
    host.ok(&["resume", "m"]);
    machine.wait_for("CHECK ok", |line| !line.contains("rounds=0"));
    machine.check_all();
    drop(machine);
    assert!(Command::new("umount").arg(folder.path()).status().unwrap().success());
}

/// Lets the guest go on from what was left, whatever that is; `false` where nothing was left.
fn recovers(host: &Host, ram: &str, state: &str) -> bool {
    if !Path::new(state).exists() {
        let run = ["run", "--guest", "clock", "--memory", "64M", "--memory-file", ram];
        refused(host, &["restore", state], "No such file");
        refused(host, &run, "--discard-memory");
        return false;
    }
    host.restore("m", state, &[]).check_all();
    true
}

#[test]
fn a_process_killed_at_any_time_while_it_leaves_a_guest_leaves_all_of_it_or_none() {
    let (host, disk) = (Host::new(), Disk::new());
    for round in 0..8u64 {
        let (ram, state) = (disk.path("ram"), disk.path(&format!("state-{round}")));
        let mut machine = begin(&host, "m", &ram, &["--discard-memory"]);
        let mut update = host
            .whimbrel(&["update", "m", "--mode", "reboot", "--state", &state])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(round * 7));
        machine.kill();
        update.wait().unwrap();
        let left = recovers(&host, &ram, &state);
        eprintln!("killed after {} ms: {}", round * 7, if left { "left" } else { "lost" });
    }
}

#[test]
fn a_process_killed_at_any_time_while_it_restores_a_guest_never_lets_it_run_twice() {
    let (host, disk) = (Host::new(), Disk::new());
    let ram = disk.path("ram");
    for round in 0..8u64 {
        let state = disk.path(&format!("state-{round}"));
        let mut machine = begin(&host, "m", &ram, &["--discard-memory"]);
        leave(&host, &mut machine, &state);
        // By another name: whoever waits for the console of a process that was killed would take that
        // of the next one.
        let mut machine = host.begin_restore("killed", &state, &[]);
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(15 + round * 8));
        } else {
            wait_for_claim(&state);
            std::thread::sleep(Duration::from_micros(round / 2 * 500));
        }
        machine.kill();
        // Whether it ran is in the sidecar, whatever else is known.
        let output = host.run(&["inspect", &state, "--json"]);
        let about: Value = serde_json::from_slice(&output.stdout).unwrap();
        let claimed = !about["claim"].is_null();
        let ran = generation(&ram) > about["memory"]["file"]["generation"].as_u64().unwrap();
        eprintln!("killed in round {round}: claimed {claimed}, ran {ran}");
        match (claimed, ran) {
            (false, true) => panic!("it ran without having been claimed"),
            (false, false) => host.restore("m", &state, &[]).check_all(),
            (true, false) => {
                refused(&host, &["restore", &state], "--reclaim");
                host.restore("m", &state, &["--reclaim"]).check_all();
            }
            (true, true) => {
                refused(&host, &["restore", &state, "--reclaim"], "ran on in the memory file");
            }
        }
    }
}

/// Waits until there is something where the claim is: docs/snapshot-format.md.
fn wait_for_claim(state: &str) {
    let file = std::fs::File::open(state).unwrap();
    let begun = Instant::now();
    let mut magic = [0; 8];
    while magic == [0; 8] {
        assert!(begun.elapsed() < PATIENCE, "the guest was not claimed");
        file.read_exact_at(&mut magic, 8192).unwrap();
    }
}

/// The generation that the sidecar of a memory file has: docs/live-update.md.
fn generation(ram: &str) -> u64 {
    wait("the sidecar", || std::fs::read(format!("{ram}.lock")).ok())
        .chunks(4096)
        .filter(|record| record.len() >= 512 && record.starts_with(b"WHIMRAMF"))
        .map(|record| u64::from_le_bytes(record[56..64].try_into().unwrap()))
        .max()
        .unwrap()
}
