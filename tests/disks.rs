//! Saves and restores of real guests on a disk that fails, is short, or does not answer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

#[path = "support/disk.rs"]
mod disk;

use disk::{FaultyDisk, How, What};
use serde_json::{Value, json};
use snapshot::{Origin, Reader};
use std::process::Stdio;
use std::time::Duration;
use support::{Host, Machine, wait};

const SHAPE: [&str; 6] = ["--memory", "64M", "--cpus", "2", "--cmdline", "ws=16M rate=5000"];

/// What the kernel says of them.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Where in the file of this guest its RAM lies.
const RAM: (u64, u64) = (2 << 20, 66 << 20);

fn open(file: &str) -> Reader {
    Reader::open(Origin::Path { path: file.into(), offset: 0 }, false).unwrap()
}

/// A guest that was saved to this disk.
fn saved(host: &Host, disk: &FaultyDisk) -> String {
    let mut machine = host.selfcheck("a", &SHAPE);
    let file = disk.path("a.save");
    host.ok(&["save", "a", &file]);
    assert_eq!(machine.wait_for_end(), Some(0));
    file
}

/// The guest runs, is whole, and nothing of the attempt is left.
fn is_as_before(host: &Host, machine: &Machine, disk: &FaultyDisk, left: &[&str]) {
    host.wait_for_state(&machine.name, "running");
    wait("what was begun to be gone", || (disk.names() == left).then_some(()));
    machine.check_all();
}

#[test]
fn a_disk_that_fails_leaves_the_old_file_and_the_guest_and_it_is_said_where() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let machine = host.selfcheck("a", &SHAPE);
    let _cure = disk.cure();
    let file = disk.path("a.snap");
    host.ok(&["snapshot", "a", &file, "--max-blackout", "unlimited"]);
    let old = open(&file).header().snapshot;
    let troubles = [
        (What::Writes(0, 4096), EIO, "Input/output error"),
        (What::Writes(4096, 8192), EIO, "mark of completeness"),
        (What::Writes(RAM.0, RAM.1), EIO, "at offset"),
        (What::Writes(RAM.1, u64::MAX), ENOSPC, "No space left"),
        (What::Syncs(1), EIO, "durable"),
    ];
    for (what, number, said_so) in troubles {
        for verb in ["save", "snapshot"] {
            disk.ails(what, How::Fails(number));
            let more = ["--force", "--max-blackout", "unlimited"];
            let more = if verb == "save" { &more[..1] } else { &more[..] };
            let said = host.fails(1, &[&[verb, "a", &file], more].concat());
            assert!(said.contains(said_so) && said.contains("a.snap"), "{what:?} {verb}: {said}");
            disk.heals();
            is_as_before(&host, &machine, &disk, &["a.snap"]);
            assert_eq!(open(&file).header().snapshot, old, "{what:?} {verb}");
        }
    }
    // One that was stopped stays so.
    host.ok(&["pause", "a"]);
    disk.ails(What::Syncs(1), How::Fails(EIO));
    host.fails(1, &["save", "a", &file, "--force"]);
    assert_eq!(host.state("a"), "paused");
}

#[test]
fn what_is_written_and_read_in_pieces_is_whole() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    disk.ails(What::Writes(0, u64::MAX), How::IsShort);
    let file = saved(&host, &disk);
    disk.ails(What::Reads(0, u64::MAX), How::IsShort);
    for how in ["--eager", "--lazy"] {
        host.restore("b", &file, &[how, "--clone"]).check_all();
    }
    assert!(open(&file).verify(2, &|_| {}).is_empty());
}

#[test]
fn a_save_whose_disk_does_not_answer_can_be_cancelled_and_the_guest_goes_on_at_once() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let machine = host.selfcheck("a", &SHAPE);
    let _cure = disk.cure();
    let file = disk.path("a.save");
    for what in [What::Writes(RAM.0, RAM.1), What::Syncs(1)] {
        disk.ails(what, How::Hangs);
        let mut command = host.whimbrel(&["save", "a", &file]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait("somebody to wait for the disk", || (disk.waiting() > 0).then_some(()));
        assert_eq!(host.state("a"), "save-vm");
        host.ok(&["qmp", "a", "migrate_cancel"]);
        assert_eq!(child.wait().unwrap().code(), Some(4));
        host.wait_for_state("a", "running");
        assert!(disk.waiting() > 0, "the disk has answered, and this test shows nothing");
        machine.check_all();
        disk.heals();
        is_as_before(&host, &machine, &disk, &[]);
    }
}

