//! The answers to commands.

mod migration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use migration::{MigrationInfo, MigrationRam, MigrationStatus, Undecided};

use crate::command::{CapabilityState, Owner, Parameters};
use crate::event::Timestamp;

macro_rules! replies {
    ($($(#[$doc:meta])* $variant:ident($type:ty),)+) => {
        /// What a command answers when it succeeds. Made from the answer's own type with `into`.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Reply {
            /// There is nothing to say: an empty object.
            Done {},
            $($(#[$doc])* $variant($type),)+
        }

        $(impl From<$type> for Reply {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        })+
    };
}

replies! {
    /// Of `query-status`.
    Status(StatusInfo),
    /// Of `query-name`.
    Name(NameInfo),
    /// Of `query-uuid`.
    Uuid(UuidInfo),
    /// Of `query-kvm`.
    Kvm(KvmInfo),
    /// Of `query-cpus-fast`.
    Cpus(Vec<CpuInfo>),
    /// Of `query-memory-size-summary`.
    Memory(MemoryInfo),
    /// Of `x-whimbrel-query-machine`.
    Machine(Map<String, Value>),
    /// Of `query-migrate`.
    Migration(Box<MigrationInfo>),
    /// Of `query-migrate-capabilities`.
    Capabilities(Vec<CapabilityState>),
    /// Of `query-migrate-parameters`.
    Parameters(Parameters),
    /// Of `x-whimbrel-handover-query`.
    Handovers(Vec<HandoverInfo>),
    /// Of `query-version`.
    Version(VersionInfo),
    /// Of `query-commands`.
    Commands(Vec<CommandInfo>),
    /// Of `add-fd`.
    AddedFd(AddedFd),
    /// Of `query-fdsets`.
    FdSets(Vec<FdSetInfo>),
}

impl From<()> for Reply {
    fn from((): ()) -> Self {
        Self::Done {}
    }
}

impl From<MigrationInfo> for Reply {
    fn from(info: MigrationInfo) -> Self {
        Self::Migration(Box::new(info))
    }
}

/// The run state (QAPI `StatusInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusInfo {
    /// Whether the guest's processors run.
    pub running: bool,
    /// The state in one word.
    pub status: RunState,
}

/// A run state (QAPI `RunState`, as far as it can occur here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RunState {
    /// Built, not started yet.
    Prelaunch,
    /// The guest runs.
    Running,
    /// Stopped by command.
    Paused,
    /// Waits for a guest, or is receiving one.
    #[serde(rename = "inmigrate")]
    InMigrate,
    /// Stopped at the source for the end of a motion.
    FinishMigrate,
    /// The guest has moved away.
    #[serde(rename = "postmigrate")]
    PostMigrate,
    /// Stopped while its state is being saved.
    SaveVm,
    /// Stopped while its state is being restored.
    RestoreVm,
    /// The guest has suspended itself.
    Suspended,
    /// The guest has powered off.
    Shutdown,
    /// KVM could not run the guest any further.
    InternalError,
    /// Stopped because of an error of a disk.
    IoError,
    /// The guest reported that it has crashed.
    GuestPanicked,
}

/// The machine's name (QAPI `NameInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameInfo {
    /// Left out if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The machine's identity (QAPI `UuidInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UuidInfo {
    /// With hyphens, in lower case.
    #[serde(rename = "UUID")]
    pub uuid: String,
}

/// Whether KVM is used (QAPI `KvmInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmInfo {
    /// Whether it is in use.
    pub enabled: bool,
    /// Whether this build can use it.
    pub present: bool,
}

/// A processor of the guest (QAPI `CpuInfoFast`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuInfo {
    /// Its index, from 0.
    pub cpu_index: u32,
    /// A name of its own; there is no object model behind it.
    pub qom_path: String,
    /// The thread of the host that runs it.
    pub thread_id: i32,
    /// Its architecture.
    pub target: String,
}

