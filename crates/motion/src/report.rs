//! The one report of a motion. QMP, the command line, logs and tests all read this value.

use crate::Status;
use crate::fill::FillReport;
use crate::guard::CopyReport;
use crate::handover::Standing;
use serde::Serialize;
use state::{Code, Refusal};
use std::sync::Arc;

/// Everything there is to know about a motion. All times are in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// How it ended, or where it stands.
    pub status: StatusOrNone,
    /// Why it ended so, where it failed or was given up.
    pub error: Option<ErrorReport>,
    /// All reasons for which it was refused before anything was touched.
    pub refusals: Vec<Refusal>,
    /// Names the motion on both sides.
    pub session: String,
    /// Names the handover on both sides.
    pub token: String,
    /// UUID of the machine.
    pub machine: String,
    /// The other side.
    pub peer: String,
    /// Data connections in use.
    pub connections: u16,
    /// From the command to the end.
    pub total_ns: u64,
    /// From the command to the first page.
    pub setup_ns: u64,
    /// The guest was stopped, or promised not to run again, for the whole motion.
    pub frozen: bool,
    /// Only the question was asked whether the machine could be moved, and it could.
    pub checked: bool,
    /// What is to be known of the way to the other side, though nothing is against it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// RAM in sum.
    pub ram: RamReport,
    /// Each sweep over the dirty pages.
    pub passes: Vec<PassReport>,
    /// The blackout that was, if the guest was stopped.
    pub blackout: Option<BlackoutReport>,
    /// What a guest that came from a file took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreReport>,
    /// Why the guest was stopped when it was, or was not.
    pub switch: String,
    /// The file, where that is the other end.
    pub file: Option<FileReport>,
    /// How RAM was copied before it was overwritten, where the copy is of the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyReport>,
    /// The guest was stopped this long for an attempt that was given up.
    pub given_up_pause_ns: Option<u64>,
    /// After a motion that did not complete: pages that are still write-protected by dirty logging
    /// that has ended. Each costs the guest one fault when it is written.
    pub still_protected_pages: u64,
}

/// A file that a guest was written to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Names what is in it.
    pub snapshot: String,
    /// `save` or `snapshot`: what the file may be used for.
    pub kind: &'static str,
    /// Its size in bytes, as it looks.
    pub size: u64,
    /// The bytes that it takes up on the disk.
    pub on_disk: u64,
    /// Why it was written through the page cache, where that was not asked for.
    pub buffered_because: Option<String>,
}

/// [`Status`], with a default for a report that has just begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct StatusOrNone(pub Status);

impl Default for StatusOrNone {
    fn default() -> Self {
        Self(Status::None)
    }
}

/// Why a motion ended without success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    /// The machine-readable reason.
    pub code: Code,
    /// What was being done, why it failed, what state the guest is in.
    pub why: String,
}

/// RAM, over the whole motion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RamReport {
    /// RAM of the guest, in pages.
    pub total_pages: u64,
    /// Pages sent with contents, counting each time.
    pub data_pages: u64,
    /// Pages sent as zero, counting each time.
    pub zero_pages: u64,
    /// Pages found zero and not sent at all.
    pub skipped_pages: u64,
    /// Bytes of pages and of the tables that name them.
    pub bytes: u64,
}

/// One sweep over the dirty pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PassReport {
    /// Which, from 1.
    pub pass: u32,
    /// Pages sent with contents.
    pub data_pages: u64,
    /// Pages sent as zero.
    pub zero_pages: u64,
    /// Pages found zero and not sent at all.
    pub skipped_pages: u64,
    /// Bytes of pages and tables.
    pub bytes: u64,
    /// From its first page to the destination's word that all were in RAM.
    pub duration_ns: u64,
    /// Pages that the guest wrote meanwhile.
    pub dirtied_pages: u64,
    /// What the blackout would have been, had the guest been stopped after it.
    pub predicted_blackout_ns: u64,
}

/// One stage of a blackout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// What was done.
    pub name: StageName,
    /// How long it took.
    pub ns: u64,
}

/// The stages of a blackout, in order. Together they are the blackout: nothing lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageName {
    /// Stopping all vCPUs and draining the devices.
    Pause,
    /// Waiting for the word to go on, with `pause-before-switchover`.
    Waiting,
    /// Collecting and sending the last pages.
    LastPages,
    /// Saving vCPUs and devices, and encoding that.
    Save,
    /// Write-protecting RAM, for a copy of the beginning.
    Protect,
    /// The rest of the last pages and the state on their way, until the destination had both, and
    /// READY's way back.
    Transfer,
    /// Loading the state at the destination.
    Restore,
    /// READY's arrival to COMMIT's departure.
    Commit,
    /// COMMIT's way: half of the time that COMMIT and RUNNING were on their way.
    Answer,
    /// From COMMIT's arrival to the vCPUs running.
    Start,
}

