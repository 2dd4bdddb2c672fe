//! Updates without end: one machine, one process after another.

use crate::support::{Host, Machine, PATIENCE, wait};
use crate::usage::Usage;
use crate::{CHECKED_EVERY, PATIENTLY, SHAPE, count, files};
use qmp::Client;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

#[test]
fn a_guest_whose_process_is_replaced_for_long_uses_nothing_up() {
    let updates = count("WHIMBREL_SOAK_UPDATES", 20);
    let host = Host::new();
    let mut machine = host.selfcheck("guest", &SHAPE[..SHAPE.len() - 1]);
    let _ends = Ends(&host);
    let (mut pids, mut blackouts, mut first) = (Vec::new(), Vec::new(), None);
    let asker = Asker::ask(&host.folder().join("guest.sock"));
    for turn in 1..=updates {
        let report = update(&host);
        assert_eq!(report["status"], "completed", "update {turn}: {report:#}");
        blackouts.push(report["blackout"]["ns"].as_u64().unwrap());
        let pid = pid(&host);
        if turn == 1 {
            assert_eq!(machine.wait_for_end(), Some(0), "{}", machine.log());
            machine.check_all();
            first = Some(Usage::at_rest(pid));
        } else if turn.is_multiple_of(CHECKED_EVERY) {
            machine.check_all();
            println!("{turn} of {updates} updates");
        }
        pids.push(pid);
        assert!(machine.faults().is_empty(), "update {turn}: {:#?}", machine.faults());
    }
    machine.check_all();
    let last = *pids.last().unwrap();
    if let Some(first) = first {
        first.is_still_that_of(last, "the process after one update, and after the last");
    }
    let asked = asker.end();
    println!("a client was answered {} times", asked.answers);
    let told: Vec<_> = asked.updated.iter().map(|pid| u32::try_from(*pid).unwrap()).collect();
    assert_eq!(told, pids, "what the client was told of the processes");
    no_byte_is_missing_or_repeated(&machine);
    assert_eq!(processes_of(&host), BTreeSet::from([last]));
    assert!(children_of(last).is_empty(), "children of {last}: {:?}", children_of(last));
    blackouts.sort_unstable();
    if let [least, .., most] = blackouts[..] {
        let median = blackouts[blackouts.len() / 2];
        println!("blackouts in ns: least {least}, median {median}, most {most}");
    }
    host.ok(&["kill", "guest"]);
    wait("the last process to end", || processes_of(&host).is_empty().then_some(()));
    drop(machine);
    let left = files(host.folder());
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Ends the machine, whichever process has it by then.
struct Ends<'a>(&'a Host);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.run(&["kill", "--force", "guest"]);
    }
}

fn update(host: &Host) -> Value {
    let all = [&["update", "guest", "--mode", "transfer", "--json"], &PATIENTLY[..]].concat();
    serde_json::from_str(host.ok(&all).lines().last().unwrap()).unwrap()
}

fn pid(host: &Host) -> u32 {
    let pid = host.view("guest").unwrap()["pid"].as_u64().unwrap();
    u32::try_from(pid).unwrap()
}

/// Somebody who is connected all the time, asks without end, and listens.
struct Asker {
    done: std::sync::Arc<AtomicBool>,
    thread: thread::JoinHandle<Asked>,
}

struct Asked {
    /// Commands that were answered: all that were asked.
    answers: u64,
    /// The processes that took over, in the order of the events that say so.
    updated: Vec<u64>,
}

impl Asker {
    fn ask(socket: &Path) -> Self {
        let done = std::sync::Arc::new(AtomicBool::new(false));
        let mut client = Client::connect(socket).unwrap();
        let is_done = done.clone();
        let thread = thread::spawn(move || {
            let mut asked = Asked { answers: 0, updated: Vec::new() };
            while !is_done.load(Ordering::Relaxed) {
                let status = client.execute("query-status", None, Some(PATIENCE)).unwrap();
                assert_eq!(status["status"], "running");
                asked.answers += 1;
                asked.listen(&mut client, Duration::from_millis(1));
            }
            // Whatever was said before this answer has come with it.
            client.execute("query-name", None, Some(PATIENCE)).unwrap();
            asked.listen(&mut client, Duration::from_millis(100));
            asked
        });
        Self { done, thread }
    }

    fn end(self) -> Asked {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Asked {
    fn listen(&mut self, client: &mut Client, time: Duration) {
        while let Some(event) = client.next_event(Some(time)).unwrap() {
            if event.event == "x-whimbrel-updated" {
                self.updated.push(event.data["pid"].as_u64().unwrap());
            }
        }
    }
}

/// A byte too many or too few leaves no line of the form that the guest's clock reports have, or one
/// that was there before.
fn no_byte_is_missing_or_repeated(machine: &Machine) {
    let keys = "cpu t kvm reads gap at back stalls stalled paused away other hist";
    let mut last = BTreeMap::new();
    for line in machine.lines() {
        assert!(
            ["HELLO ", "CLOCK ", "CHECK ", "GAP "].iter().any(|word| line.starts_with(word)),
            "{line}"
        );
        let Some(fields) = line.strip_prefix("CLOCK ") else { continue };
        let named: Vec<_> = fields.split(' ').filter_map(|field| field.split_once('=')).collect();
        let found = named.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(" ");
        assert_eq!(found, keys, "{line}");
        let time: u64 = named[1].1.parse().unwrap();
        let before = last.insert(named[0].1.to_owned(), time).unwrap_or(0);
        assert!(time > before, "{line}");
    }
    assert_eq!(last.len(), 4);
}

/// All processes that know this host's machines, and so were started for them.
fn processes_of(host: &Host) -> BTreeSet<u32> {
    let wanted = format!("WHIMBREL_RUNTIME_DIR={}", host.folder().display());
    let is_one = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let all = fs::read_dir("/proc").unwrap().map_while(Result::ok);
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_one).collect()
}

/// The children of a process, also those that have ended and were not waited for.
fn children_of(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map_while(Result::ok);
    let texts =
        tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    texts
        .flat_map(|text| text.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
