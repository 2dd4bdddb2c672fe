//! The moment at which a guest changes hands, with the link cut in it. Nobody runs the guest twice,
//! nobody throws the only copy away, and whoever waits says for what.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/link.rs"]
mod link;
mod support;

use link::Link;
use qmp::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Child;
use std::thread;
use std::time::Duration;
use support::{Host, Machine, PATIENCE, wait};
use wire::Kind;

const SHAPE: [&str; 6] = ["--memory", "64M", "--cpus", "2", "--cmdline", "ws=16M rate=5000"];

/// A move over a link that is cut where the one thing was on the way, and was lost with it.
struct Cut {
    host: Host,
    source: Machine,
    destination: Machine,
    link: Link,
    /// Where the destination waits.
    to: String,
    job: Child,
}

fn cut(at: Kind) -> Cut {
    cut_from(at, &[])
}

/// The same with further flags of the destination.
fn cut_from(at: Kind, flags: &[&str]) -> Cut {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    let (destination, to) = host.incoming("b", flags);
    let link = Link::holding(&to, at);
    let job = host.begin_migrate("a", link.address(), &["--max-blackout", "unlimited"]);
    wait("the moment to cut the link", || link.has_held().then_some(()));
    link.cut();
    Cut { host, source, destination, link, to, job }
}

/// The handover that a machine does not know the end of.
fn undecided(host: &Host, name: &str) -> Value {
    wait(&format!("{name} to be undecided"), || {
        let machines = host.machines();
        let machine = machines.iter().find(|machine| machine["name"] == name)?;
        machine["undecided"].as_array()?.first().cloned()
    })
}

/// What a machine says of its side of the handover, once that is in this phase.
fn in_phase(host: &Host, name: &str, side: &str, phase: &str) -> Value {
    wait(&format!("{name} to say that the {side} is {phase}"), || {
        let said = host.ok(&["handover", "query", name, "--json"]);
        let mut said = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        said.find(|handover| handover["side"] == side && handover["phase"] == phase)
    })
}

/// What is said of that side where no machine is named.
fn on_host(host: &Host, side: &str) -> Value {
    let said = host.ok(&["handover", "query", "--json"]);
    let mut said = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    said.find(|handover| handover["side"] == side).unwrap()
}

/// The phases of handovers that a machine tells of, until one of them is this.
fn told(client: &mut Client, last: &str) -> Vec<String> {
    let mut phases: Vec<String> = Vec::new();
    while phases.last().is_none_or(|phase| phase != last) {
        let event = client.next_event(Some(PATIENCE)).unwrap().unwrap();
        if event.event == "x-whimbrel-handover" {
            phases.push(event.data["state"].as_str().unwrap().to_owned());
        }
    }
    phases
}

fn client(host: &Host, name: &str) -> Client {
    Client::connect(&host.folder().join(format!("{name}.sock"))).unwrap()
}

/// A process on the same host that has nothing to do with the handover.
fn bystander(host: &Host) -> Machine {
    let machine = host.start("c", &["--incoming", "defer"]);
    host.wait_for_state("c", "inmigrate");
    machine
}

/// Nothing short of force ends a machine that may hold the only copy of a guest.
fn is_not_ended(host: &Host, machine: &Machine, token: &str) {
    let name = &machine.name;
    let said = host.fails(1, &["kill", name]);
    assert!(said.contains(token) && said.contains("--force"), "{said}");
    machine.signal(Signal::TERM);
    wait("the signal to be refused", || machine.log().contains("cannot end").then_some(()));
    assert_eq!(undecided(host, name)["token"], token);
    assert!(host.ok(&["list"]).contains(token));
}

/// Decides, and only with the word that the other side cannot run the guest.
fn resolve(host: &Host, name: &str, token: &str, owner: &str) {
    let resolve = ["handover", "resolve", name, token, "--owner", owner];
    let said = host.fails(1, &[&resolve[..], &["--json"]].concat());
    let error: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(error["error"]["code"], "not-fenced", "{said}");
    host.ok(&[&resolve[..], &["--fenced"]].concat());
}

/// The destination has given its copy up. It stays to be asked until the source has been told.
fn is_given_up(cut: &mut Cut) {
    cut.host.wait_for_motion("b", "failed");
    cut.link.heal();
    assert_eq!(cut.destination.wait_for_end(), Some(1));
}