/// A blackout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlackoutReport {
    /// From the word to stop to the destination's vCPUs running.
    pub ns: u64,
    /// The true figure is within this of it: what the round trip leaves open.
    pub uncertainty_ns: u64,
    /// What was predicted when the guest was stopped.
    pub predicted_ns: u64,
    /// What was promised; `None` is unlimited.
    pub limit_ns: Option<u64>,
    /// Pages sent while the guest was stopped.
    pub pages: u64,
    /// Bytes sent while the guest was stopped.
    pub bytes: u64,
    /// Where the time went.
    pub stages: Vec<Stage>,
}

/// A guest that came from a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// What the file says it is: `save` or `snapshot`.
    pub kind: &'static str,
    /// Which one.
    pub snapshot: String,
    /// The guest goes on once, and is claimed in the file.
    pub claims: bool,
    /// It is a copy, with an identity of its own.
    pub clone: bool,
    /// Whether RAM was filled before the guest ran (`eager`), or while it did (`lazy`).
    pub how: &'static str,
    /// Threads that read the file.
    pub threads: usize,
    /// Building the machine.
    pub build_ns: u64,
    /// What the hypervisor took of that for memory slots, where that is known.
    pub slots_ns: Option<u64>,
    /// Filling RAM; 0 as long as it is not full.
    pub fill_ns: u64,
    /// Having RAM come on demand, before the guest ran.
    pub register_ns: Option<u64>,
    /// How RAM comes, or came, while the guest runs.
    pub fill: Option<FillReport>,
    /// Pages whose contents were compared with their checksums.
    pub verified_pages: u64,
    /// Loading the state.
    pub state_ns: u64,
    /// Making the claim durable, where there was one to make.
    pub claim_ns: Option<u64>,
    /// From the command to the guest's first instruction, once it has run.
    pub first_instruction_ns: Option<u64>,
}

/// How far a motion is, at any time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Where it stands.
    pub status: StatusOrNone,
    /// The other side.
    pub peer: String,
    /// Data connections in use.
    pub connections: u16,
    /// The promise, in nanoseconds; `None` is unlimited.
    pub limit_ns: Option<u64>,
    /// The most that is sent, in bytes per second; `None` is unlimited.
    pub max_bandwidth: Option<u64>,
    /// The guest is stopped for the whole motion.
    pub frozen: bool,
    /// The guest is needed no longer, and may be stopped, run and reset: all of its copy was taken, or is
    /// kept.
    #[serde(skip)]
    pub released: bool,
    /// Since the command.
    pub elapsed_ns: u64,
    /// The pass that is under way.
    pub pass: u32,
    /// Pages that this pass has to look at.
    pub pass_pages: u64,
    /// Those that it has looked at.
    pub pass_done: u64,
    /// Bytes sent so far.
    pub bytes: u64,
    /// Bytes per second, over the last while.
    pub rate: u64,
    /// Pages per second that the guest writes, as of the last pass.
    pub dirty_rate: u64,
    /// What the blackout would be if the guest were stopped at the end of this pass.
    pub predicted_blackout_ns: u64,
    /// Until the guest runs at the destination, if it goes on like this. `None` where that cannot
    /// be told, or would be never.
    pub eta_ns: Option<u64>,
    /// Passes no longer bring the blackout down, and it is above the promise.
    pub stuck: bool,
    /// What it waits for, or why the guest is not stopped yet.
    pub note: String,
    /// What is to be known of the way to the other side, though nothing is against it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The handover is undecided: what it waits for. See `docs/handover.md`.
    pub undecided: Option<Undecided>,
    /// The copy here may be the only one of the guest: this process must not end unless forced to.
    /// Also where the handover has just begun, and nobody would call it undecided yet.
    #[serde(skip)]
    pub in_doubt: Option<Undecided>,
    /// How the handover stands, once it has begun.
    #[serde(skip)]
    pub handover: Option<Arc<Standing>>,
}

/// A handover of which this side does not know how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Undecided {
    /// The handover.
    pub token: String,
    /// The other side.
    pub peer: String,
    /// For how long.
    pub since_ns: u64,
}
