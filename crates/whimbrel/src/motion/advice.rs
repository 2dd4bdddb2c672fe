//! What a motion waits for, in words, and what to do about it.

use crate::terminal::Ink;
use monitor::MachineName;
use qmp::reply::{MigrationInfo, MigrationStatus};
use serde_json::Value;

/// What it waits for.
pub struct Advice {
    pub ink: Ink,
    pub what: String,
    /// What can be done about it.
    pub remedies: Vec<Remedy>,
}

/// What a command is for, and the command, to be copied.
pub struct Remedy {
    pub to: &'static str,
    pub command: String,
}

impl Advice {
    fn new(ink: Ink, what: impl Into<String>) -> Self {
        Self { ink, what: what.into(), remedies: Vec::new() }
    }

    fn or(mut self, to: &'static str, command: String) -> Self {
        self.remedies.push(Remedy { to, command });
        self
    }
}

/// What the motion of the machine `name` waits for.
pub fn advice(name: &MachineName, info: &MigrationInfo) -> Option<Advice> {
    use MigrationStatus::{Cancelling, Device, Failing, PreSwitchover};
    let progress = &info.report.as_ref()?["progress"];
    let note = progress["note"].as_str().unwrap_or_default();
    if info.undecided.is_some() {
        return Some(
            Advice::new(Ink::Red, note)
                .or("see", format!("whimbrel handover query {name}"))
                .or("decide (docs/operating.md first)", "whimbrel handover resolve".to_owned()),
        );
    }
    match info.status? {
        PreSwitchover => {
            let word = "'{\"state\": \"pre-switchover\"}'";
            return Some(
                Advice::new(Ink::Yellow, "the guest is stopped and waits for the word to go on")
                    .or("go on", format!("whimbrel qmp {name} migrate-continue {word}"))
                    .or(GIVE_UP, cancel(name)),
            );
        }
        Device => {
            let what = "the guest is stopped: its last pages and its state are on their way";
            return Some(Advice::new(Ink::Yellow, what));
        }
        Cancelling => return Some(Advice::new(Ink::Yellow, "cancelling; the guest goes on here")),
        Failing => return Some(Advice::new(Ink::Red, "giving up; the guest goes on here")),
        _ => {}
    }
    if progress["stuck"] == true {
        return Some(stuck(Advice::new(Ink::Yellow, note), name, info, progress));
    }
    if is_losing(info, progress) {
        let what = "hardly converging: the guest writes about as fast as can be sent";
        return Some(stuck(Advice::new(Ink::Yellow, what), name, info, progress));
    }
    if progress["frozen"] == true {
        let what = "the guest is stopped for the whole motion";
        return Some(Advice::new(Ink::Plain, what));
    }
    (!note.is_empty()).then(|| Advice::new(Ink::Plain, note))
}

/// Whether later passes will gain hardly anything, and the promise cannot be kept yet.
fn is_losing(info: &MigrationInfo, progress: &Value) -> bool {
    let number = |key: &str| progress[key].as_u64().unwrap_or(0);
    let page = info.ram.as_ref().map_or(0, |ram| ram.page_size);
    let limit = progress["limit_ns"].as_u64().unwrap_or(u64::MAX);
    let written = number("dirty_rate").saturating_mul(page);
    number("pass") > 2
        && number("predicted_blackout_ns") > limit
        && written >= number("rate") / 10 * 9
}

/// What helps where the guest writes faster than can be sent.
fn stuck(advice: Advice, name: &MachineName, info: &MigrationInfo, progress: &Value) -> Advice {
    let number = |key: &str| progress[key].as_u64();
    let page = info.ram.as_ref().map_or(0, |ram| ram.page_size);
    let written = number("dirty_rate").unwrap_or(0).saturating_mul(page);
    let set = |what: String| format!("whimbrel qmp {name} migrate-set-parameters '{{{what}}}'");
    let advice = match number("max_bandwidth") {
        // Nine tenths: what the limit leaves beside the tables that name the pages.
        Some(limit) if written >= limit / 10 * 9 => {
            advice.or("lift the limit on bandwidth", set("\"max-bandwidth\": 0".into()))
        }
        _ => {
            // With a quarter to spare, since no pass is like the other.
            let enough = number("predicted_blackout_ns").unwrap_or(0).div_ceil(800_000);
            advice.or("allow a longer blackout", set(format!("\"downtime-limit\": {enough}")))
        }
    };
    advice.or(GIVE_UP, cancel(name))
}

const GIVE_UP: &str = "give up; the guest goes on here";

fn cancel(name: &MachineName) -> String {
    format!("whimbrel qmp {name} migrate_cancel")
}