#[test]
fn a_save_whose_disk_does_not_answer_is_given_up_in_time() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let machine = host.selfcheck("a", &SHAPE);
    let _cure = disk.cure();
    let file = disk.path("a.save");
    disk.ails(What::Writes(RAM.0, RAM.1), How::Hangs);
    let said = host.fails(1, &["save", "a", &file]);
    assert!(said.contains("takes too long") && said.contains("a.save"), "{said}");
    assert!(disk.waiting() > 0, "the disk has answered, and this test shows nothing");
    host.wait_for_state("a", "running");
    machine.check_all();
    disk.heals();
    is_as_before(&host, &machine, &disk, &[]);
    host.ok(&["save", "a", &file]);
    assert!(open(&file).verify(2, &|_| {}).is_empty());
}

/// The last page that is in the file.
fn last_page(file: &str) -> What {
    let reader = open(file);
    let place = reader.place_of(reader.present().runs().last().unwrap().end() - 1);
    What::Reads(place, place + 4096)
}

/// Restores a guest lazily from a disk that does not answer for this. It runs already.
fn waits(host: &Host, disk: &FaultyDisk, file: &str, what: What) -> (Machine, qmp::Client) {
    disk.ails(what, How::Hangs);
    let machine = host.restore("b", file, &["--lazy"]);
    wait("somebody to wait for the disk", || (disk.waiting() > 0).then_some(()));
    (machine, qmp::Client::connect(&host.folder().join("b.sock")).unwrap())
}

/// It is said that a page cannot be had, and which.
fn outage(host: &Host, mut client: qmp::Client) -> Value {
    let told = wait("word of the outage", || {
        let event = client.next_event(Some(Duration::from_secs(1))).ok()??;
        (event.event == "x-whimbrel-memory-outage").then_some(event.data)
    });
    host.wait_for_state("b", "io-error");
    assert!(told["offset"].is_u64() && told["address"].is_u64(), "{told}");
    told
}

#[test]
fn a_guest_whose_page_cannot_be_read_stops_until_it_can() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let file = saved(&host, &disk);
    let last = last_page(&file);
    let (machine, client) = waits(&host, &disk, &file, last);
    let _cure = disk.cure();
    disk.fails(last, EIO);
    let told = outage(&host, client);
    assert!(told["reason"].as_str().unwrap().contains("Input/output error"), "{told}");
    assert!(host.ok(&["status", "b"]).contains("Input/output error"));
    // It fails again, and is said again.
    host.run(&["resume", "b"]);
    host.wait_for_state("b", "io-error");
    disk.heals();
    host.ok(&["resume", "b"]);
    host.wait_for_state("b", "running");
    machine.check_all();
}

#[test]
fn a_guest_whose_page_does_not_come_stops_and_everything_answers() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let file = saved(&host, &disk);
    let (machine, client) = waits(&host, &disk, &file, last_page(&file));
    let _cure = disk.cure();
    outage(&host, client);
    assert!(disk.waiting() > 0, "the disk has answered, and this test shows nothing");
    host.ok(&["status", "b"]);
    host.ask("b", "stop", None).unwrap();
    host.ask("b", "query-migrate", None).unwrap();
    let save = json!({ "uri": format!("file:{}", disk.path("c.save")) });
    // What needs the page cannot be done.
    let _ = host.ask("b", "migrate", save);
    host.ask("b", "query-status", None).unwrap();
    assert!(disk.waiting() > 0, "the disk has answered, and this test shows nothing");
    disk.heals();
    host.run(&["qmp", "b", "migrate_cancel"]);
    wait("the guest to go on", || {
        let _ = host.run(&["resume", "b"]);
        (host.state("b") == "running").then_some(())
    });
    machine.check_all();
}

#[test]
fn quit_is_obeyed_while_a_guest_waits_for_a_page_that_does_not_come() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let file = saved(&host, &disk);
    let (mut machine, _) = waits(&host, &disk, &file, last_page(&file));
    let _cure = disk.cure();
    host.ask("b", "quit", None).unwrap();
    assert!(disk.waiting() > 0, "the disk has answered, and this test shows nothing");
    // A thread that the kernel has wait for a disk ends with its answer, and no sooner.
    disk.heals();
    machine.wait_for_end();
    assert!(open(&file).claim().is_some(), "it ran");
}

/// Waits until it is said that all RAM has come, and how much it was.
fn complete(client: &mut qmp::Client) -> u64 {
    wait("word that all has come", || {
        let event = client.next_event(Some(Duration::from_secs(1))).ok()??;
        (event.event == "x-whimbrel-memory-complete").then(|| event.data["bytes"].as_u64().unwrap())
    })
}

