//! Guests that are written to files: what a save and a snapshot promise, and what is left when they
//! fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use snapshot::{Kind, Origin, Reader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Host, wait};

fn path(host: &Host, name: &str) -> String {
    host.folder().join(name).to_str().unwrap().to_owned()
}

/// Writes a guest to a file, and gives the report.
fn write(host: &Host, arguments: &[&str]) -> Value {
    let text = host.ok(&[arguments, &["--json"]].concat());
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn open(path: &str) -> Reader {
    Reader::open(Origin::Path { path: path.into(), offset: 0 }, false).unwrap()
}

/// The file is complete, of this kind, and every page of it is what was written.
fn is_sound(path: &str, kind: Kind) -> Reader {
    let reader = open(path);
    assert_eq!(reader.header().kind, kind);
    let wrong = reader.verify(2, &|_| {});
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(reader.claim().is_none());
    reader
}

/// What is in a folder and looks as if it were of a file that was being written.
fn left_behind(host: &Host, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(host.folder()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(name)).collect()
}

#[test]
fn a_save_holds_the_whole_guest_and_ends_its_machine() {
    let host = Host::new();
    let file = path(&host, "a.snap");
    let shape = ["--memory", "128M", "--cpus", "2", "--cmdline", "ws=32M rate=5000"];
    let mut machine = host.selfcheck("a", &shape);
    let report = write(&host, &["save", "a", &file]);
    assert_eq!(report["status"], "completed", "{report:#}");
    assert_eq!((&report["frozen"], &report["file"]["kind"]), (&json!(true), &json!("save")));
    assert_eq!(report["passes"].as_array().unwrap().len(), 1, "nothing was written twice");
    assert!(report["blackout"].is_null(), "it runs nowhere: {report:#}");
    assert_eq!(machine.wait_for_end(), Some(0));
    let reader = is_sound(&file, Kind::Save);
    // The guest has not come to each of its 8192 pages yet.
    let present = reader.present().count();
    assert!(present >= 7000, "{present} pages are in the file");
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size <= (128 << 20) + (8 << 20), "{size} bytes are more than RAM and 8 MiB");
    assert_eq!(report["file"]["snapshot"], reader.header().snapshot.to_string());
}

#[test]
fn a_save_with_keep_leaves_a_machine_that_can_never_go_on() {
    let host = Host::new();
    let file = path(&host, "a.snap");
    let _machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=8M rate=1000"]);
    write(&host, &["save", "a", &file, "--keep"]);
    assert_eq!(host.state("a"), "postmigrate");
    let said = host.fails(1, &["resume", "a"]);
    assert!(said.contains("saved to") && said.contains("restore"), "{said}");
    let said = host.fails(1, &["save", "a", &path(&host, "b.snap")]);
    assert!(said.contains("saved to"), "{said}");
    host.ok(&["kill", "a"]);
}

#[test]
fn a_snapshot_is_of_one_moment_and_the_guest_goes_on() {
    let host = Host::new();
    let shape = ["--memory", "128M", "--cpus", "2", "--cmdline", "ws=16M rate=20000"];
    let machine = host.selfcheck("a", &shape);
    for turn in 0..3 {
        let file = path(&host, &format!("{turn}.snap"));
        let report = write(&host, &["snapshot", "a", &file, "--max-blackout", "unlimited"]);
        assert_eq!(report["status"], "completed", "{report:#}");
        assert_eq!(report["file"]["kind"], "snapshot");
        assert_eq!(host.state("a"), "running");
        let stages = report["blackout"]["stages"].as_array().unwrap();
        let sum: u64 = stages.iter().map(|stage| stage["ns"].as_u64().unwrap()).sum();
        assert_eq!(report["blackout"]["ns"], sum, "{report:#}");
        let reader = is_sound(&file, Kind::Snapshot);
        assert!(!reader.recent().is_empty(), "what it wrote last is known");
        machine.check_all();
    }
    // It can still be moved.
    let (destination, to) = host.incoming("b", &[]);
    host.migrate("a", &to, &["--max-blackout", "unlimited"]);
    destination.check_all();
}

