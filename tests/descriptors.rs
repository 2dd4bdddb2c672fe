//! Moves over connections, and saves to files, that somebody else opened and handed over, as a
//! cluster manager does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use qmp::Client;
use serde_json::{Value, json};
use snapshot::{Origin, Reader};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use support::{Host, wait};

const TIME: Option<Duration> = Some(Duration::from_secs(20));

fn client(host: &Host, name: &str) -> Client {
    Client::connect(&host.folder().join(format!("{name}.sock"))).unwrap()
}

/// Passes one end of each of three connections to each machine, under these names.
fn connect(source: &mut Client, destination: &mut Client) {
    for tail in ["", "-0", "-1"] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        source.pass_descriptor(&format!("out{tail}"), ours.as_fd(), TIME).unwrap();
        destination.pass_descriptor(&format!("in{tail}"), theirs.as_fd(), TIME).unwrap();
    }
}

/// Whether a report says what is lost where a link cannot be made again.
fn says_that_nobody_can_be_asked(report: &Value) -> bool {
    let note = &report["notes"][0];
    note.as_str().is_some_and(|note| note.contains("fd:out") && note.contains("handover resolve"))
}

#[test]
fn given_descriptors_carry_a_move_and_its_events_are_told() {
    let host = Host::new();
    let _source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M rate=5000"]);
    let destination = host.start("b", &["--incoming", "defer"]);
    host.wait_for_state("b", "inmigrate");
    // Whoever only asks hears, too, what cannot be done over descriptors.
    let asked = host.start("c", &["--incoming", "defer"]);
    host.wait_for_state("c", "inmigrate");
    let (mut a, mut c) = (client(&host, "a"), client(&host, "c"));
    connect(&mut a, &mut c);
    c.execute("migrate-incoming", Some(json!({ "uri": "fd:in" })), TIME).unwrap();
    let check = json!({ "uri": "fd:out", "x-whimbrel-check": true });
    a.execute("migrate", Some(check), TIME).unwrap();
    let report = || host.motion("a")["x-whimbrel-report"].clone();
    wait("the check", || (report()["checked"] == true).then_some(()));
    assert!(says_that_nobody_can_be_asked(&report()), "{}", report());
    drop((a, c, asked));

    let (mut a, mut b) = (client(&host, "a"), client(&host, "b"));
    connect(&mut a, &mut b);
    b.execute("migrate-incoming", Some(json!({ "uri": "fd:in" })), TIME).unwrap();
    a.execute("migrate-set-parameters", Some(json!({ "multifd-channels": 2 })), TIME).unwrap();
    a.execute("migrate", Some(json!({ "uri": "fd:out" })), TIME).unwrap();
    destination.wait_for("CLOCK", |_| true);
    destination.check_all();
    assert_eq!(host.state("a"), "postmigrate");
    let report = &host.motion("a")["x-whimbrel-report"];
    assert!(says_that_nobody_can_be_asked(report), "{report}");
    assert!(host.ok(&["status", "a"]).contains("no second connection"));
    let mut told = Vec::new();
    let end = json!({ "status": "completed" });
    while !told.contains(&("MIGRATION".to_owned(), end.clone())) {
        let event = a.next_event(TIME).unwrap().unwrap();
        told.push((event.event, event.data));
    }
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["MIGRATION", "MIGRATION_PASS", "STOP"] {
        assert!(names.contains(&name), "{told:?}");
    }
    let statuses: Vec<&Value> =
        told.iter().filter(|(n, _)| n == "MIGRATION").map(|(_, data)| &data["status"]).collect();
    assert_eq!(statuses, ["setup", "active", "device", "completed"]);
}

#[test]
fn a_name_that_was_not_given_is_refused_and_the_machine_can_be_told_again() {
    let host = Host::new();
    let _waits = host.start("b", &["--incoming", "defer"]);
    host.wait_for_state("b", "inmigrate");
    let mut b = client(&host, "b");
    let error = b.execute("migrate-incoming", Some(json!({ "uri": "fd:in" })), TIME).unwrap_err();
    assert!(error.to_string().contains("`in`"), "{error}");
    b.execute("migrate-incoming", Some(json!({ "uri": "tcp:127.0.0.1:0" })), TIME).unwrap();
    wait("it to wait", || host.machines()[0]["incoming"].as_str().map(str::to_owned));
}

/// A file opened twice, the second time for `O_DIRECT`, in a set.
fn add_file(client: &mut Client, path: &Path) -> u64 {
    let open = |flags| {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
        options.open(path).unwrap()
    };
    let set = client.add_descriptor(None, open(0).as_fd(), TIME).unwrap();
    let direct = open(0o40000);
    let again = client.add_descriptor(u32::try_from(set).ok(), direct.as_fd(), TIME).unwrap();
    assert_eq!(set, again);
    set
}

