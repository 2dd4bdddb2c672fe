//! What describes a machine to be run here.

use crate::{MachineName, Restore};
use devices::console::Spec as Console;
use guest::Builtin;
use links::Address;
use memory::Backing;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// A machine to be run here, or to be received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunConfig {
    /// What to call it; by default after its guest.
    pub name: Option<MachineName>,
    /// Its identity; by default a new one.
    pub uuid: Option<Uuid>,
    /// Where the guest comes from.
    pub boot: BootSource,
    /// The kernel's command line.
    pub cmdline: String,
    /// RAM in bytes; by default [`RunConfig::DEFAULT_MEMORY`].
    pub memory: Option<u64>,
    /// What backs the RAM; by default pages of 4 KiB, or as the source has it.
    pub backing: Option<Backing>,
    /// The file that the RAM is in, if it is to have a name.
    pub memory_file: Option<MemoryPlace>,
    /// How many processors; by default one.
    pub cpus: Option<u8>,
    /// Where its serial line goes.
    pub console: Console,
    /// Control sockets beside the one that goes by name.
    pub qmp: Vec<QmpSocket>,
    /// Do not let the guest run yet.
    pub paused: bool,
    /// End when the guest has moved away.
    pub exit_after_move: bool,
    /// Allow a machine more memory than this host has, or take one that needs more than there is to
    /// spare: it may never use all of it.
    pub overcommit: bool,
    /// How long to hold a guest whose source was lost when it was complete here.
    pub hold: Option<Duration>,
    /// How long a silent or stuck peer is put up with, if that was said.
    pub stall_limit: Option<Duration>,
    /// Wait for another guest when one failed to come.
    pub keep_waiting: bool,
    /// Allow addresses beyond this host although nothing is encrypted.
    pub insecure: bool,
    /// What its process was told to log, if anything was said: the process that replaces it does the same.
    pub log: Option<String>,
}

impl RunConfig {
    /// RAM of a machine of which nothing else was said, in bytes.
    pub const DEFAULT_MEMORY: u64 = 256 << 20;
}

/// A file that a machine's RAM is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlace {
    /// The file.
    pub path: PathBuf,
    /// A machine that is booted may discard what is in it.
    pub discard: bool,
}

/// Where a guest comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootSource {
    /// A built-in one.
    Builtin(Builtin),
    /// A kernel of its own.
    Files {
        /// The kernel.
        kernel: PathBuf,
        /// An initial RAM disk.
        initrd: Option<PathBuf>,
    },
    /// From another machine monitor.
    Incoming(Incoming),
    /// Out of a file.
    Restore(Restore),
}

/// Where to wait for a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// There.
    At(Address),
    /// Where QMP's `migrate-incoming` will say.
    Deferred,
    /// From the process that this one replaces.
    Predecessor,
}

/// A control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpSocket {
    /// Where.
    pub path: PathBuf,
    /// Its file mode.
    pub mode: u32,
}