#[test]
fn a_copy_of_a_guest_that_writes_flat_out_is_whole_or_there_is_none() {
    let host = Host::new();
    let shape = ["--memory", "64M", "--cpus", "2", "--cmdline", "ws=16M rate=max"];
    let machine = host.selfcheck("a", &shape);
    for turn in 0..2 {
        let file = path(&host, &format!("{turn}.snap"));
        let report = write(&host, &["snapshot", "a", &file, "--max-blackout", "unlimited"]);
        assert_eq!(report["status"], "completed", "{report:#}");
        is_sound(&file, Kind::Snapshot);
        // Both write flat out, and need not at the same time.
        host.ok(&["pause", "a"]);
        host.restore("b", &file, &["--clone"]).check_all();
        host.ok(&["resume", "a"]);
    }
    // Its first pass is not over by then.
    let file = path(&host, "x.snap");
    let limits = ["--max-blackout", "1ms", "--timeout", "500ms", "--max-bandwidth", "1M", "--json"];
    let said = host.fails(1, &[&["snapshot", "a", &file][..], &limits].concat());
    let report: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(report["error"]["code"], "timed-out", "{report:#}");
    wait("what was begun to be gone", || left_behind(&host, "x.snap").is_empty().then_some(()));
    assert_eq!(host.state("a"), "running");
    machine.check_all();
}

#[test]
fn a_guest_whose_kernel_does_not_fit_beside_its_memory_is_saved_without_it() {
    let host = Host::new();
    let (kernel, initrd) = (path(&host, "kernel"), path(&host, "initrd"));
    host.ok(&["guest", "export", "selfcheck", &kernel]);
    // A file of 64 MiB of RAM may have 8 MiB beside it.
    std::fs::write(&initrd, vec![1; 9 << 20]).unwrap();
    let boot = ["--kernel", &kernel, "--initrd", &initrd, "--cmdline", "ws=8M rate=1000"];
    let machine = host.start("a", &[&boot[..], &["--memory", "64M"]].concat());
    machine.wait_for("CHECK ok", |line| line.contains("scope=passing"));
    let file = path(&host, "a.snap");
    write(&host, &["save", "a", &file]);
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size <= (64 << 20) + (8 << 20), "{size} bytes are more than RAM and 8 MiB");
    is_sound(&file, Kind::Save);
    host.ok(&["restore", &file, "--name", "b", "--detach"]);
    assert_eq!(host.state("b"), "running");
    host.ok(&["kill", "b"]);
}

#[test]
fn a_file_that_is_there_is_refused_unless_it_is_to_be_replaced() {
    let host = Host::new();
    let file = path(&host, "a.snap");
    std::fs::write(&file, "somebody's").unwrap();
    let machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=8M rate=1000"]);
    for verb in ["save", "snapshot"] {
        let said = host.fails(3, &[verb, "a", &file]);
        assert!(said.contains("--force"), "{said}");
        assert_eq!(std::fs::read(&file).unwrap(), b"somebody's");
        assert_eq!(host.state("a"), "running");
    }
    write(&host, &["snapshot", "a", &file, "--force"]);
    is_sound(&file, Kind::Snapshot);
    machine.check_all();
}