#[test]
fn a_set_of_descriptors_is_a_file_to_save_to_and_to_go_on_from() {
    let host = Host::new();
    let _source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M rate=5000"]);
    let waits = host.start("b", &["--incoming", "defer"]);
    host.wait_for_state("b", "inmigrate");
    let (mut a, mut b) = (client(&host, "a"), client(&host, "b"));
    let path = host.folder().join("file");
    std::fs::write(&path, [7; 8192]).unwrap();
    let set = add_file(&mut a, &path);
    let listed = a.execute("query-fdsets", None, TIME).unwrap();
    assert_eq!(listed[0]["fds"].as_array().unwrap().len(), 2, "{listed}");
    // Behind a header of somebody else's.
    let uri = format!("file:/dev/fdset/{set},offset=8192");
    a.execute("stop", None, TIME).unwrap();
    a.execute("migrate", Some(json!({ "uri": uri })), TIME).unwrap();
    host.wait_for_motion("a", "completed");
    a.execute("remove-fd", Some(json!({ "fdset-id": set })), TIME).unwrap();
    let error = a.execute("migrate", Some(json!({ "uri": uri })), TIME).unwrap_err();
    assert!(error.to_string().contains("add-fd"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap()[..8192], [7; 8192]);
    let set = add_file(&mut b, &path);
    let uri = format!("file:/dev/fdset/{set},offset=8192");
    b.execute("migrate-incoming", Some(json!({ "uri": uri })), TIME).unwrap();
    waits.wait_for("CLOCK", |_| true);
    waits.check_all();
    // Sets go with the last client that knows of them.
    drop(b);
    wait("the sets to go", || {
        let mut again = client(&host, "b");
        let listed = again.execute("query-fdsets", None, TIME).unwrap();
        listed.as_array().unwrap().is_empty().then_some(())
    });
}

/// Somebody else's, before the guest.
const HEADER: &[u8] = &[b'#'; 1000];

/// A file with a header, that stands behind it.
fn with_header(path: &Path) -> File {
    let mut file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.write_all(HEADER).unwrap();
    file
}

/// The header is as it was, and behind it is a guest that was continued, or not yet.
fn is_behind_its_header(path: &Path, continued: bool) {
    assert_eq!(&std::fs::read(path).unwrap()[..HEADER.len()], HEADER);
    let origin = Origin::Path { path: path.to_owned(), offset: HEADER.len() as u64 };
    let reader = Reader::open(origin, false).unwrap();
    assert_eq!(reader.claim().is_some(), continued);
    assert!(reader.verify(2, &|_| {}).is_empty());
}

#[test]
fn a_guest_goes_through_a_given_file_behind_what_somebody_else_wrote_there() {
    let host = Host::new();
    let source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M rate=5000"]);
    let (mut a, path) = (client(&host, "a"), host.folder().join("given"));
    let mut file = with_header(&path);
    a.pass_descriptor("there", file.as_fd(), TIME).unwrap();
    let save = json!({ "uri": "fd:there", "x-whimbrel-frozen": true });
    a.execute("migrate", Some(save.clone()), TIME).unwrap();
    host.wait_for_motion("a", "completed");
    is_behind_its_header(&path, false);
    drop(source);

    // From the wrong place nothing is to be had, and nothing is changed.
    let machine = host.start("b", &["--incoming", "defer"]);
    host.wait_for_state("b", "inmigrate");
    let mut b = client(&host, "b");
    file.seek(SeekFrom::Start(0)).unwrap();
    b.pass_descriptor("here", file.as_fd(), TIME).unwrap();
    let restore = json!({ "uri": "fd:here", "exit-on-error": false });
    b.execute("migrate-incoming", Some(restore.clone()), TIME).unwrap_err();
    is_behind_its_header(&path, false);
    file.seek(SeekFrom::Start(HEADER.len() as u64)).unwrap();
    b.pass_descriptor("here", file.as_fd(), TIME).unwrap();
    b.execute("migrate-incoming", Some(restore), TIME).unwrap();
    host.wait_for_state("b", "running");
    machine.check_all();
    is_behind_its_header(&path, true);

    // The same by its path, both ways.
    let path = host.folder().join("named");
    drop(with_header(&path));
    let uri = format!("file:{},offset={}", path.display(), HEADER.len());
    host.ask("b", "migrate", json!({ "uri": uri, "x-whimbrel-frozen": true })).unwrap();
    host.wait_for_motion("b", "completed");
    is_behind_its_header(&path, false);
    let machine = host.start("c", &["--incoming", "defer"]);
    host.wait_for_state("c", "inmigrate");
    host.ask("c", "migrate-incoming", json!({ "uri": uri })).unwrap();
    host.wait_for_state("c", "running");
    machine.check_all();
    is_behind_its_header(&path, true);
}

#[test]
fn a_given_file_that_may_not_be_written_is_refused_and_the_guest_goes_on() {
    let host = Host::new();
    let machine = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=8M rate=1000"]);
    let (mut a, path) = (client(&host, "a"), host.folder().join("given"));
    drop(with_header(&path));
    let file = File::open(&path).unwrap();
    a.pass_descriptor("there", file.as_fd(), TIME).unwrap();
    let save = json!({ "uri": "fd:there", "x-whimbrel-frozen": true });
    // It is refused at once, or the motion fails.
    if a.execute("migrate", Some(save), TIME).is_ok() {
        host.wait_for_motion("a", "failed");
    }
    assert_eq!(std::fs::read(&path).unwrap(), HEADER);
    host.wait_for_state("a", "running");
    machine.check_all();
}
