//! `whimbrel run`

use super::hold::{Manner, Outside, hold, succeed};
use crate::exit::Exit;
use crate::units::{Size, Time, stall};
use guest::Builtin;
use monitor::{BootSource, Incoming, MemoryPlace, RunConfig};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// Run a machine, or wait for one that comes from elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whimbrel run --name a --guest clock --console stdio
  whimbrel run --kernel vmlinuz --initrd initrd.img --cmdline console=ttyS0 --memory 1G --cpus 2
  whimbrel run --name b --incoming tcp:127.0.0.1:4444 --detach
  whimbrel run --name c --guest workload --memory 4G --memory-file /pmem/c.ram --detach

A machine that comes from elsewhere is described by its source: of what describes a machine, only
--name, --console, --qmp and --hugepages are this side's own; the others are checked against what
comes, and refused if they differ.")]
pub struct Run {
    /// Its identity [default: a new one]
    #[arg(long)]
    uuid: Option<Uuid>,
    /// Kernel to boot: a bzImage, or an ELF image with a PVH note
    #[arg(long, value_name = "FILE", conflicts_with_all = ["guest", "incoming"])]
    kernel: Option<PathBuf>,
    /// Built-in guest to boot; see `whimbrel guest list`
    #[arg(long, value_name = "NAME", conflicts_with = "incoming")]
    #[arg(value_parser = |name: &str| name.parse::<Builtin>())]
    guest: Option<Builtin>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE", conflicts_with_all = ["guest", "incoming"])]
    initrd: Option<PathBuf>,
    /// Command line of the kernel, or parameters of the built-in guest
    #[arg(long, value_name = "TEXT", conflicts_with = "incoming")]
    cmdline: Option<String>,
    /// RAM, as 64M or 2G [default: 256M]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Keep its RAM in this file, made if there is none: on storage that lasts, the guest outlives a
    /// reboot of the host (`whimbrel update --mode reboot`)
    #[arg(long, value_name = "PATH", conflicts_with = "incoming")]
    memory_file: Option<PathBuf>,
    /// With --memory-file: boot although the file holds a guest's RAM, which is lost
    #[arg(long, requires = "memory_file")]
    discard_memory: bool,
    /// How many processors [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: Option<u8>,
    /// Wait for a machine there, or until QMP's migrate-incoming says where; update: takes over the
    /// machine of another process of this host, which describes all of it
    #[arg(long, value_name = "URI|defer|update:unix:PATH", value_parser = incoming)]
    incoming: Option<From>,
    /// Do not let the guest run before `resume`
    #[arg(long, conflicts_with = "incoming")]
    paused: bool,
    /// How long to hold a guest whose source was lost when it was complete here, before it is
    /// discarded [default: until somebody decides]
    #[arg(long, value_name = "TIME", conflicts_with_all = ["guest", "kernel"])]
    handover_hold: Option<Time>,
    /// How long a peer of a move may be silent, or take nothing [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = stall)]
    stall_limit: Option<Duration>,
    /// Wait for another guest when one failed to come
    #[arg(long, conflicts_with_all = ["guest", "kernel"])]
    wait: bool,
    /// Allow addresses beyond this host, although nothing is encrypted
    #[arg(long, conflicts_with_all = ["guest", "kernel"])]
    insecure: bool,
    #[command(flatten)]
    outside: Outside,
}

impl Run {
    pub fn run(self) -> anyhow::Result<Exit> {
        let channel = match &self.incoming {
            Some(From::Predecessor) => monitor::channel_of_stdin()?,
            Some(From::PredecessorAt(path)) => monitor::channel_on(path)?,
            Some(From::Elsewhere(_)) | None => {
                return hold(Manner::of(&self.outside), || self.config());
            }
        };
        succeed(channel)
    }

    /// Whether its errors, too, are to be JSON.
    pub fn wants_json(&self) -> bool {
        self.outside.json
    }

    fn config(self) -> anyhow::Result<RunConfig> {
        let kernel = match (self.guest, self.kernel, self.incoming) {
            (Some(guest), _, _) => BootSource::Builtin(guest),
            (_, Some(kernel), _) => BootSource::Files { kernel, initrd: self.initrd },
            (_, _, Some(From::Elsewhere(incoming))) => BootSource::Incoming(incoming),
            (None, None, _) => {
                return Err(monitor::Error::new(
                    state::Code::InvalidArgument,
                    "there is nothing to run: give --guest, --kernel or --incoming",
                )
                .into());
            }
        };
        let (console, outside) = (self.outside.console()?, self.outside);
        Ok(RunConfig {
            name: outside.name,
            uuid: self.uuid,
            boot: kernel,
            cmdline: self.cmdline.unwrap_or_default(),
            memory: self.memory.map(|size| size.0),
            backing: outside.hugepages,
            memory_file: self
                .memory_file
                .map(|path| MemoryPlace { path, discard: self.discard_memory }),
            cpus: self.cpus,
            console,
            qmp: outside.qmp,
            paused: self.paused,
            exit_after_move: outside.exit_after_move,
            overcommit: outside.overcommit,
            hold: self.handover_hold.map(|time| time.0),
            stall_limit: self.stall_limit,
            keep_waiting: self.wait,
            insecure: self.insecure,
            log: None,
        })
    }
}

/// Where a machine comes from that is not booted here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    Elsewhere(Incoming),
    /// The process that started this one.
    Predecessor,
    /// A process that connects there.
    PredecessorAt(PathBuf),
}

fn incoming(text: &str) -> Result<From, String> {
    if let Some(rest) = text.strip_prefix("update:") {
        return match rest.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(From::PredecessorAt(path.into())),
            _ if rest == "stdin" => Ok(From::Predecessor),
            _ => Err("after update: comes unix:PATH".to_owned()),
        };
    }
    if text == "defer" {
        return Ok(From::Elsewhere(Incoming::Deferred));
    }
    let elsewhere = text.parse().map(|address| From::Elsewhere(Incoming::At(address)));
    elsewhere.map_err(|error| format!("{error}, or defer, or update:unix:PATH"))
}

#[cfg(test)]
mod tests;
