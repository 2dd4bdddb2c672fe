//! What there is to say about a machine, in one value: the answer of `x-whimbrel-query-machine`.

use qmp::reply::{HandoverInfo, MigrationStatus, RunState};
use serde::{Deserialize, Serialize};

/// A machine as its process sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MachineView {
    /// Its name.
    pub name: String,
    /// Its identity; none while it waits for a guest.
    pub uuid: Option<String>,
    /// Its process.
    pub pid: u32,
    /// Its run state.
    pub status: RunState,
    /// Why it is in that state, where that is not plain.
    pub reason: Option<String>,
    /// Seconds since the guest came to be here: booted, or received. An update changes nothing of it.
    pub uptime_seconds: Option<f64>,
    /// Its RAM; none while it waits for a guest.
    pub memory: Option<MemoryView>,
    /// How many processors it has; 0 while it waits for a guest.
    pub cpus: u32,
    /// Its devices.
    pub devices: Vec<String>,
    /// Where its console is.
    pub console: String,
    /// Its control sockets.
    pub qmp: Vec<String>,
    /// Where it waits for a guest.
    pub incoming: Option<String>,
    /// Where its present or last motion stands.
    pub motion: MigrationStatus,
    /// Handovers of which it does not know how they ended.
    pub undecided: Vec<HandoverInfo>,
}

/// RAM of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryView {
    /// What the guest was given, in bytes.
    pub size: u64,
    /// What of it has ever been touched, in bytes.
    pub touched: u64,
    /// What backs it.
    pub backing: String,
}

impl MachineView {
    /// The run state in QMP's word for it.
    #[must_use]
    pub fn status_word(&self) -> String {
        word(&self.status)
    }

    /// What somebody who looks at a list of machines wants to know beyond its state.
    #[must_use]
    pub fn note(&self) -> String {
        if let Some(handover) = self.undecided.first() {
            return format!("undecided: {} ({})", handover.token, handover.state);
        }
        let motion = !matches!(self.motion, MigrationStatus::None);
        let motion = motion.then(|| format!("motion {}", word(&self.motion)));
        let incoming = self.incoming.as_ref().map(|address| format!("waits on {address}"));
        let parts = [incoming, motion, self.reason.clone()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// The word that a state is in QMP.
pub(crate) fn word(state: &impl Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
