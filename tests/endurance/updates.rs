//! Updates without end: one machine, one process after another, in either way.

use crate::support::{Host, Machine, wait};
use crate::usage::{MEMORY_SLACK, Usage, share_of_memory};
use crate::witness::{Told, Witness};
use crate::{CHECKED_EVERY, PATIENTLY, SHAPE, count, files};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The ways, in turn.
const WAYS: [&str; 2] = ["transfer", "exec"];
/// After so many updates, or in a short run after the first two, everything is set up that ever is.
const SETTLED: u64 = 10;
/// The guest is paused for a moment after so many, which clients are told too.
const PAUSED_EVERY: u64 = 3;

#[test]
fn a_guest_whose_process_is_replaced_for_long_uses_nothing_up() {
    let updates = count("WHIMBREL_SOAK_UPDATES", 6).next_multiple_of(2);
    let settled = if updates > SETTLED { SETTLED } else { 2 };
    let host = Host::new();
    let mut machine = host.selfcheck("guest", &SHAPE[..SHAPE.len() - 1]);
    let _ends = Ends(&host);
    let (mut expected, mut blackouts, mut before): (Vec<Told>, _, _) =
        (vec![], [vec![], vec![]], None);
    let witness = Witness::listen(&host.folder().join("guest.sock"));
    let mut last = machine.pid();
    for turn in 1..=updates {
        let way = WAYS[usize::from(turn % 2 == 0)];
        let report = update(&host, way);
        assert_eq!(report["status"], "completed", "update {turn}: {report:#}");
        blackouts[usize::from(turn % 2 == 0)].extend(
            [&report["blackout"]["ns"], &report["update"]["first-blackout-ns"]]
                .iter()
                .filter_map(|ns| ns.as_u64()),
        );
        let pid = pid(&host);
        assert_eq!(pid == last, way == "exec", "update {turn} ({way}): {last}, then {pid}");
        last = pid;
        expected.push(("x-whimbrel-updated".to_owned(), Some(pid.into())));
        if turn == 1 {
            assert_eq!(machine.wait_for_end(), Some(0), "{}", machine.log());
        }
        if turn.is_multiple_of(PAUSED_EVERY) {
            host.ok(&["pause", "guest"]);
            host.ok(&["resume", "guest"]);
            expected.extend(["STOP", "RESUME"].map(|event| (event.to_owned(), None)));
        }
        if turn == settled {
            machine.check_all();
            before = Some((Usage::at_rest(pid), share_of_memory(pid)));
        } else if turn.is_multiple_of(CHECKED_EVERY) {
            machine.check_all();
            println!("{turn} of {updates} updates");
        }
        assert!(machine.faults().is_empty(), "update {turn}: {:#?}", machine.faults());
    }
    machine.check_all();
    if let Some((usage, memory)) = before {
        let who = format!("the process after {settled} updates, and after {updates}");
        usage.is_still_that_of(last, &who);
        let now = share_of_memory(last);
        println!("its share of memory, with the guest's RAM: {memory} bytes before, {now} now");
        assert!(now <= memory + MEMORY_SLACK, "{who}: {memory} bytes of memory, and then {now}");
    }
    wait("no other process to be left", || {
        (processes_of(&host) == BTreeSet::from([last])).then_some(())
    });
    assert!(children_of(last).is_empty(), "children of {last}: {:?}", children_of(last));
    let seen = witness.end();
    println!("a client was answered {} times, and told {} events", seen.answers, seen.events.len());
    assert!(seen.answers > updates);
    assert_eq!(seen.events, expected);
    let bytes = no_byte_is_missing_or_repeated(&machine);
    println!("the console has shown {bytes} bytes");
    for (way, mut blackouts) in WAYS.into_iter().zip(blackouts) {
        blackouts.sort_unstable();
        if let [least, .., most] = blackouts[..] {
            let median = blackouts[blackouts.len() / 2];
            println!("{way}: blackouts in ns: least {least}, median {median}, most {most}");
        }
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

fn update(host: &Host, way: &str) -> Value {
    let all = [&["update", "guest", "--mode", way, "--json"], &PATIENTLY[..]].concat();
    serde_json::from_str(host.ok(&all).lines().last().unwrap()).unwrap()
}

fn pid(host: &Host) -> u32 {
    let pid = host.view("guest").unwrap()["pid"].as_u64().unwrap();
    u32::try_from(pid).unwrap()
}

/// A byte too many or too few leaves no line of the form that the guest's clock reports have, or one
/// that was there before. Gives how many bytes there were.
fn no_byte_is_missing_or_repeated(machine: &Machine) -> usize {
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
    machine.said().len()
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