/// A small file system, until the value is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir(&at).unwrap();
        let mount = ["-t", "tmpfs", "-o", &format!("size={size}"), "none"];
        let done = Command::new("mount").args(mount).arg(&at).status().unwrap();
        assert!(done.success(), "this test mounts a small file system, and may not");
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_full_leaves_the_old_file_and_the_guest_as_they_were() {
    let host = Host::new();
    let disk = SmallDisk::mount(host.folder().join("disk"), "16M");
    let file = disk.0.join("a.snap");
    std::fs::write(&file, "the old one").unwrap();
    let machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=24M rate=1000"]);
    for verb in ["save", "snapshot"] {
        let said = host.fails(1, &[verb, "a", file.to_str().unwrap(), "--force"]);
        assert!(said.contains("No space left") && said.contains("still here"), "{said}");
        assert_eq!(std::fs::read(&file).unwrap(), b"the old one");
        wait("what was begun to be gone", || {
            (std::fs::read_dir(&disk.0).unwrap().count() == 1).then_some(())
        });
        host.wait_for_state("a", "running");
        machine.check_all();
    }
    // Stopped it stays stopped.
    host.ok(&["pause", "a"]);
    host.fails(1, &["save", "a", file.to_str().unwrap(), "--force"]);
    assert_eq!(host.state("a"), "paused");
    host.ok(&["resume", "a"]);
    machine.check_all();
}

/// Begins to write a guest so slowly that there is time for something to happen.
fn begin(host: &Host, verb: &str, file: &str, more: &[&str]) -> std::process::Child {
    let all = [&[verb, "a", file, "--max-bandwidth", "2M"][..], more].concat();
    let child = host.whimbrel(&all).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until_written(host);
    child
}

fn wait_until_written(host: &Host) {
    wait("a file that is being written", || {
        let motion = host.motion("a");
        let some = motion["ram"]["transferred"].as_u64().is_some_and(|bytes| bytes > 0);
        (some && motion["status"] == "active").then_some(())
    });
}

#[test]
fn a_cancelled_save_leaves_no_file_and_the_guest_goes_on() {
    let host = Host::new();
    let machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=24M rate=1000"]);
    for verb in ["save", "snapshot"] {
        let mut child = begin(&host, verb, &path(&host, "x.snap"), &[]);
        host.ok(&["qmp", "a", "migrate_cancel"]);
        assert_eq!(child.wait().unwrap().code(), Some(4), "{verb}");
        wait("what was begun to be gone", || left_behind(&host, "x.snap").is_empty().then_some(()));
        assert_eq!(host.state("a"), "running");
        machine.check_all();
    }
}

#[test]
fn while_a_guest_is_saved_cont_is_refused_or_cancels_as_was_said() {
    let host = Host::new();
    let machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=24M rate=1000"]);
    let file = path(&host, "x.snap");
    let mut child = begin(&host, "save", &file, &[]);
    assert_eq!(host.state("a"), "save-vm");
    let said = host.fails(1, &["resume", "a"]);
    assert!(said.contains("its save to") && said.contains(&file), "{said}");
    host.ok(&["qmp", "a", "migrate_cancel"]);
    child.wait().unwrap();
    let mut child = begin(&host, "save", &file, &["--cont-cancels"]);
    host.ok(&["resume", "a"]);
    assert_eq!(child.wait().unwrap().code(), Some(4));
    assert_eq!(host.state("a"), "running");
    wait("what was begun to be gone", || left_behind(&host, "x.snap").is_empty().then_some(()));
    machine.check_all();
}

#[test]
fn a_machine_killed_while_it_is_saved_leaves_the_old_file() {
    let host = Host::new();
    let file = path(&host, "a.snap");
    std::fs::write(&file, "the old one").unwrap();
    let mut machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=24M rate=1000"]);
    let mut child = begin(&host, "save", &file, &["--force"]);
    machine.kill();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(std::fs::read(&file).unwrap(), b"the old one");
}

