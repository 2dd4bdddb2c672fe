//! Moves over connections, and saves to files, that somebody else opened and handed over, as a
//! cluster manager does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use qmp::Client;
use serde_json::{Value, json};
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

#[test]
fn given_descriptors_carry_a_move_and_its_events_are_told() {
    let host = Host::new();
    let _source = host.selfcheck("a", &["--memory", "64M", "--cmdline", "ws=16M rate=5000"]);
    let destination = host.start("b", &["--incoming", "defer"]);
    host.wait_for_state("b", "inmigrate");
    let (mut a, mut b) = (client(&host, "a"), client(&host, "b"));
    connect(&mut a, &mut b);
    b.execute("migrate-incoming", Some(json!({ "uri": "fd:in" })), TIME).unwrap();
    a.execute("migrate-set-parameters", Some(json!({ "multifd-channels": 2 })), TIME).unwrap();
    a.execute("migrate", Some(json!({ "uri": "fd:out" })), TIME).unwrap();
    destination.wait_for("CLOCK", |_| true);
    destination.check_all();
    assert_eq!(host.state("a"), "postmigrate");
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
        let mut options = std::fs::File::options();
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
