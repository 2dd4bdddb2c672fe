//! What goes on while an update is half way: what the guest says, and what people want of its machine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/courier.rs"]
mod courier;
#[path = "support/link.rs"]
mod link;
mod support;
#[path = "support/talker.rs"]
mod talker;

use courier::{Courier, Mail};
use qmp::{Client, ClientError};
use serde_json::{Value, json};
use std::thread;
use support::{Host, Machine, PATIENCE, wait};
use talker::{hears, talker};
use wire::Kind;

/// So long a silent process is put up with, where nothing may depend on time.
const LONG_MS: u64 = 600_000;
/// What the guest says meanwhile, in bytes: some lines of a log.
const MORE: usize = 1000;

/// The update was begun; the new process knows nothing yet.
const STARTED: Mail = Mail::Letter(1);
/// The new process has built the machine.
const BUILT: Mail = Mail::Frame(Kind::Accepted);
/// It has the console and the control sockets, which nobody reads: the guest runs.
const PREPARED: Mail = Mail::Letter(5);
/// It is complete: the guest is stopped.
const READY: Mail = Mail::Frame(Kind::Ready);

/// The machine `a`, whose process is being replaced.
struct Halfway {
    old: Machine,
    new: Machine,
    courier: Courier,
    /// Somebody who was connected before.
    client: Client,
    // The last to go: what the machines have logged is in its folder.
    host: Host,
}

impl Halfway {
    /// Begins an update, and returns when this is on its way.
    fn at(mail: Mail) -> Self {
        let host = Host::new();
        let old = talker(&host, "a", &["--log", "whimbrel=debug"]);
        let wishes =
            json!({ "x-whimbrel-stall-limit": LONG_MS, "x-whimbrel-downtime-unlimited": true });
        host.ask("a", "migrate-set-parameters", wishes).unwrap();
        let client = Client::connect(&host.folder().join("a.sock")).unwrap();
        let socket = host.folder().join("new");
        let new = host.successor("new", &socket);
        let courier = Courier::between(&host.folder().join("courier"), &socket, mail);
        host.ask("a", "x-whimbrel-update", json!({ "to": courier.path() })).unwrap();
        wait("what the courier holds", || courier.has_held().then_some(()));
        Self { old, new, courier, client, host }
    }

    /// What somebody is answered who asks now, and whose machine's process is replaced meanwhile.
    fn asked(&mut self, command: &str) -> Result<Value, ClientError> {
        let Self { client, courier, .. } = self;
        thread::scope(|scope| {
            let asked = scope.spawn(|| client.execute(command, None, Some(PATIENCE)));
            courier.go_on();
            asked.join().unwrap()
        })
    }

    /// Both processes end, with these exit statuses, and nobody has the machine.
    fn ends(&mut self, old: i32, new: i32) {
        self.courier.go_on();
        assert_eq!(self.old.wait_for_end(), Some(old), "{}", self.old.log());
        assert_eq!(self.new.wait_for_end(), Some(new), "{}", self.new.log());
        assert_eq!(self.host.state("a"), "gone");
    }

    /// The machine is the new process's, once, in this state.
    fn is_updated(&mut self, state: &str) {
        self.courier.go_on();
        assert_eq!(self.old.wait_for_end(), Some(0), "{}", self.old.log());
        let listed = self.host.machines();
        assert_eq!(listed.len(), 1, "{listed:#?}");
        assert_eq!(listed[0]["pid"], u64::from(self.new.pid()));
        assert_eq!(listed[0]["status"], state);
    }
}

impl Drop for Halfway {
    fn drop(&mut self) {
        // Whichever process has it by now.
        self.host.run(&["kill", "--force", "a"]);
    }
}

#[test]
fn every_byte_comes_once_of_a_guest_that_talks_without_end() {
    let host = Host::new();
    let machine = talker(&host, "a", &[]);
    for mode in ["transfer", "exec", "transfer", "exec"] {
        host.ok(&["update", "a", "--mode", mode, "--max-blackout", "unlimited"]);
        hears(&machine, MORE);
    }
    host.ok(&["kill", "a"]);
}

#[test]
fn the_console_goes_on_while_the_new_process_gets_ready() {
    for mail in [STARTED, BUILT, PREPARED] {
        let mut update = Halfway::at(mail);
        hears(&update.old, MORE);
        update.is_updated("running");
        hears(&update.old, MORE);
    }
}

#[test]
fn quitting_ends_the_machine_whichever_process_has_it() {
    for mail in [STARTED, BUILT] {
        let mut update = Halfway::at(mail);
        update.client.execute("quit", None, Some(PATIENCE)).unwrap();
        update.ends(0, 1);
    }
    for mail in [PREPARED, READY] {
        let mut update = Halfway::at(mail);
        update.asked("quit").unwrap();
        update.ends(0, 0);
    }
}

#[test]
fn killing_a_machine_by_its_name_ends_both_of_its_processes() {
    let mut update = Halfway::at(BUILT);
    update.host.ok(&["kill", "a"]);
    update.ends(0, 1);

    let mut update = Halfway::at(PREPARED);
    let mut kill = update.host.whimbrel(&["kill", "a"]).spawn().unwrap();
    update.ends(0, 0);
    assert!(kill.wait().unwrap().success());

    // Its guest is in the process that is killed, and nowhere else.
    let mut update = Halfway::at(PREPARED);
    update.host.ok(&["kill", "a", "--force"]);
    update.courier.go_on();
    assert_eq!(update.old.wait_for_end(), None);
    assert_eq!(update.new.wait_for_end(), Some(1), "{}", update.new.log());
    assert_eq!(update.host.state("a"), "gone");
}

#[test]
fn a_guest_powers_off_wherever_it_is_when_its_button_is_pressed() {
    for mail in [STARTED, BUILT] {
        let mut update = Halfway::at(mail);
        update.host.ok(&["shutdown", "a"]);
        // Else the guest may be gone over before it looks.
        assert_eq!(update.old.wait_for_end(), Some(0), "{}", update.old.log());
        update.ends(0, 1);
    }
    for mail in [PREPARED, READY] {
        let mut update = Halfway::at(mail);
        update.asked("system_powerdown").unwrap();
        update.ends(0, 0);
    }
}

#[test]
fn pausing_is_refused_while_it_would_be_forgotten_and_done_afterwards() {
    for mail in [STARTED, BUILT] {
        let mut update = Halfway::at(mail);
        let said = update.host.fails(1, &["pause", "a"]);
        assert!(said.contains("its update") && said.contains("is under way"), "{said}");
        hears(&update.old, MORE);
        update.is_updated("running");
    }
    for mail in [PREPARED, READY] {
        let mut update = Halfway::at(mail);
        update.asked("stop").unwrap();
        update.is_updated("paused");
        update.host.ok(&["resume", "a"]);
        hears(&update.old, MORE);
    }
}
