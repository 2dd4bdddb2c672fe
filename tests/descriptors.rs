//! A move over connections that somebody else made and handed over, as a cluster manager does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use qmp::Client;
use serde_json::{Value, json};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
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
