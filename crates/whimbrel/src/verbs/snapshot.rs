//! `whimbrel snapshot`

use super::migrate::{MaxBlackout, finish, watch};
use super::save::Writing;
use crate::exit::Exit;
use crate::machine::Machine;
use crate::units::Time;
use monitor::MachineName;
use qmp::command::{Command, Migrate, SetParameters, TimeoutAction};
use std::path::PathBuf;

/// Write a copy of a running guest to a file; the guest goes on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whimbrel snapshot a /var/lib/vms/a-monday.snap
  whimbrel snapshot a /var/lib/vms/a-before-update.snap --at start
  whimbrel restore /var/lib/vms/a-monday.snap --name a-again --clone

The copy is of the moment when it ends: RAM is written while the guest runs, what it writes meanwhile
again, and the guest stands still only for the last of it. With --at start it is of the moment when it
begins: RAM is write-protected, and copied before the guest overwrites it. Ctrl-C cancels, and leaves no
file.")]
pub struct Snapshot {
    /// Which machine
    name: MachineName,
    /// The file
    file: PathBuf,
    /// How it is written
    #[command(flatten)]
    writing: Writing,
    /// The moment that the copy is of
    #[arg(long, value_enum, default_value_t = At::End)]
    at: At,
    /// The longest that the guest may stand still; a snapshot that cannot keep it is given up
    #[arg(long, value_name = "TIME|unlimited", default_value = "300ms")]
    max_blackout: MaxBlackout,
    /// How long to go on when the guest writes faster than the disk [default: until cancelled];
    /// then the snapshot is given up
    #[arg(long, value_name = "TIME")]
    timeout: Option<Time>,
    /// JSON: the progress, one object per line, and in the end the report
    #[arg(long)]
    pub json: bool,
}

/// The moment that a copy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum At {
    /// When it begins; a guest that writes faster than the disk is no matter
    Start,
    /// When it ends
    End,
}

impl Snapshot {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut machine = Machine::find(&self.name)?;
        machine.run(&Command::MigrateSetParameters(self.parameters()))?;
        machine.run(&Command::Migrate(self.command()?))?;
        let info = watch::until_the_end(&mut machine, &self.name, self.json)?;
        finish(&self.name, &info, self.json)
    }

    fn parameters(&self) -> SetParameters {
        let mut set = self.writing.parameters();
        self.max_blackout.set(&mut set);
        set
    }

    fn command(&self) -> anyhow::Result<Migrate> {
        let command = self.writing.command(&self.file)?;
        let millis = |time: Time| u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX).max(1);
        let timeout = self.timeout.map(millis);
        let timeout_action = timeout.map(|_| TimeoutAction::Cancel);
        let at = Some(match self.at {
            At::Start => qmp::command::At::Start,
            At::End => qmp::command::At::End,
        });
        Ok(Migrate { snapshot: true, at, timeout, timeout_action, ..command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    fn parse(line: &str) -> Snapshot {
        let words = std::iter::once("whimbrel").chain(line.split(' '));
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Snapshot(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_snapshot_lets_the_guest_go_on_and_keeps_its_promise() {
        let snapshot = parse("snapshot a /x --max-blackout 50ms --timeout 9s");
        let command = snapshot.command().unwrap();
        assert!(command.snapshot && !command.frozen);
        assert_eq!(command.at, Some(qmp::command::At::End));
        assert_eq!(command.timeout, Some(9000));
        assert_eq!(command.timeout_action, Some(TimeoutAction::Cancel));
        assert_eq!(snapshot.parameters().downtime_limit, Some(50));
        let snapshot = parse("snapshot a /x --max-blackout unlimited");
        assert_eq!(snapshot.parameters().downtime_unlimited, Some(true));
        assert_eq!(snapshot.command().unwrap().timeout, None);
        let at = parse("snapshot a /x --at start").command().unwrap().at;
        assert_eq!(at, Some(qmp::command::At::Start));
    }
}