impl CpuInfo {
    /// The processor of that index, run by that thread.
    #[must_use]
    pub fn new(cpu_index: u32, thread_id: i32) -> Self {
        Self {
            cpu_index,
            qom_path: format!("/machine/cpu[{cpu_index}]"),
            thread_id,
            target: std::env::consts::ARCH.to_owned(),
        }
    }
}

/// The size of memory (QAPI `MemoryInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryInfo {
    /// What the machine was started with, in bytes.
    pub base_memory: u64,
}

/// The record of one handover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HandoverInfo {
    /// What names the handover on both sides.
    pub token: String,
    /// Which side of it this process is.
    pub side: HandoverSide,
    /// What is on record of it, in the words of the handover records; where nothing is, `phase`.
    pub state: String,
    /// Where it is, in the words of `docs/handover.md`; `gone` where the process that it belongs to is
    /// dead. None where only that process could say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Who owns the guest, seen from that side. None while that is undecided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Whether somebody must decide with `x-whimbrel-handover-resolve`, or the peer be heard of
    /// again, before it can end.
    pub undecided: bool,
    /// The machine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The address of the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// When it began.
    pub since: Timestamp,
}

/// A side of a handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HandoverSide {
    /// Where the guest comes from.
    Source,
    /// Where it goes to.
    Destination,
}

/// What is at the other end (QAPI `VersionInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The version of QEMU whose QAPI is followed.
    pub qemu: VersionTriple,
    /// The implementation and its own version.
    pub package: String,
}

impl VersionInfo {
    /// Of this build.
    #[must_use]
    pub fn this() -> Self {
        Self {
            qemu: VersionTriple { major: 11, minor: 1, micro: 0 },
            package: concat!("whimbrel-", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// A version in three numbers (QAPI `VersionTriple`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionTriple {
    /// First.
    pub major: u32,
    /// Second.
    pub minor: u32,
    /// Third.
    pub micro: u32,
}

/// A command that exists (QAPI `CommandInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandInfo {
    /// Its name.
    pub name: &'static str,
}

/// Where a descriptor was put (QAPI `AddfdInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AddedFd {
    /// The number of the set.
    pub fdset_id: u32,
    /// The number of the descriptor in this process.
    pub fd: i32,
}

/// A set of descriptors (QAPI `FdsetInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FdSetInfo {
    /// Its number.
    pub fdset_id: u32,
    /// What is in it.
    pub fds: Vec<FdSetFd>,
}

/// A descriptor of a set (QAPI `FdsetFdInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FdSetFd {
    /// Its number in this process.
    pub fd: i32,
    /// What the client wanted to remember.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opaque: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(reply: impl Into<Reply>) -> Value {
        serde_json::to_value(reply.into()).unwrap()
    }

    #[test]
    fn replies_have_qemus_shape() {
        assert_eq!(value(()), json!({}));
        assert_eq!(
            value(StatusInfo { running: false, status: RunState::InMigrate }),
            json!({"running": false, "status": "inmigrate"})
        );
        assert_eq!(value(UuidInfo { uuid: "u".into() }), json!({"UUID": "u"}));
        assert_eq!(value(NameInfo { name: None }), json!({}));
        assert_eq!(
            value(vec![CpuInfo::new(1, 77)]),
            json!([{
                "cpu-index": 1, "qom-path": "/machine/cpu[1]", "thread-id": 77,
                "target": std::env::consts::ARCH,
            }])
        );
        assert_eq!(value(MemoryInfo { base_memory: 9 }), json!({"base-memory": 9}));
    }

    #[test]
    fn run_states_have_qemus_names() {
        for (state, name) in [
            (RunState::FinishMigrate, "finish-migrate"),
            (RunState::PostMigrate, "postmigrate"),
            (RunState::SaveVm, "save-vm"),
            (RunState::RestoreVm, "restore-vm"),
            (RunState::InternalError, "internal-error"),
            (RunState::GuestPanicked, "guest-panicked"),
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), json!(name));
        }
    }
}
