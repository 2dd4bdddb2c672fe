//! What a successor is told before it builds the machine.

use super::held::{Held, Role, SavedHeld};
use crate::monitor::Monitor;
use crate::{BootSource, Error, Incoming, MachineName, QmpSocket, RunConfig, RuntimeDir};
use devices::console::Spec;
use memory::{Backing, GuestRam, MemoryFile};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use state::{Bundle, Code, Saved};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vmm::BootFiles;

/// This program, by name and version.
pub(super) fn builder() -> String {
    let builder = concat!("whimbrel ", env!("CARGO_PKG_VERSION"));
    #[cfg(feature = "mutate")]
    let builder = vmm::mutate::named(builder);
    builder.to_owned()
}

/// How the old process was told to run its machine, as far as that still matters.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct SavedOutset {
    /// The program that sends it.
    #[n(0)]
    pub builder: String,
    /// The runtime folder.
    #[n(1)]
    pub runtime: ByteVec,
    /// The machine's name.
    #[n(2)]
    pub name: String,
    /// Where its console is.
    #[n(3)]
    pub console: String,
    /// Control sockets beside the one that goes by name: path and mode.
    #[n(4)]
    pub qmp: Vec<(ByteVec, u32)>,
    /// Size of RAM in bytes.
    #[n(5)]
    pub memory: u64,
    /// What backs it.
    #[n(6)]
    pub backing: String,
    /// `--exit-after-move`.
    #[n(7)]
    pub exit_after_move: bool,
    /// `--overcommit`.
    #[n(8)]
    pub overcommit: bool,
    /// `--insecure`.
    #[n(9)]
    pub insecure: bool,
    /// `--handover-hold`, in milliseconds.
    #[n(10)]
    pub hold: Option<u64>,
    /// The program that was to be replaced in the first place, where that is another.
    #[n(11)]
    pub origin: Option<String>,
    /// The process that sends it.
    #[n(12)]
    pub pid: u32,
    /// How long either process may be silent before it counts as gone, in milliseconds.
    #[n(13)]
    pub stall: Option<u64>,
    /// The command line of the kernel that the guest boots when it is reset.
    #[n(14)]
    pub cmdline: Option<String>,
    /// The file that RAM is in, where it has a name.
    #[n(15)]
    pub memory_file: Option<SavedMemoryFile>,
    /// `--log`
    #[n(16)]
    pub log: Option<String>,
}

/// RAM in a file with a name.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct SavedMemoryFile {
    /// Where it is.
    #[n(0)]
    pub path: ByteVec,
    /// Its generation was raised for this guest.
    #[n(1)]
    pub entered: bool,
}

impl Saved for SavedOutset {
    const SCHEMA: &'static str = "whimbrel.update.outset";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// Who a process is that takes part in an update.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct SavedBuilder {
    /// The program, by name and version.
    #[n(0)]
    pub builder: String,
    /// The process.
    #[n(1)]
    pub pid: u32,
    /// Its PID namespace, where it knows it.
    #[n(2)]
    pub namespace: Option<u64>,
}

impl Saved for SavedBuilder {
    const SCHEMA: &'static str = "whimbrel.update.builder";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// Why a process does not take part in one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct SavedReason {
    /// The machine-readable reason.
    #[n(0)]
    pub code: Code,
    /// The reason.
    #[n(1)]
    pub why: String,
}

impl Saved for SavedReason {
    const SCHEMA: &'static str = "whimbrel.update.reason";
    const VERSION: u16 = 1;
    const LEAST_READER: u16 = 1;
}

/// All that a successor begins with.
pub(super) struct Outset {
    /// The program that is replaced.
    pub builder: String,
    /// The process that sends it.
    pub pid: u32,
    /// What the guest boots when it is reset.
    pub boot: Option<BootFiles>,
    pub config: RunConfig,
    pub runtime: RuntimeDir,
    pub ram: GuestRam,
    /// How long the old process may be silent, where that was set.
    pub stall: Option<Duration>,
    /// What comes with it: the link, the fate, the name.
    pub held: Held,
}

