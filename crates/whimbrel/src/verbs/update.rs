//! `whimbrel update`

use super::migrate::{MaxBlackout, finish, watch};
use crate::exit::Exit;
use crate::machine::Machine;
use anyhow::Context;
use clap::ValueEnum;
use monitor::MachineName;
use qmp::command::{Command, SetParameters, UpdateMode};
use std::path::PathBuf;

/// Replace the process of a machine while its guest runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whimbrel update web
  whimbrel update web --binary /usr/local/bin/whimbrel-next --max-blackout 50ms
  whimbrel update web --check

The new process is started from the binary as it lies on disk now. It builds the whole machine
beside the running one before the guest is stopped, and takes over its memory where it lies, its
console, and its control sockets with everybody who is connected. If anything fails the guest goes
on in the old process.")]
pub struct Update {
    /// Which machine
    name: MachineName,
    /// The program that is to go on [default: where the running one was started from]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Whether another process takes the machine over, or this one becomes the new program [default: exec
    /// where the process is the first of its PID namespace or holds a terminal, else transfer]
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
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
}

impl From<Mode> for UpdateMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Transfer => Self::Transfer,
            Mode::Exec => Self::Exec,
        }
    }
}

impl Update {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut machine = Machine::find(&self.name)?;
        let mut set = SetParameters::default();
        self.max_blackout.set(&mut set);
        machine.run(&Command::MigrateSetParameters(set))?;
        let binary = self.binary.as_deref().map(std::path::absolute).transpose();
        let binary = binary.context("cannot find the new binary")?;
        let update = qmp::command::Update {
            binary,
            to: None,
            mode: self.mode.map(Into::into),
            check: self.check,
        };
        machine.run(&Command::Update(update))?;
        let info = watch::until_the_end(&mut machine, &self.name, self.json)?;
        finish(&self.name, &info, self.json)
    }
}
