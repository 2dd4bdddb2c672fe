//! `whimbrel run`

mod detach;
mod parse;

use crate::exit::Exit;
use crate::output::{print_error, print_json};
use crate::units::{Size, Time};
use guest::Builtin;
use memory::Backing;
use monitor::{
    BootSource, Console, Ending, Incoming, Machine, MachineName, QmpSocket, RunConfig, RuntimeDir,
};
use std::io::{IsTerminal, stdin};
use std::path::PathBuf;
use uuid::Uuid;

/// Run a machine, or wait for one that comes from elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whimbrel run --name a --guest clock --console stdio
  whimbrel run --kernel vmlinuz --initrd initrd.img --cmdline console=ttyS0 --memory 1G --cpus 2
  whimbrel run --name b --incoming tcp:127.0.0.1:4444 --detach

A machine that comes from elsewhere is described by its source: of what describes a machine, only
--name, --console, --qmp and --hugepages are this side's own; the others are checked against what
comes, and refused if they differ.")]
pub struct Run {
    /// What to call it; by default after its guest
    #[arg(long)]
    name: Option<MachineName>,
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
    /// What backs the RAM: pages of 4 KiB, transparent huge pages, or reserved ones of 2 MiB
    /// [default: off]
    #[arg(long, value_name = "off|thp|2M")]
    hugepages: Option<Backing>,
    /// How many processors [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: Option<u8>,
    /// Where its serial line goes [default: stdio, or off with --detach]
    #[arg(long, value_name = "stdio|pty|file:PATH|unix:PATH|off")]
    console: Option<Console>,
    /// A control socket beside the one that goes by name
    #[arg(long, value_name = "unix:PATH[,mode=0600]", value_parser = parse::qmp)]
    qmp: Vec<QmpSocket>,
    /// Wait for a machine there, or until QMP's migrate-incoming says where
    #[arg(long, value_name = "URI|defer", value_parser = parse::incoming)]
    incoming: Option<Incoming>,
    /// Do not let the guest run before `resume`
    #[arg(long, conflicts_with = "incoming")]
    paused: bool,
    /// Go to the background once it runs, or waits
    #[arg(long)]
    detach: bool,
    /// End when the guest has moved away, instead of staying to be asked about it
    #[arg(long)]
    exit_after_move: bool,
    /// Allow more memory than this host has (run), or has to spare (--incoming)
    #[arg(long)]
    overcommit: bool,
    /// How long to hold a guest whose source was lost when it was complete here, before it is
    /// discarded [default: until somebody decides]
    #[arg(long, value_name = "TIME", conflicts_with_all = ["guest", "kernel"])]
    handover_hold: Option<Time>,
    /// Wait for another guest when one failed to come
    #[arg(long, conflicts_with_all = ["guest", "kernel"])]
    wait: bool,
    /// Allow addresses beyond this host, although nothing is encrypted
    #[arg(long, conflicts_with_all = ["guest", "kernel"])]
    insecure: bool,
    /// Answer with a JSON object as soon as it runs, or waits; the guest's console has to be
    /// elsewhere
    #[arg(long)]
    pub json: bool,
    /// Report on stdout to the process that went to the background for us
    #[arg(long, hide = true)]
    background: bool,
}

impl Run {
    pub fn run(self) -> anyhow::Result<Exit> {
        if self.detach {
            return detach::start(self.json);
        }
        let (background, json) = (self.background, self.json);
        let runtime = RuntimeDir::from_environment()?;
        let config = self.config()?;
        let at_the_terminal = config.console == Console::Stdio && stdin().is_terminal();
        if at_the_terminal {
            eprintln!("The guest gets the terminal; type Ctrl-A x to end its machine.");
        }
        let machine = match Machine::start(config, &runtime) {
            Ok(machine) => machine,
            Err(error) if background => {
                detach::report_failure(&error.into());
                return Ok(Exit::Failed);
            }
            Err(error) => return Err(error.into()),
        };
        if background {
            detach::report_success(&machine, &runtime)?;
        } else if json {
            print_json(&detach::answer(machine.name().as_str(), std::process::id()))?;
        } else if !at_the_terminal {
            for line in machine.greeting() {
                eprintln!("{line}");
            }
        }
        let ending = machine.wait();
        tracing::info!("{ending}");
        Ok(match ending {
            Ending::Failed(error) => {
                let exit = Exit::of_code(error.code);
                print_error(&error.into(), json);
                exit
            }
            _ => Exit::Done,
        })
    }

    fn config(self) -> anyhow::Result<RunConfig> {
        let kernel = match (self.guest, self.kernel, self.incoming) {
            (Some(guest), _, _) => BootSource::Builtin(guest),
            (_, Some(kernel), _) => BootSource::Files { kernel, initrd: self.initrd },
            (_, _, Some(incoming)) => BootSource::Incoming(incoming),
            (None, None, None) => {
                return Err(monitor::Error::new(
                    state::Code::InvalidArgument,
                    "there is nothing to run: give --guest, --kernel or --incoming",
                )
                .into());
            }
        };
        let console = self.console.unwrap_or(match self.background {
            true => Console::Off,
            false => Console::Stdio,
        });
        if self.json && console == Console::Stdio {
            return Err(monitor::Error::new(
                state::Code::InvalidArgument,
                "--json answers on stdout, which is the guest's console: give --console or \
                 --detach",
            )
            .into());
        }
        Ok(RunConfig {
            name: self.name,
            uuid: self.uuid,
            boot: kernel,
            cmdline: self.cmdline.unwrap_or_default(),
            memory: self.memory.map(|size| size.0),
            backing: self.hugepages,
            cpus: self.cpus,
            console,
            qmp: self.qmp,
            paused: self.paused,
            exit_after_move: self.exit_after_move,
            overcommit: self.overcommit,
            hold: self.handover_hold.map(|time| time.0),
            keep_waiting: self.wait,
            insecure: self.insecure,
        })
    }
}

#[cfg(test)]
mod tests;
