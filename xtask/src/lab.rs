//! `cargo xtask lab`: stock Linux guests on a complete KVM, on any machine.

mod guest;
mod host;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::places;
use guest::{Guest, Programs};
use host::Host;

/// What the lab is to do.
#[derive(clap::Args)]
pub struct Lab {
    /// Boot the emulated host and run DIR/run.sh in it, instead of the whole scenario
    #[arg(long, value_name = "DIR")]
    payload: Option<PathBuf>,
    /// With --payload: a shell on this terminal in the emulated host instead of run.sh
    #[arg(long, requires = "payload")]
    shell: bool,
    /// Processors of the emulated host
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Memory of the emulated host in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Seconds after which the emulated host is ended
    #[arg(long, default_value_t = 420)]
    timeout: u64,
}

/// Runs the lab.
pub fn run(args: &Lab) -> Result<()> {
    let cache = places::cache();
    let folder = places::target().join("lab");
    let mut host = Host::build(&folder, &cache)?;
    host.cpus = args.cpus;
    host.memory_mib = args.memory;
    host.timeout = Duration::from_secs(args.timeout);
    if let Some(payload) = &args.payload {
        if args.shell {
            return host.shell(payload, &folder);
        }
        return host.run(payload, &folder);
    }
    let programs = Programs::build(&folder, &["whimbrel-lab"])?;
    let guest = Guest::build(&programs, &folder, &cache)?;
    println!("guest kernel:    {}", guest.kernel.display());
    println!("guest initramfs: {}", guest.initramfs.display());
    Ok(())
}
