//! `cargo xtask lab`: stock Linux guests on a complete KVM, on any machine.

mod guest;
mod host;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::places;
use guest::Guest;
pub use guest::Programs;
use host::{Ended, Host};

/// No program can bring the host's kernel down; QEMU's emulation of SVM, now and then, does. That
/// says nothing about what was to be tested, so it is tried again, and said.
const ATTEMPTS: u32 = 3;
const RUN: &str = include_str!("../../lab/run.sh");

/// What the lab is to do.
#[derive(clap::Parser)]
pub struct Lab {
    /// Build everything and print where it lies, without running it
    #[arg(long, conflicts_with = "payload")]
    build: bool,
    /// Boot the emulated host and run DIR/run.sh in it, instead of moving a Linux guest
    #[arg(long, value_name = "DIR")]
    payload: Option<PathBuf>,
    /// A shell in the emulated host on this terminal (poweroff -f ends it), instead of run.sh
    #[arg(long)]
    shell: bool,
    /// Processors of the emulated host; QEMU 10 emulates nested virtualisation reliably on one only
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory of the emulated host in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Seconds after which the emulated host is ended
    #[arg(long, default_value_t = 420)]
    timeout: u64,
}

impl Lab {
    /// Without any arguments.
    pub fn plain() -> Self {
        clap::Parser::parse_from(["lab"])
    }
}

/// Installs what the lab needs from the system.
pub fn install() -> Result<()> {
    host::install()
}

/// Runs the lab.
pub fn run(args: &Lab) -> Result<()> {
    let cache = places::cache();
    let folder = places::target().join("lab");
    let mut host = Host::build(&folder, &cache)?;
    host.cpus = args.cpus;
    host.memory_mib = args.memory;
    host.timeout = Duration::from_secs(args.timeout);
    let payload = match &args.payload {
        Some(payload) => payload.clone(),
        None => build_payload(&folder, &cache)?,
    };
    if args.build {
        println!("payload: {}", payload.display());
        return Ok(());
    }
    if args.shell {
        return host.shell(&payload, &folder);
    }
    let left = format!(
        "its serial line is {}/serial.log, and what it left on its disk {0}/disk; docs/lab.md says \
         how to look closer",
        folder.display()
    );
    for attempt in 1..=ATTEMPTS {
        match host.run(&payload, &folder)? {
            Ended::Ran(0) => return Ok(()),
            Ended::Ran(status) => bail!("run.sh ended with status {status} in the lab; {left}"),
            Ended::Died(how) => println!(
                "!!! THE EMULATED HOST DIED (attempt {attempt} of {ATTEMPTS}): {how}\n{left}"
            ),
        }
    }
    bail!("the emulated host died {ATTEMPTS} times; {left}")
}

/// Puts together what moves a Linux guest in the emulated host.
fn build_payload(folder: &Path, cache: &Path) -> Result<PathBuf> {
    let programs = Programs::build(folder, &[])?;
    let guest = Guest::build(&programs, folder, cache)?;
    let payload = folder.join("payload");
    let _ = fs::remove_dir_all(&payload);
    fs::create_dir_all(&payload)?;
    let copy = |from: &Path, name: &str| {
        fs::copy(from, payload.join(name))
            .with_context(|| format!("cannot copy {} for the emulated host", from.display()))
    };
    copy(&programs.path("whimbrel"), "whimbrel")?;
    copy(&programs.path("scenario"), "scenario")?;
    copy(&guest.kernel, "vmlinuz")?;
    copy(&guest.initramfs, "guest.cpio")?;
    fs::write(payload.join("run.sh"), RUN)?;
    Ok(payload)
}