#[test]
fn a_destination_that_lost_its_source_holds_the_guest_until_somebody_decides() {
    let mut cut = cut(Kind::Ready);
    cut.source.kill();
    let _ = cut.job.wait();
    let mut client = client(&cut.host, "b");
    let token = undecided(&cut.host, "b")["token"].as_str().unwrap().to_owned();
    assert_eq!(cut.host.state("b"), "inmigrate");
    is_not_ended(&cut.host, &cut.destination, &token);
    let queried = cut.host.ok(&["handover", "query", "b", &token]);
    assert!(queried.contains("destination") && queried.contains("holding"), "{queried}");
    assert!(cut.host.ok(&["handover", "query"]).contains(&token));
    let said = in_phase(&cut.host, "b", "destination", "holding");
    assert!(said["owner"].is_null() && said["undecided"] == true, "{said}");
    assert_eq!(on_host(&cut.host, "destination"), said);
    resolve(&cut.host, "b", &token, "here");
    cut.host.wait_for_state("b", "running");
    assert_eq!(told(&mut client, "committed").last().unwrap(), "committed");
    let said = in_phase(&cut.host, "b", "destination", "committed");
    assert!(said["owner"] == "here" && said["undecided"] == false, "{said}");
    assert_eq!(on_host(&cut.host, "destination"), said);
    cut.destination.check_all();
}

#[test]
fn a_guest_is_held_no_longer_than_was_said() {
    let mut cut = cut_from(Kind::Ready, &["--handover-hold", "300ms"]);
    assert_eq!(cut.job.wait().unwrap().code(), Some(1));
    cut.host.wait_for_state("a", "running");
    is_given_up(&mut cut);
    cut.source.check_all();
}

#[test]
fn a_guest_held_in_vain_is_given_up_by_a_word() {
    let mut cut = cut(Kind::Ready);
    let token = undecided(&cut.host, "b")["token"].as_str().unwrap().to_owned();
    assert_eq!(cut.job.wait().unwrap().code(), Some(1));
    cut.host.wait_for_state("a", "running");
    resolve(&cut.host, "b", &token, "peer");
    is_given_up(&mut cut);
    cut.source.check_all();
}

#[test]
fn a_source_that_never_heard_ready_goes_on_and_says_so_when_it_can() {
    let mut cut = cut(Kind::Ready);
    undecided(&cut.host, "b");
    assert_eq!(cut.job.wait().unwrap().code(), Some(1));
    assert_eq!(cut.host.motion("a")["status"], "failed");
    cut.host.wait_for_state("a", "running");
    cut.link.heal();
    assert_eq!(cut.destination.wait_for_end(), Some(1));
    cut.source.check_all();
}

#[test]
fn a_source_whose_commit_was_lost_asks_and_goes_on_when_it_is_refused() {
    let mut cut = cut(Kind::Commit);
    undecided(&cut.host, "a");
    assert_eq!(cut.host.state("a"), "finish-migrate");
    cut.link.heal();
    assert_eq!(cut.job.wait().unwrap().code(), Some(1));
    cut.host.wait_for_state("a", "running");
    assert_eq!(cut.destination.wait_for_end(), Some(1));
    cut.source.check_all();
}

#[test]
fn a_source_that_gets_no_answer_waits_and_runs_the_guest_only_when_told() {
    let mut cut = cut(Kind::Commit);
    let handover = undecided(&cut.host, "a");
    let token = handover["token"].as_str().unwrap();
    assert_eq!(handover["side"], "source");
    cut.destination.kill();
    assert_eq!(cut.host.motion("a")["x-whimbrel-undecided"]["token"], token);
    is_not_ended(&cut.host, &cut.source, token);
    let said = cut.host.fails(1, &["resume", "a"]);
    assert!(said.contains("under way"), "{said}");
    let answer = cut.host.qmp("a", "migrate_cancel", "{}");
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(!answer.status.success() && said.contains(token), "{said}");
    resolve(&cut.host, "a", token, "here");
    assert_eq!(cut.job.wait().unwrap().code(), Some(1));
    cut.host.wait_for_state("a", "running");
    cut.source.check_all();
}

/// A link that stands still, of which nobody takes any notice, so that a word can be put in.
const UNNOTICED: [&str; 2] = ["--stall-limit", "10m"];

#[test]
fn a_destination_that_is_ready_runs_the_guest_by_the_word_that_its_source_is_dead() {
    let host = Host::new();
    let mut source = host.selfcheck("a", &SHAPE);
    let (destination, to) = host.incoming("b", &UNNOTICED);
    let mut client = client(&host, "b");
    let link = Link::holding(&to, Kind::Ready);
    let flags = [&["--max-blackout", "unlimited"], &UNNOTICED[..]].concat();
    let mut job = host.begin_migrate("a", link.address(), &flags);
    let ready = in_phase(&host, "b", "destination", "ready");
    link.stall();
    source.kill();
    let _ = job.wait();
    assert!(ready["owner"].is_null(), "{ready}");
    resolve(&host, "b", ready["token"].as_str().unwrap(), "here");
    host.wait_for_state("b", "running");
    assert_eq!(told(&mut client, "committed"), ["ready", "committed"]);
    destination.check_all();
}

