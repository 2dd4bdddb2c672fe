//! `whimbrel update`

use super::migrate::{MaxBlackout, finish, watch};
use super::save::to_file;
use crate::exit::Exit;
use crate::machine::Machine;
use anyhow::Context;
use clap::ValueEnum;
use monitor::{MachineName, RuntimeDir};
use qmp::command::{Command, Migrate, SetParameters, UpdateMode};
use qmp::reply::MigrationStatus;
use state::Code;
use std::path::{Path, PathBuf};

/// Replace the process of a machine while its guest runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whimbrel update web
  whimbrel update web --binary /usr/local/bin/whimbrel-next --max-blackout 50ms
  whimbrel update web --check
  whimbrel update web --mode reboot --state /var/lib/vms/web.state

The new process is started from the binary as it lies on disk now. It builds the whole machine
beside the running one before the guest is stopped, and takes over its memory where it lies, its
console, and its control sockets with everybody who is connected. If anything fails the guest goes
on in the old process.

With --mode reboot the guest waits for the host to start anew: its RAM stays in its memory file (`run
--memory-file`), its state goes into a file, and the machine ends; `whimbrel restore` of that file
continues it.")]
pub struct Update {
    /// Which machine
    name: MachineName,
    /// The program that is to go on [default: where the running one was started from]
    #[arg(long, value_name = "PATH", conflicts_with = "state")]
    binary: Option<PathBuf>,
    /// Whether another process takes the machine over, this one becomes the new program, or none is
    /// there until the host has started anew [default: exec where the process is the first of its PID
    /// namespace or holds a terminal, else transfer]
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    /// With --mode reboot: the file that the state goes into
    #[arg(long, value_name = "FILE", required_if_eq("mode", "reboot"))]
    state: Option<PathBuf>,
    /// With --mode reboot: replace the file if there is one, once the new one is complete
    #[arg(long, requires = "state")]
    force: bool,
    /// The longest that the guest may stand still; an update that cannot keep it is given up
    #[arg(long, value_name = "TIME|unlimited", default_value = "300ms")]
    max_blackout: MaxBlackout,
    /// Only ask whether the new program would take the machine; touches nothing
    #[arg(long)]
    check: bool,
    /// JSON: the progress, one object per line, and in the end the report
    #[arg(long)]
    pub json: bool,
}

/// How the process of a machine is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// A new process takes the machine over, and the old one ends
    Transfer,
    /// The same process becomes the new program, with the same PID
    Exec,
    /// The guest waits in its memory file until the host has started anew
    Reboot,
}

impl Update {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mode = match (self.mode, &self.state) {
            (Some(Mode::Reboot), Some(state)) => return self.reboot(state),
            (_, Some(_)) | (Some(Mode::Reboot), None) => {
                let why =
                    "--state is where the state goes with --mode reboot: give both or neither";
                return Err(monitor::Error::new(Code::InvalidArgument, why).into());
            }
            (None, None) => None,
            (Some(Mode::Transfer), None) => Some(UpdateMode::Transfer),
            (Some(Mode::Exec), None) => Some(UpdateMode::Exec),
        };
        let mut machine = Machine::find(&self.name)?;
        // Nobody is promised anything by a question.
        if !self.check {
            let mut set = SetParameters::default();
            self.max_blackout.set(&mut set);
            machine.run(&Command::MigrateSetParameters(set))?;
        }
        let binary = self.binary.as_deref().map(std::path::absolute).transpose();
        let binary = binary.context("cannot find the new binary")?;
        let update = qmp::command::Update { binary, to: None, mode, check: self.check };
        machine.run(&Command::Update(update))?;
        let info = watch::until_the_end(&mut machine, &self.name, self.json)?;
        finish(&self.name, &info, self.json)
    }

    /// Leaves the guest where it is, for after a reboot.
    fn reboot(&self, state: &Path) -> anyhow::Result<Exit> {
        let mut machine = Machine::find(&self.name)?;
        let mode = Some(qmp::command::Mode::CprReboot);
        let command = Migrate { mode, check: self.check, ..to_file(state, self.force)? };
        machine.run(&Command::Migrate(command))?;
        let info = watch::until_the_end(&mut machine, &self.name, self.json)?;
        if info.status == Some(MigrationStatus::Completed) && !self.check {
            machine.run(&Command::Quit)?;
            RuntimeDir::from_environment()?.wait_gone(&self.name)?;
        }
        finish(&self.name, &info, self.json)
    }
}
