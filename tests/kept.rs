//! `kill -9` in every phase of writing a guest to a file and of taking it out again: what is left is
//! what the table says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/disk.rs"]
mod disk;
mod support;

use disk::{FaultyDisk, How, What};
use rustix::process::Signal;
use snapshot::{Origin, Reader};
use std::fmt;
use std::process::Stdio;
use support::{Host, Machine, wait};

/// Small, so that it is written and read in no time.
const SHAPE: [&str; 6] = ["--memory", "16M", "--cpus", "2", "--cmdline", "ws=4M rate=5000"];
/// Where its RAM lies in a file.
const RAM: What = What::Writes(2 << 20, 18 << 20);
const EIO: i32 = 5;

/// Where it is when the process is killed: the disk does not answer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Making,
    Pages,
    Syncing,
    Marking,
    SyncingMark,
    Publishing,
    Filling,
    FillingLazily,
    Claiming,
    SyncingClaim,
    RunningLazily,
    Running,
}

/// What is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Old,
    New,
    Unclaimed,
    Claimed,
}

const WRITING: [(Phase, Left); 6] = [
    (Phase::Making, Left::Old),
    (Phase::Pages, Left::Old),
    (Phase::Syncing, Left::Old),
    (Phase::Marking, Left::Old),
    (Phase::SyncingMark, Left::Old),
    (Phase::Publishing, Left::New),
];

const READING: [(Phase, Left); 6] = [
    (Phase::Filling, Left::Unclaimed),
    (Phase::FillingLazily, Left::Unclaimed),
    (Phase::Claiming, Left::Unclaimed),
    (Phase::SyncingClaim, Left::Claimed),
    (Phase::RunningLazily, Left::Claimed),
    (Phase::Running, Left::Claimed),
];

impl Phase {
    /// What the disk does not do then.
    fn trouble(self) -> Option<What> {
        Some(match self {
            Self::Making => What::Writes(0, 4096),
            Self::Pages => RAM,
            Self::Syncing | Self::SyncingClaim => What::Syncs(1),
            Self::Marking => What::Writes(4096, 8192),
            Self::SyncingMark => What::Syncs(2),
            Self::Publishing => What::FolderSyncs,
            Self::Filling | Self::FillingLazily => What::Reads(2 << 20, 18 << 20),
            Self::Claiming => What::Writes(8192, 12288),
            Self::RunningLazily | Self::Running => return None,
        })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Making => "the file is made",
            Self::Pages => "pages are written",
            Self::Syncing => "what was written is made durable",
            Self::Marking => "the mark of completeness is written",
            Self::SyncingMark => "the mark is made durable",
            Self::Publishing => "the name is made durable",
            Self::Filling => "RAM is filled (`--eager`)",
            Self::FillingLazily => "RAM begins to come (`--lazy --paused`)",
            Self::Claiming => "the claim is written",
            Self::SyncingClaim => "the claim is made durable",
            Self::RunningLazily => "the guest runs, and its RAM comes",
            Self::Running => "the guest runs, and all is in",
        })
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "the old file, or none",
            Self::New => "the new file, complete",
            Self::Unclaimed => "the file as it was: restore again",
            Self::Claimed => "a claimed file: `--reclaim`",
        })
    }
}

fn snapshot_in(file: &str) -> uuid::Uuid {
    let reader = Reader::open(Origin::Path { path: file.into(), offset: 0 }, false).unwrap();
    assert!(reader.verify(2, &|_| {}).is_empty());
    reader.header().snapshot
}

/// Kills a process that waits for a disk, which then answers that it failed.
fn kill(machine: &mut Machine, disk: &FaultyDisk, what: Option<What>) {
    machine.signal(Signal::KILL);
    match what {
        Some(what) => disk.fails(what, EIO),
        None => disk.heals(),
    }
    assert_eq!(machine.wait_for_end(), None, "it ended otherwise");
    disk.heals();
}

#[test]
fn a_kill_while_a_guest_is_written_leaves_what_the_table_says() {
    for (phase, left) in WRITING {
        for verb in ["save", "snapshot"] {
            println!("{verb}: {phase}");
            let host = Host::new();
            let disk = FaultyDisk::mount(host.folder());
            let file = disk.path("a.snap");
            let mut machine = host.selfcheck("a", &SHAPE);
            let _cure = disk.cure();
            host.ok(&["snapshot", "a", &file, "--max-blackout", "unlimited"]);
            let old = snapshot_in(&file);
            disk.ails(phase.trouble().unwrap(), How::Hangs);
            let mut command = host.whimbrel(&[verb, "a", &file, "--force"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            wait("it to wait for the disk", || (disk.waiting() > 0).then_some(()));
            kill(&mut machine, &disk, phase.trouble());
            assert_eq!(child.wait().unwrap().code(), Some(1));
            assert_eq!(snapshot_in(&file) == old, left == Left::Old, "{verb}: {phase}");
            host.restore("b", &file, &[]).check_all();
        }
    }
}

#[test]
fn a_kill_while_a_guest_is_restored_leaves_what_the_table_says() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let mut machine = host.selfcheck("a", &SHAPE);
    let saved = host.folder().join("a.save");
    host.ok(&["save", "a", saved.to_str().unwrap()]);
    assert_eq!(machine.wait_for_end(), Some(0));
    for (number, (phase, left)) in READING.into_iter().enumerate() {
        println!("{phase}");
        let (name, file) = (format!("b{number}"), disk.path(&format!("{number}.save")));
        std::fs::copy(&saved, &file).unwrap();
        let trouble = phase.trouble();
        trouble.into_iter().for_each(|what| disk.ails(what, How::Hangs));
        let lazily: &[&str] = match phase {
            Phase::Filling | Phase::Running => &["--eager"],
            Phase::FillingLazily => &["--lazy", "--paused"],
            _ => &["--lazy"],
        };
        let mut machine = host.begin_restore(&name, &file, lazily);
        let _cure = disk.cure();
        match trouble {
            Some(_) => wait("it to wait for the disk", || (disk.waiting() > 0).then_some(())),
            None => host.wait_for_state(&name, "running"),
        }
        if phase == Phase::RunningLazily {
            disk.ails(What::Reads(2 << 20, 18 << 20), How::Hangs);
        }
        kill(&mut machine, &disk, trouble);
        let again = format!("c{number}");
        if left == Left::Claimed {
            let said = host.fails(3, &["restore", &file, "--name", &again, "--console", "off"]);
            assert!(said.contains("--reclaim"), "{phase}: {said}");
            host.restore(&again, &file, &["--reclaim"]).check_all();
        } else {
            host.restore(&again, &file, &[]).check_all();
        }
    }
}

#[test]
fn the_table_for_operators_is_the_one_that_is_tested() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failures.md");
    let document = std::fs::read_to_string(path).unwrap();
    for (verb, table) in [("written", WRITING), ("restored", READING)] {
        for (phase, left) in table {
            let row = format!("| {verb}: {phase} | {left} |");
            assert!(document.contains(&row), "docs/failures.md has no line\n{row}");
        }
    }
}