#[test]
fn a_guest_that_is_being_given_away_is_released_by_a_word_and_comes_back_by_another() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    let (mut destination, to) = host.incoming("b", &[]);
    let mut client = client(&host, "a");
    let link = Link::holding(&to, Kind::Commit);
    let flags = [&["--max-blackout", "unlimited"], &UNNOTICED[..]].concat();
    let mut job = host.begin_migrate("a", link.address(), &flags);
    let committing = in_phase(&host, "a", "source", "committing");
    assert!(committing["owner"].is_null(), "{committing}");
    let token = committing["token"].as_str().unwrap();
    wait("COMMIT", || link.has_held().then_some(()));
    link.stall();
    destination.kill();
    resolve(&host, "a", token, "peer");
    let released = in_phase(&host, "a", "source", "released");
    assert_eq!(released["owner"], "peer", "{released}");
    assert_eq!(job.wait().unwrap().code(), Some(0));
    assert_eq!(host.state("a"), "postmigrate");
    host.fails(1, &["resume", "a"]);
    resolve(&host, "a", token, "here");
    host.wait_for_state("a", "running");
    assert_eq!(host.motion("a")["status"], "failed");
    assert_eq!(told(&mut client, "kept"), ["committing", "released", "kept"]);
    source.check_all();
}

#[test]
fn a_dead_destination_is_spoken_for_by_whoever_was_told_that_it_never_ran_the_guest() {
    let mut cut = cut(Kind::Commit);
    let token = undecided(&cut.host, "a")["token"].as_str().unwrap().to_owned();
    cut.destination.kill();
    let _bystander = bystander(&cut.host);
    let said = in_phase(&cut.host, "c", "destination", "gone");
    assert!(said["state"] == "open" && said["owner"].is_null(), "{said}");
    // There is nothing to run.
    let here = ["handover", "resolve", "c", &token, "--owner", "here", "--fenced"];
    cut.host.fails(1, &here);
    resolve(&cut.host, "c", &token, "peer");
    let said = in_phase(&cut.host, "c", "destination", "gone");
    assert!(said["state"] == "refused" && said["owner"] == "peer", "{said}");
    cut.host.ask("c", "migrate-incoming", json!({ "uri": cut.to })).unwrap();
    cut.link.heal();
    assert_eq!(cut.job.wait().unwrap().code(), Some(1));
    cut.host.wait_for_state("a", "running");
    cut.source.check_all();
}

#[test]
fn a_dead_source_is_spoken_for_by_whoever_begins_to_wait_next() {
    let mut cut = cut(Kind::Commit);
    let token = undecided(&cut.host, "a")["token"].as_str().unwrap().to_owned();
    cut.source.kill();
    let _ = cut.job.wait();
    undecided(&cut.host, "b");
    let _bystander = bystander(&cut.host);
    assert_eq!(in_phase(&cut.host, "c", "source", "gone")["state"], "open");
    cut.host.ask("c", "migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" })).unwrap();
    // It has taken the record over, and cannot get through yet.
    resolve(&cut.host, "c", &token, "peer");
    let said = in_phase(&cut.host, "c", "source", "gone");
    assert!(said["state"] == "committed" && said["owner"] == "peer", "{said}");
    assert_eq!(on_host(&cut.host, "source"), said);
    cut.link.heal();
    cut.host.wait_for_state("b", "running");
    cut.destination.check_all();
}

#[test]
fn a_promise_is_kept_also_when_the_source_stood_still_while_ready_came() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    let (mut destination, to) = host.incoming("b", &[]);
    let link = Link::holding(&to, Kind::Ready);
    let promise = Duration::from_secs(1);
    let mut job = host.begin_migrate("a", link.address(), &["--max-blackout", "1s"]);
    wait("READY", || link.has_held().then_some(()));
    source.freeze();
    link.heal();
    thread::sleep(promise);
    source.thaw();
    assert_eq!(job.wait().unwrap().code(), Some(1));
    assert_eq!(host.motion("a")["x-whimbrel-error-code"], "budget-exceeded");
    host.wait_for_state("a", "running");
    source.check_all();
    assert_eq!(destination.wait_for_end(), Some(1));
}
