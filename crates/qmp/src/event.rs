//! What the server says unasked.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::reply::MigrationStatus;

/// An event. Names in capitals are QEMU's with QEMU's meaning.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", content = "data", rename_all_fields = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The guest's processors have been stopped.
    #[serde(rename = "STOP")]
    Stop,
    /// The guest's processors run again.
    #[serde(rename = "RESUME")]
    Resume,
    /// The machine was reset.
    #[serde(rename = "RESET")]
    Reset {
        /// Whether the guest asked for it.
        guest: bool,
        /// Who did.
        reason: ShutdownCause,
    },
    /// The guest has been asked to power off.
    #[serde(rename = "POWERDOWN")]
    Powerdown,
    /// The machine has shut down, or is about to end.
    #[serde(rename = "SHUTDOWN")]
    Shutdown {
        /// Whether the guest asked for it.
        guest: bool,
        /// Who did.
        reason: ShutdownCause,
    },
    /// A migration has reached another status.
    #[serde(rename = "MIGRATION")]
    Migration {
        /// The status reached.
        status: MigrationStatus,
    },
    /// A pass over the dirty pages has started.
    #[serde(rename = "MIGRATION_PASS")]
    MigrationPass {
        /// Its number; the first pass is 1.
        pass: u64,
    },
    /// A handover has reached another state.
    #[serde(rename = "x-whimbrel-handover")]
    Handover {
        /// The handover's token.
        token: String,
        /// The state reached: a `phase` of `x-whimbrel-handover-query`.
        state: String,
    },
    /// Pages of the guest's RAM that are yet to come cannot be had. The guest is stopped, and asked
    /// for them again with `cont`.
    #[serde(rename = "x-whimbrel-memory-outage")]
    MemoryOutage {
        /// Where the first of them lies in the RAM file, in bytes.
        offset: u64,
        /// Its guest-physical address.
        address: u64,
        /// What was being done, and what went wrong.
        reason: String,
    },
    /// All of the guest's RAM has come; what it came from is needed no longer.
    #[serde(rename = "x-whimbrel-memory-complete")]
    MemoryComplete {
        /// How much came, in bytes.
        bytes: u64,
    },
    /// The machine's process was replaced while its guest ran. Connections go on with the new one.
    #[serde(rename = "x-whimbrel-updated")]
    Updated {
        /// The program that was replaced, by name and version.
        from: String,
        /// The one that replaced it.
        to: String,
        /// The process that has the machine now.
        pid: u32,
    },
    /// A processor of the guest stopped on an error; the run state tells what became of the
    /// machine.
    #[serde(rename = "x-whimbrel-guest-error")]
    GuestError {
        /// Index of the processor.
        cpu: u32,
        /// What happened, in words.
        reason: String,
        /// Its registers, by name.
        registers: Value,
    },
}

/// Who caused a shutdown or reset (QAPI `ShutdownCause`, as far as it can occur here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ShutdownCause {
    /// An error of the host.
    HostError,
    /// The command `quit`.
    HostQmpQuit,
    /// The command `system_reset`.
    HostQmpSystemReset,
    /// A signal such as SIGTERM.
    HostSignal,
    /// The guest powered off.
    GuestShutdown,
    /// The guest asked for a reset.
    GuestReset,
    /// The guest failed beyond recovery.
    GuestPanic,
}

/// Wall-clock time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: u64,
    /// Microseconds within the second.
    pub microseconds: u32,
}

impl Timestamp {
    /// The present time; zero on a host whose clock stands before 1970.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: since.as_secs(), microseconds: since.subsec_micros() }
    }
}

/// An event on its way.
#[derive(Serialize)]
pub(crate) struct Stamped<'a> {
    #[serde(flatten)]
    pub(crate) event: &'a Event,
    pub(crate) timestamp: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, in turn: a new one does not compile until it stands here.
    fn after(event: &Event) -> Option<Event> {
        let reason = ShutdownCause::GuestReset;
        let word = String::new;
        Some(match event {
            Event::Stop => Event::Resume,
            Event::Resume => Event::Reset { guest: true, reason },
            Event::Reset { .. } => Event::Powerdown,
            Event::Powerdown => Event::Shutdown { guest: true, reason },
            Event::Shutdown { .. } => Event::Migration { status: MigrationStatus::None },
            Event::Migration { .. } => Event::MigrationPass { pass: 1 },
            Event::MigrationPass { .. } => Event::Handover { token: word(), state: word() },
            Event::Handover { .. } => Event::MemoryOutage { offset: 0, address: 0, reason: word() },
            Event::MemoryOutage { .. } => Event::MemoryComplete { bytes: 0 },
            Event::MemoryComplete { .. } => Event::Updated { from: word(), to: word(), pid: 0 },
            Event::Updated { .. } => {
                Event::GuestError { cpu: 0, reason: word(), registers: serde_json::json!({}) }
            }
            Event::GuestError { .. } => return None,
        })
    }

    #[test]
    fn every_event_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/qmp.md");
        let document = std::fs::read_to_string(path).unwrap();
        let begin = document.find("## Events").unwrap();
        let table: Vec<_> =
            document[begin..].lines().filter(|line| line.starts_with('|')).collect();
        for event in std::iter::successors(Some(Event::Stop), after) {
            let event = serde_json::json!(event);
            let name = format!("`{}`", event["event"].as_str().unwrap());
            let row = table.iter().find(|row| row.split('|').nth(1).unwrap().contains(&name));
            let row = row.unwrap_or_else(|| panic!("docs/qmp.md does not name {name}"));
            for member in event["data"].as_object().into_iter().flatten().map(|(name, _)| name) {
                assert!(row.contains(&format!("`{member}`")), "{name}: `{member}` in {row}");
            }
        }
    }

    fn line(event: &Event) -> String {
        let timestamp = Timestamp { seconds: 7, microseconds: 8 };
        serde_json::to_string(&Stamped { event, timestamp }).unwrap()
    }

    #[test]
    fn events_have_qemus_shape() {
        assert_eq!(
            line(&Event::Stop),
            r#"{"event":"STOP","timestamp":{"seconds":7,"microseconds":8}}"#
        );
        assert_eq!(
            line(&Event::Shutdown { guest: false, reason: ShutdownCause::HostQmpQuit }),
            r#"{"event":"SHUTDOWN","data":{"guest":false,"reason":"host-qmp-quit"},"timestamp":{"seconds":7,"microseconds":8}}"#
        );
        assert_eq!(
            line(&Event::Migration { status: MigrationStatus::PreSwitchover }),
            r#"{"event":"MIGRATION","data":{"status":"pre-switchover"},"timestamp":{"seconds":7,"microseconds":8}}"#
        );
    }
}