/// What is sent of a machine whose RAM is `ram`, with `held` beside it.
pub(super) fn of(
    monitor: &Monitor,
    ram: &GuestRam,
    mut held: Held,
    origin: Option<String>,
    cmdline: Option<String>,
) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
    // Whatever is added to a machine's configuration is decided about here.
    let RunConfig {
        name: _,
        // It travels with the description of the machine.
        uuid: _,
        boot: _,
        cmdline: _,
        memory: _,
        backing: _,
        // That of the machine, below.
        memory_file: _,
        cpus: _,
        console,
        qmp,
        // Whether the guest runs travels with its state.
        paused: _,
        exit_after_move,
        overcommit,
        hold,
        // It has become one of the parameters, which travel later.
        stall_limit: _,
        // There is nobody else to wait for.
        keep_waiting: _,
        insecure,
        log,
    } = &monitor.config;
    let file = ram.file().ok_or_else(|| {
        let why = "its RAM is mapped from a file that it was restored from (--mmap)";
        Error::new(Code::NotMovable, why)
    })?;
    let ram_file = file.try_clone_to_owned().map_err(|e| Error::host("duplicating RAM", &e))?;
    held.put(Role::Ram, "RAM", ram_file);
    let memory_file = ram.memory_file();
    if let Some(file) = memory_file {
        let sidecar = file.sidecar_fd().try_clone_to_owned();
        let sidecar = sidecar.map_err(|e| Error::host("duplicating RAM's sidecar", &e))?;
        held.put(Role::Sidecar, "sidecar", sidecar);
    }
    let absolute = |path: &Path| {
        let path = std::path::absolute(path)
            .map_err(|e| Error::host(format!("looking for {}", path.display()), &e))?;
        Ok::<_, Error>(ByteVec::from(path.as_os_str().as_bytes().to_vec()))
    };
    let outset = SavedOutset {
        builder: builder(),
        runtime: absolute(monitor.runtime.path())?,
        name: monitor.name.to_string(),
        console: console.to_string(),
        qmp: qmp
            .iter()
            .map(|QmpSocket { path, mode }| Ok((absolute(path)?, *mode)))
            .collect::<Result<_, Error>>()?,
        memory: ram.layout().size(),
        backing: ram.backing().as_str().to_owned(),
        exit_after_move: *exit_after_move,
        overcommit: *overcommit,
        insecure: *insecure,
        hold: hold.map(|hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX)),
        origin,
        pid: std::process::id(),
        stall: Some(monitor.state().parameters.stall_limit),
        cmdline,
        memory_file: memory_file
            .map(|file| {
                let path = absolute(file.path())?;
                Ok::<_, Error>(SavedMemoryFile { path, entered: file.has_entered() })
            })
            .transpose()?,
        log: log.clone(),
    };
    let (table, descriptors) = held.into_parts();
    let mut bundle = Bundle::new();
    bundle.put("", &outset);
    bundle.put("", &table);
    Ok((bundle.encode(), descriptors))
}

/// Reads what [`of`] wrote: that, and the channel on which the machine is to go back. A program that comes
/// with it is put aside first, for it is needed where the rest is not understood.
pub(super) fn read(
    content: &[u8],
    descriptors: Vec<OwnedFd>,
    program: &mut Option<OwnedFd>,
) -> Result<(Outset, Option<OwnedFd>), Error> {
    let wrong = |e: state::LoadError| Error::new(Code::IncompatibleVersion, e.to_string());
    let mut bundle = Bundle::decode(content).map_err(wrong)?;
    let table: SavedHeld = bundle.take("").map_err(wrong)?;
    let mut held = Held::of_parts(table, descriptors)?;
    *program = held.take_optional(Role::Program)?.map(|(_, program)| program);
    let back = held.take_optional(Role::Back)?.map(|(_, back)| back);
    let outset: SavedOutset = bundle.take("").map_err(wrong)?;
    bundle.finish().map_err(wrong)?;
    let SavedOutset {
        builder,
        runtime,
        name,
        console,
        qmp,
        memory,
        backing,
        exit_after_move,
        overcommit,
        insecure,
        hold,
        origin,
        pid,
        stall,
        cmdline,
        memory_file,
        log,
    } = outset;
    let bad = |what: &str, why: String| {
        Error::new(
            Code::ProtocolError,
            format!("the old process gave a {what} that is none: {why}"),
        )
    };
    let name: MachineName = name.parse().map_err(|e| bad("name", format!("{e}")))?;
    let console: Spec = console.parse().map_err(|e| bad("console", format!("{e}")))?;
    let backing: Backing = backing.parse().map_err(|e: String| bad("kind of page", e))?;
    let file = held.take(Role::Ram)?;
    let ram = match memory_file {
        None => GuestRam::from_file(file, memory, backing, None),
        Some(SavedMemoryFile { path: at, entered }) => {
            let sidecar = held.take(Role::Sidecar)?;
            let file = MemoryFile::inherit(&path(at), file, sidecar, entered)
                .map_err(motion::MotionError::from)?;
            GuestRam::named(Arc::new(file))
        }
    };
    let ram = ram.map_err(|e| Error::new(Code::MemoryUnavailable, e.to_string()))?;
    let config = RunConfig {
        name: Some(name),
        uuid: None,
        boot: BootSource::Incoming(Incoming::Predecessor),
        cmdline: String::new(),
        memory: None,
        backing: None,
        memory_file: None,
        cpus: None,
        console,
        qmp: qmp.into_iter().map(|(at, mode)| QmpSocket { path: path(at), mode }).collect(),
        paused: false,
        exit_after_move,
        overcommit,
        hold: hold.map(Duration::from_millis),
        stall_limit: None,
        keep_waiting: false,
        insecure,
        log,
    };
    let builder = origin.unwrap_or(builder);
    let runtime = RuntimeDir::at(&path(runtime))?;
    let (kernel, initrd) = (held.take_optional(Role::Kernel)?, held.take_optional(Role::Initrd)?);
    let boot = kernel.zip(cmdline).map(|(kernel, cmdline)| BootFiles { kernel, initrd, cmdline });
    let stall = stall.map(Duration::from_millis);
    Ok((Outset { builder, pid, boot, config, runtime, ram, stall, held }, back))
}

fn path(bytes: ByteVec) -> PathBuf {
    OsString::from_vec(bytes.into()).into()
}
