//! A move that has come to where something is to go wrong.

use crate::link::Link;
use crate::support::{Host, Machine, wait};
use crate::table::{Fault, Phase};
use serde_json::{Value, json};
use std::time::Duration;

/// A guest that checks itself, small enough to move in no time.
const SHAPE: [&str; 6] = ["--memory", "16M", "--cpus", "2", "--cmdline", "ws=4M rate=5000"];
/// How long a silent peer is put up with where silence is what is waited for.
const SHORT: Duration = Duration::from_secs(2);
/// And where nothing may depend on time.
const LONG: Duration = Duration::from_secs(600);
/// Slow enough for the first pass not to end.
const SLOW: u64 = 64 << 10;

/// The source `a`, the destination `b`, and the link between them.
pub struct Stage {
    pub a: Machine,
    pub b: Machine,
    pub link: Link,
    pub phase: Phase,
    /// After so long without a word the other side is given up.
    pub patience: Duration,
    // The last to go: what the machines have logged is in its folder.
    pub host: Host,
}

impl Stage {
    /// Starts a move and returns when it is in this phase.
    pub fn set(phase: Phase, fault: Fault) -> Self {
        let host = Host::new();
        let patience = if fault.is_silent() { SHORT } else { LONG };
        let log = ["--log", "whimbrel_motion=debug"];
        let a = host.selfcheck("a", &[&SHAPE[..], &log].concat());
        let b = host.start("b", &[&["--incoming", "defer"][..], &log].concat());
        wait("the destination", || host.view("b"));
        let stall = json!({ "x-whimbrel-stall-limit": millis(patience) });
        for name in ["a", "b"] {
            host.ask(name, "migrate-set-parameters", stall.clone()).unwrap();
        }
        host.ask("b", "migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" })).unwrap();
        let view = host.view("b").unwrap();
        let to = view["incoming"].as_str().unwrap();
        let link = match phase.holds() {
            Some(kind) => Link::holding(to, kind),
            None => Link::to(to),
        };
        let slow = if phase == Phase::Passes { SLOW } else { 0 };
        let wishes = json!({ "max-bandwidth": slow, "x-whimbrel-downtime-unlimited": true });
        host.ask("a", "migrate-set-parameters", wishes).unwrap();
        let stage = Self { a, b, link, phase, patience, host };
        stage.pause_before_switchover(phase == Phase::PreSwitchover);
        stage.host.ask("a", "migrate", json!({ "uri": stage.link.address() })).unwrap();
        stage.wait_for_phase();
        stage
    }

    fn wait_for_phase(&self) {
        let status = match self.phase {
            Phase::Passes => "active",
            Phase::PreSwitchover => "pre-switchover",
            _ => return wait("what the link holds", || self.link.has_held().then_some(())),
        };
        wait(status, || (self.motion() == status).then_some(()));
    }

    fn pause_before_switchover(&self, state: bool) {
        let wanted = json!([{ "capability": "pause-before-switchover", "state": state }]);
        let all = json!({ "capabilities": wanted });
        self.host.ask("a", "migrate-set-capabilities", all).unwrap();
    }

    /// The status of the motion, at the source.
    pub fn motion(&self) -> String {
        let view = self.host.view("a").unwrap_or_default();
        view["motion"].as_str().unwrap_or("gone").to_owned()
    }

    /// The token of a handover whose end this machine does not know.
    pub fn undecided(&self, name: &str) -> Option<String> {
        let view = self.host.view(name)?;
        let token = view["undecided"].as_array()?.first()?["token"].as_str()?;
        Some(token.to_owned())
    }

    /// Whether this machine's guest runs, as far as it can be asked.
    pub fn runs(&self, name: &str) -> bool {
        self.host.view(name).is_some_and(|view| view["status"] == "running")
    }

    /// The machines whose guest runs.
    pub fn running(&self) -> Vec<&'static str> {
        ["a", "b"].into_iter().filter(|name| self.runs(name)).collect()
    }

    /// Waits until the source knows that something is wrong, or that all went well.
    pub fn wait_for_source(&self) {
        wait("the source to notice", || {
            let under_way = ["setup", "active", "pre-switchover", "device", "cancelling"];
            let ended = !under_way.contains(&self.motion().as_str());
            (ended || self.undecided("a").is_some()).then_some(())
        });
    }

    /// The same for the destination.
    pub fn wait_for_destination(&mut self) {
        wait("the destination to notice", || {
            if self.b.has_ended() || self.b.log().contains("a source went away") {
                return Some(());
            }
            (self.runs("b") || self.undecided("b").is_some()).then_some(())
        });
    }

    /// The guest goes on to yet another machine, from the one where it is, and is whole there.
    pub fn moves_on_from(&self, name: &str) {
        let limits = json!({ "x-whimbrel-stall-limit": millis(LONG) });
        self.host.ask(name, "migrate-set-parameters", limits.clone()).unwrap();
        if name == "a" {
            self.pause_before_switchover(false);
        }
        let c = self.host.start("c", &["--incoming", "defer"]);
        wait("yet another machine", || self.host.view("c"));
        self.host.ask("c", "migrate-set-parameters", limits).unwrap();
        self.host.ask("c", "migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" })).unwrap();
        let to = self.host.view("c").unwrap()["incoming"].as_str().unwrap().to_owned();
        let report = self.host.migrate(name, &to, &["--max-blackout", "unlimited"]);
        assert_eq!(report["status"], Value::from("completed"), "{report:#}");
        c.check_all();
    }

    /// Where the guest has run, in this order, by its own word: what it says carries the time, and
    /// its clock goes on whatever process it is in.
    pub fn turns(&self) -> String {
        let mut said: Vec<(u64, char)> = Vec::new();
        for (machine, name) in [(&self.a, 'a'), (&self.b, 'b')] {
            let times = machine.lines().into_iter().filter_map(|line| time_of(&line));
            said.extend(times.map(|time| (time, name)));
        }
        said.sort_unstable();
        let mut turns: Vec<char> = said.into_iter().map(|(_, name)| name).collect();
        turns.dedup();
        turns.into_iter().collect()
    }
}

/// When a whole line of the guest's was said.
fn time_of(line: &str) -> Option<u64> {
    if !["CHECK ", "CLOCK "].iter().any(|word| line.starts_with(word)) {
        return None;
    }
    line.split(' ').find_map(|word| word.strip_prefix("t="))?.parse().ok()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}
