//! `whimbrel save`

use super::migrate::{finish, watch};
use crate::exit::Exit;
use crate::machine::Machine;
use crate::units::Rate;
use monitor::{MachineName, RuntimeDir};
use qmp::command::{Command, Migrate, Mode, SetParameters};
use qmp::reply::MigrationStatus;
use std::path::{Path, PathBuf};

/// Save a guest to a file, to be continued there: it never runs here again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whimbrel save a /var/lib/vms/a.snap
  whimbrel restore /var/lib/vms/a.snap --name a

The guest is stopped first. When all of it is safely in the file the machine ends; if that fails or
is cancelled (Ctrl-C), the guest goes on here as before.")]
pub struct Save {
    /// Which machine
    name: MachineName,
    /// The file
    file: PathBuf,
    /// How it is written
    #[command(flatten)]
    writing: Writing,
    /// Keep the machine, for inspection; its guest still never runs again
    #[arg(long)]
    keep: bool,
    /// Let `resume` cancel the save, instead of being refused while it goes on
    #[arg(long)]
    cont_cancels: bool,
    /// JSON: the progress, one object per line, and in the end the report
    #[arg(long)]
    pub json: bool,
}

/// How a file is written.
#[derive(Debug, clap::Args)]
pub struct Writing {
    /// Replace the file if there is one, once the new one is complete
    #[arg(long)]
    force: bool,
    /// Write through the page cache, not past it
    #[arg(long)]
    buffered: bool,
    /// How many threads write [default: as many as serve]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    writers: Option<u8>,
    /// The most bytes per second that are written, as 100M or 10Gbit [default: unlimited]
    #[arg(long, value_name = "RATE")]
    max_bandwidth: Option<Rate>,
}

impl Writing {
    /// What is set for it; what is left out is at its default.
    pub fn parameters(&self) -> SetParameters {
        let mut set = SetParameters::default();
        set.mode = Some(Mode::Normal);
        set.max_bandwidth = Some(self.max_bandwidth.map_or(0, |rate| rate.0));
        set.multifd_channels = Some(self.writers.unwrap_or(0));
        set.avail_switchover_bandwidth = Some(0);
        set.direct_io = Some(!self.buffered);
        set
    }

    /// The command that writes there.
    ///
    /// # Errors
    /// When the path cannot be said over QMP.
    pub fn command(&self, file: &Path) -> anyhow::Result<Migrate> {
        to_file(file, self.force)
    }
}

/// The command that writes to a file, and replaces one only if it is to (`force`).
///
/// # Errors
/// When the path cannot be said over QMP.
pub fn to_file(file: &Path, force: bool) -> anyhow::Result<Migrate> {
    // The machine's process has a working folder of its own.
    let path = std::path::absolute(file)?;
    let path = path
        .to_str()
        .ok_or_else(|| anyhow::anyhow!("cannot write {}: its name is no UTF-8", path.display()))?;
    Ok(Migrate { uri: Some(format!("file:{path}")), force, ..Migrate::default() })
}

impl Save {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut machine = Machine::find(&self.name)?;
        machine.run(&Command::MigrateSetParameters(self.writing.parameters()))?;
        machine.run(&Command::Migrate(self.command()?))?;
        let info = watch::until_the_end(&mut machine, &self.name, self.json)?;
        if info.status == Some(MigrationStatus::Completed) && !self.keep {
            machine.run(&Command::Quit)?;
            RuntimeDir::from_environment()?.wait_gone(&self.name)?;
        }
        finish(&self.name, &info, self.json)
    }

    fn command(&self) -> anyhow::Result<Migrate> {
        let command = self.writing.command(&self.file)?;
        Ok(Migrate { frozen: true, cont_cancels: self.cont_cancels, ..command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    fn parse(line: &str) -> Result<Save, String> {
        let words = std::iter::once("whimbrel").chain(line.split(' '));
        match Cli::try_parse_from(words).map_err(|e| e.to_string())?.verb {
            Verb::Save(save) => Ok(save),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_save_promises_that_the_guest_does_not_run_again() {
        let save = parse("save a /x/y").unwrap();
        let command = save.command().unwrap();
        assert_eq!(command.uri.as_deref(), Some("file:/x/y"));
        assert!(command.frozen && !command.snapshot && !command.force && !command.cont_cancels);
        let set = save.writing.parameters();
        assert_eq!((set.direct_io, set.multifd_channels), (Some(true), Some(0)));
    }

    #[test]
    fn every_flag_reaches_the_machine() {
        let save = parse(
            "save a f --force --buffered --writers 4 --max-bandwidth 1M --cont-cancels --keep",
        )
        .unwrap();
        let command = save.command().unwrap();
        assert!(command.force && command.cont_cancels && save.keep);
        assert!(command.uri.unwrap().starts_with("file:/"), "it is made absolute");
        let set = save.writing.parameters();
        assert_eq!((set.direct_io, set.multifd_channels), (Some(false), Some(4)));
        assert_eq!(set.max_bandwidth, Some(1 << 20));
    }
}