#[test]
fn a_stopped_guest_that_qmp_migrates_to_a_file_may_be_continued_afterwards() {
    let host = Host::new();
    let file = path(&host, "a.snap");
    let machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=24M rate=1000"]);
    host.ok(&["pause", "a"]);
    let uri = json!({ "uri": format!("file:{file}") });
    let no_faster_than = |rate: u64| {
        host.ask("a", "migrate-set-parameters", json!({ "max-bandwidth": rate })).unwrap();
    };
    no_faster_than(2 << 20);
    host.ask("a", "migrate", uri.clone()).unwrap();
    wait_until_written(&host);
    // Not as long as it is written.
    let said = host.fails(1, &["resume", "a"]);
    assert!(said.contains("its snapshot to") && said.contains(&file), "{said}");
    assert_eq!(host.motion("a")["status"], "active");
    no_faster_than(0);
    host.wait_for_motion("a", "completed");
    assert_eq!(host.state("a"), "postmigrate");
    is_sound(&file, Kind::Snapshot);
    host.ok(&["resume", "a"]);
    assert_eq!(host.state("a"), "running");
    machine.check_all();
    // A guest that runs is stopped at the end, as QEMU does it.
    std::fs::remove_file(&file).unwrap();
    host.ask("a", "migrate", uri).unwrap();
    host.wait_for_motion("a", "completed");
    assert_eq!(host.state("a"), "postmigrate");
    is_sound(&file, Kind::Snapshot);
    host.ok(&["resume", "a"]);
    machine.check_all();
}

#[test]
fn a_guest_is_held_at_its_point_of_consistency_until_told_to_go_on() {
    let host = Host::new();
    let machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=8M rate=1000"]);
    let on = json!({"capabilities": [{"capability": "pause-before-switchover", "state": true}]});
    host.ask("a", "migrate-set-capabilities", on).unwrap();
    for (name, arguments) in [
        ("copy.snap", json!({"x-whimbrel-snapshot": true})),
        ("save.snap", json!({"x-whimbrel-frozen": true})),
    ] {
        let file = path(&host, name);
        let mut arguments = arguments;
        arguments["uri"] = json!(format!("file:{file}"));
        host.ask("a", "migrate", arguments).unwrap();
        host.wait_for_motion("a", "pre-switchover");
        assert_eq!(host.state("a"), "save-vm");
        assert!(!Path::new(&file).exists(), "nothing is complete yet");
        let go = json!({"state": "pre-switchover"});
        host.ask("a", "migrate-continue", go).unwrap();
        host.wait_for_motion("a", "completed");
        open(&file);
        if name == "copy.snap" {
            host.wait_for_state("a", "running");
            machine.check_all();
        } else {
            assert_eq!(host.state("a"), "postmigrate");
        }
    }
}

#[test]
fn what_stands_still_is_written_without_dirty_logging() {
    let host = Host::new();
    let machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=8M rate=1000"]);
    let calls = |write: &dyn Fn()| {
        let trace = host.folder().join("trace");
        let mut strace = Command::new("strace")
            .args(["-f", "-e", "trace=ioctl", "-o"])
            .arg(&trace)
            .args(["-p", &machine.pid().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("this test needs strace");
        // It says when it is there.
        let mut said = std::io::BufReader::new(strace.stderr.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        assert!(line.contains("attached"), "{line}");
        write();
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&strace),
            rustix::process::Signal::INT,
        )
        .unwrap();
        strace.wait().unwrap();
        let text = std::fs::read_to_string(&trace).unwrap();
        let dirty = ["DIRTY_LOG", "flags=KVM_MEM_LOG_DIRTY_PAGES"];
        text.lines().filter(|l| dirty.iter().any(|what| l.contains(what))).count()
    };
    let live = path(&host, "live.snap");
    let live = calls(&|| {
        write(&host, &["snapshot", "a", &live, "--max-blackout", "unlimited"]);
    });
    assert!(live > 0, "a live snapshot logs writes, or this test sees nothing");
    // As QEMU's clients do it.
    host.ok(&["pause", "a"]);
    let plain = json!({ "uri": format!("file:{}", path(&host, "plain.snap")) });
    let plain = calls(&|| {
        host.ask("a", "migrate", plain.clone()).unwrap();
        host.wait_for_motion("a", "completed");
    });
    assert_eq!(plain, 0);
    host.ok(&["resume", "a"]);
    let saved = path(&host, "a.snap");
    let saved = calls(&|| {
        write(&host, &["save", "a", &saved, "--keep"]);
    });
    assert_eq!(saved, 0);
}