#[test]
fn a_guest_whose_memory_still_comes_is_copied_moved_and_saved() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let file = saved(&host, &disk);
    let (last, bytes) = (last_page(&file), open(&file).present().count() * 4096);
    let elsewhere = |name: &str| host.folder().join(name).to_str().unwrap().to_owned();
    let begun = |machine: &str, verb: &[&str]| {
        let mut command = host.whimbrel(verb);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // It may wait for the page before its first pass.
        wait("it to be under way", || {
            let status = host.motion(machine)["status"].clone();
            ["setup", "active"].iter().any(|under_way| status == *under_way).then_some(())
        });
        child
    };
    let unlimited = ["--max-blackout", "unlimited"];
    let (destination, to) = host.incoming("there", &[]);
    let (copy, save) = (elsewhere("copy.snap"), elsewhere("c.save"));
    let verbs = [
        ("b", [&["snapshot", "b", &copy][..], &unlimited].concat()),
        ("c", vec!["save", "c", &save]),
        ("d", [&["migrate", "d", &to][..], &unlimited].concat()),
    ];
    for (name, verb) in &verbs {
        disk.ails(last, How::Hangs);
        let machine = host.restore(name, &file, &["--lazy", "--clone", "--io-stall", "10m"]);
        let _cure = disk.cure();
        wait("somebody to wait for the disk", || (disk.waiting() > 0).then_some(()));
        let socket = host.folder().join(format!("{name}.sock"));
        let mut client = qmp::Client::connect(&socket).unwrap();
        let mut child = begun(name, verb);
        assert!(disk.waiting() > 0, "the disk has answered, and this test shows nothing");
        disk.heals();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{verb:?}");
        if *name == "b" {
            assert_eq!(complete(&mut client), bytes);
            machine.check_all();
        }
    }
    destination.check_all();
    for (name, file) in [("e", &copy), ("f", &save)] {
        assert!(open(file).verify(2, &|_| {}).is_empty());
        host.restore(name, file, &[]).check_all();
    }
}

/// A guest that waits for its last page, which does not come, and will for as long as it takes.
fn waits_long(host: &Host, disk: &FaultyDisk, file: &str, name: &str) -> Machine {
    disk.ails(last_page(file), How::Hangs);
    let how = ["--lazy", "--clone", "--io-stall", "10m"];
    let machine = host.restore(name, file, &how);
    wait("somebody to wait for the disk", || (disk.waiting() > 0).then_some(()));
    // It looks at all of its pages, and soon waits for that one.
    machine.type_byte(b'c');
    std::thread::sleep(Duration::from_secs(1));
    machine
}

#[test]
fn a_move_of_a_guest_that_waits_for_a_page_waits_for_longer_than_its_link_may_be_silent() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let file = saved(&host, &disk);
    let limit = ["--stall-limit", "1s"];
    let (destination, to) = host.incoming("there", &limit);
    let _source = waits_long(&host, &disk, &file, "b");
    let _cure = disk.cure();
    let words = [&["migrate", "b", &to, "--max-blackout", "unlimited"], &limit[..]].concat();
    let mut command = host.whimbrel(&words);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Each side hears from the other meanwhile.
    std::thread::sleep(Duration::from_millis(2500));
    let status = host.motion("b")["status"].clone();
    assert!(status == "setup" || status == "active", "{status}");
    assert!(disk.waiting() > 0, "the disk has answered, and this test shows nothing");
    disk.heals();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    destination.check_all();
}

#[test]
fn a_move_of_a_guest_that_waits_for_a_page_is_cancelled_at_once() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let file = saved(&host, &disk);
    let (_there, to) = host.incoming("there", &[]);
    let machine = waits_long(&host, &disk, &file, "b");
    let _cure = disk.cure();
    host.ask("b", "migrate", json!({ "uri": to })).unwrap();
    wait("it to wait for the page", || {
        let motion = host.motion("b");
        let note = motion["x-whimbrel-report"]["progress"]["note"].as_str().unwrap_or_default();
        (motion["status"] == "active" || note.contains("waits for a page")).then_some(())
    });
    host.ask("b", "migrate_cancel", None).unwrap();
    host.ask("b", "stop", None).unwrap();
    assert!(disk.waiting() > 0, "the disk has answered, and this test shows nothing");
    disk.heals();
    host.wait_for_motion("b", "cancelled");
    host.ok(&["resume", "b"]);
    machine.check_all();
}

#[test]
fn a_mapped_page_that_cannot_be_read_stops_the_guest_until_it_can() {
    let host = Host::new();
    let disk = FaultyDisk::mount(host.folder());
    let file = saved(&host, &disk);
    let last = last_page(&file);
    disk.ails(last, How::Fails(EIO));
    let machine = host.restore("b", &file, &["--mmap", "--no-verify"]);
    let _cure = disk.cure();
    // It looks at all of its pages.
    machine.type_byte(b'c');
    host.wait_for_state("b", "io-error");
    let reason = host.view("b").unwrap()["reason"].clone();
    assert!(
        reason.as_str().is_some_and(|why| why.contains("could not provide a page")),
        "{reason}"
    );
    // It still cannot.
    host.run(&["resume", "b"]);
    host.wait_for_state("b", "io-error");
    disk.heals();
    host.ok(&["resume", "b"]);
    host.wait_for_state("b", "running");
    machine.check_all();
}
