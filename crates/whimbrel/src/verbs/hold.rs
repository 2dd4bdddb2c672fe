//! Holding a machine in this process, wherever its guest comes from.

mod detach;
mod progress;

use crate::exit::Exit;
use crate::log;
use crate::output::{print_error, print_json};
use memory::{Backing, userfault};
use monitor::{Console, Ending, Machine, MachineName, QmpSocket, RunConfig, RuntimeDir};
use progress::Display;
use std::io::{IsTerminal, stdin};
use std::os::fd::OwnedFd;

/// What describes a machine from the outside: what its guest knows nothing of.
#[derive(Debug, clap::Args)]
pub struct Outside {
    /// What to call it [default: after its guest, or as it was called]
    #[arg(long)]
    pub name: Option<MachineName>,
    /// What backs the RAM: pages of 4 KiB, transparent huge pages, or reserved ones of 2 MiB or 1 GiB
    /// [default: off, or as it was]
    #[arg(long, value_name = "off|thp|2M|1G")]
    pub hugepages: Option<Backing>,
    /// Where its serial line goes [default: stdio, or off with --detach]
    #[arg(long, value_name = "stdio|pty|file:PATH|unix:PATH|off")]
    pub console: Option<Console>,
    /// A control socket beside the one that goes by name
    #[arg(long, value_name = "unix:PATH[,mode=0600]", value_parser = qmp_socket)]
    pub qmp: Vec<QmpSocket>,
    /// Go to the background once it runs, or waits
    #[arg(long)]
    pub detach: bool,
    /// End when the guest has moved away, instead of staying to be asked about it
    #[arg(long)]
    pub exit_after_move: bool,
    /// Allow more memory than this host has, or has to spare for a guest that comes
    #[arg(long)]
    pub overcommit: bool,
    /// The descriptor of /dev/userfaultfd, opened by somebody who may, that this process was started with:
    /// for --lazy, and for `snapshot --at start`, where this user may not open it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub userfault_fd: Option<i32>,
    /// Answer with a JSON object as soon as it runs, or waits; the guest's console has to be
    /// elsewhere
    #[arg(long)]
    pub json: bool,
    /// Report on stdout to the process that went to the background for us
    #[arg(long, hide = true)]
    background: bool,
}

impl Outside {
    /// Where the console goes.
    ///
    /// # Errors
    /// When it would go where something else does.
    pub fn console(&self) -> Result<Console, monitor::Error> {
        let console = self.console.clone().unwrap_or(match self.background {
            true => Console::Off,
            false => Console::Stdio,
        });
        if self.json && console == Console::Stdio {
            return Err(monitor::Error::new(
                state::Code::InvalidArgument,
                "--json answers on stdout, which is the guest's console: give --console or \
                 --detach",
            ));
        }
        Ok(console)
    }
}

/// How the process of a machine stands to whoever started it.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    detach: bool,
    background: bool,
    json: bool,
    userfault: Option<i32>,
}

impl Manner {
    /// As it was asked for.
    pub fn of(outside: &Outside) -> Self {
        let Outside { detach, background, json, userfault_fd: userfault, .. } = outside;
        Self { detach: *detach, background: *background, json: *json, userfault: *userfault }
    }
}

/// Holds a machine until it ends.
pub fn hold(
    manner: Manner,
    config: impl FnOnce() -> anyhow::Result<RunConfig>,
) -> anyhow::Result<Exit> {
    let Manner { detach, background, json, userfault } = manner;
    if detach {
        return detach::start(json);
    }
    let runtime = RuntimeDir::from_environment()?;
    let config = RunConfig { log: log::said(), ..config()? };
    let at_the_terminal = config.console == Console::Stdio && stdin().is_terminal();
    if at_the_terminal {
        eprintln!("The guest gets the terminal; type Ctrl-A x to end its machine.");
    }
    let handed_over = userfault.map_or(Ok(()), hand_over);
    let machine = match handed_over.and_then(|()| Machine::start(config, &runtime)) {
        Ok(machine) => machine,
        Err(error) if background => {
            detach::report_failure(&error.into());
            return Ok(Exit::Failed);
        }
        Err(error) => return Err(error.into()),
    };
    let mut display = Display::new(machine.name(), background || json);
    let came = machine.wait_for_restore(|progress| display.show(progress));
    drop(display);
    if let Err(ending) = came {
        // What ended it is what it ends with.
        drop(machine.wait());
        return Ok(match ending {
            Ending::Failed(error) if background => {
                detach::report_failure(&error.into());
                Exit::Failed
            }
            ending => exit(ending, json),
        });
    }
    monitor::supervisor::ready();
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
    Ok(exit(ending, json))
}

/// Has userfaultfds be made from this descriptor.
fn hand_over(number: i32) -> Result<(), monitor::Error> {
    userfault::hand_over_inherited(number).map_err(|e| {
        let why = format!("cannot use descriptor {number} of --userfault-fd: {e}");
        monitor::Error::new(state::Code::InvalidArgument, why)
    })
}

/// Holds the machine of another process, which this one replaces.
pub fn succeed(channel: OwnedFd) -> anyhow::Result<Exit> {
    // What this process was told goes before what the one before it was.
    let settle = |config: &mut RunConfig| match (log::said(), &config.log) {
        (Some(said), _) => config.log = Some(said),
        (None, Some(before)) => log::follow(before),
        (None, None) => {}
    };
    let ending = Machine::succeed(channel, settle)?.wait();
    tracing::info!("{ending}");
    Ok(exit(ending, false))
}

fn exit(ending: Ending, json: bool) -> Exit {
    match ending {
        // Whoever asked for it is told by the process that has the machine.
        Ending::NotTaken => Exit::Failed,
        Ending::Failed(error) => {
            let exit = Exit::of_code(error.code);
            print_error(&error.into(), json);
            exit
        }
        _ => Exit::Done,
    }
}

fn qmp_socket(text: &str) -> Result<QmpSocket, String> {
    let rest = text.strip_prefix("unix:").ok_or("it starts with unix:")?;
    let (path, mode) = match rest.rsplit_once(",mode=") {
        None => (rest, 0o600),
        Some((path, digits)) => {
            let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777);
            (path, mode.ok_or("the mode is three octal digits, such as 0600")?)
        }
    };
    if path.is_empty() {
        return Err("the path is missing".into());
    }
    Ok(QmpSocket { path: path.into(), mode })
}
