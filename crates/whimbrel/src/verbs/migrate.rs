//! `whimbrel migrate`

pub mod watch;

use crate::exit::Exit;
use crate::machine::Machine;
use crate::motion::motion_lines;
use crate::output::{print_json, print_line};
use crate::terminal::Style;
use crate::units::{Rate, Time, stall};
use clap::ValueEnum;
use links::Address;
use monitor::MachineName;
use qmp::command::{Command, Mode, SetParameters, TimeoutAction};
use qmp::reply::MigrationInfo;
use std::io::stdout;
use std::str::FromStr;
use std::time::Duration;

/// Move a running guest to a machine that waits for it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whimbrel run --name b --incoming tcp:127.0.0.1:4444 --detach
  whimbrel migrate a tcp:127.0.0.1:4444 --max-blackout 50ms

The flags say everything but --stall-limit: what is left out is at its default, whatever was set over
QMP before.
Ctrl-C cancels the move; the guest goes on here.")]
pub struct Migrate {
    /// Which machine
    name: MachineName,
    /// Where the destination waits: tcp:HOST:PORT, unix:PATH or fd:NAME
    uri: Address,
    /// The longest that the guest may stand still; a move that cannot keep it is given up
    #[arg(long, value_name = "TIME|unlimited", default_value = "300ms")]
    max_blackout: MaxBlackout,
    /// How many connections carry its memory [default: as many as serve]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    connections: Option<u8>,
    /// The most bytes per second that are sent, as 100M or 10Gbit [default: unlimited]
    #[arg(long, value_name = "RATE")]
    max_bandwidth: Option<Rate>,
    /// How long to go on when the guest writes faster than can be sent [default: until cancelled]
    #[arg(long, value_name = "TIME")]
    timeout: Option<Time>,
    /// And then?
    #[arg(long, value_name = "ACTION", requires = "timeout")]
    timeout_action: Option<Action>,
    /// How long the destination may be silent, or take nothing [default: as the machine was told, 5s
    /// unless it was]
    #[arg(long, value_name = "TIME", value_parser = stall)]
    stall_limit: Option<Duration>,
    /// Stop the guest first; it will not run here again unless the move fails
    #[arg(long)]
    frozen: bool,
    /// Only ask whether the destination could take it; touches nothing
    #[arg(long, conflicts_with_all = ["frozen", "timeout"])]
    check: bool,
    /// Allow addresses beyond this host, although nothing is encrypted
    #[arg(long)]
    insecure: bool,
    /// JSON: the progress, one object per line, and in the end the report
    #[arg(long)]
    pub json: bool,
}

/// The longest that a guest may stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxBlackout {
    Limit(Duration),
    Unlimited,
}

impl FromStr for MaxBlackout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let limit = text.parse::<Time>().map_err(|error| format!("{error}, or unlimited"))?.0;
        // What QMP can say.
        if limit < Duration::from_millis(1) || limit.subsec_nanos() % 1_000_000 != 0 {
            return Err("it is in whole milliseconds, at least one".into());
        }
        Ok(Self::Limit(limit))
    }
}

impl MaxBlackout {
    /// Says so among the parameters.
    pub fn set(self, set: &mut SetParameters) {
        match self {
            Self::Limit(limit) => set.downtime_limit = Some(millis(limit)),
            Self::Unlimited => set.downtime_unlimited = Some(true),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// Give up; the guest goes on here
    Cancel,
    /// Switch over, whatever the blackout
    Switch,
}

impl Migrate {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut machine = Machine::find(&self.name)?;
        machine.run(&Command::MigrateSetParameters(self.parameters()))?;
        machine.run(&Command::Migrate(self.command()))?;
        let info = watch::until_the_end(&mut machine, &self.name, self.json)?;
        finish(&self.name, &info, self.json)
    }

    fn parameters(&self) -> SetParameters {
        let mut set = SetParameters::default();
        set.mode = Some(Mode::Normal);
        set.max_bandwidth = Some(self.max_bandwidth.map_or(0, |rate| rate.0));
        set.multifd_channels = Some(self.connections.unwrap_or(0));
        set.avail_switchover_bandwidth = Some(0);
        set.stall_limit = self.stall_limit.map(millis);
        self.max_blackout.set(&mut set);
        set
    }

    fn command(&self) -> qmp::command::Migrate {
        let action = self.timeout_action.map(|action| match action {
            Action::Cancel => TimeoutAction::Cancel,
            Action::Switch => TimeoutAction::Switch,
        });
        qmp::command::Migrate {
            uri: Some(self.uri.to_string()),
            frozen: self.frozen,
            check: self.check,
            timeout: self.timeout.map(|time| millis(time.0).max(1)),
            timeout_action: action,
            insecure: self.insecure,
            ..qmp::command::Migrate::default()
        }
    }
}

/// Tells how a motion ended.
pub fn finish(name: &MachineName, info: &MigrationInfo, json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(&info.report)?;
    } else {
        let style = Style::of(&stdout());
        for line in motion_lines(name, info, &style) {
            print_line(&line.whole(&style));
        }
    }
    Ok(watch::exit(info))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    fn parse(line: &str) -> Result<Migrate, String> {
        let words = std::iter::once("whimbrel").chain(line.split(' '));
        match Cli::try_parse_from(words).map_err(|e| e.to_string())?.verb {
            Verb::Migrate(migrate) => Ok(migrate),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_left_out_is_at_its_default_and_said_so() {
        let set = parse("migrate a tcp:127.0.0.1:1").unwrap().parameters();
        assert_eq!(set.downtime_limit, Some(300));
        assert_eq!(set.downtime_unlimited, None);
        assert_eq!(set.max_bandwidth, Some(0));
        assert_eq!(set.multifd_channels, Some(0));
        assert_eq!(set.stall_limit, None, "it stays as it was set");
    }

    #[test]
    fn every_flag_reaches_the_command() {
        let migrate = parse(
            "migrate a tcp:[::1]:1 --max-blackout unlimited --connections 8 --max-bandwidth 8Mbit \
             --timeout 90s --timeout-action switch --stall-limit 20s --frozen --insecure --json",
        )
        .unwrap();
        assert!(migrate.json);
        let set = migrate.parameters();
        assert_eq!(set.downtime_unlimited, Some(true));
        assert_eq!(set.downtime_limit, None);
        assert_eq!(set.max_bandwidth, Some(1_000_000));
        assert_eq!(set.multifd_channels, Some(8));
        assert_eq!(set.stall_limit, Some(20_000));
        let command = migrate.command();
        assert_eq!(command.uri.as_deref(), Some("tcp:[::1]:1"));
        assert_eq!(command.timeout, Some(90_000));
        assert_eq!(command.timeout_action, Some(TimeoutAction::Switch));
        assert!(command.frozen && command.insecure && !command.check);
        assert!(parse("migrate a unix:/x --check").unwrap().command().check);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (line, reason) in [
            ("migrate a", "<URI>"),
            ("migrate a nowhere", "must start with"),
            ("migrate ../a unix:/x", "no name for a machine"),
            ("migrate a unix:/x --max-blackout 0ms", "at least one"),
            ("migrate a unix:/x --max-blackout 10us", "whole milliseconds"),
            ("migrate a unix:/x --max-blackout soon", "or unlimited"),
            ("migrate a unix:/x --connections 0", "1..=64"),
            ("migrate a unix:/x --max-bandwidth quick", "10Gbit"),
            ("migrate a unix:/x --timeout 10", "no time"),
            ("migrate a unix:/x --stall-limit 1ms", "10 ms"),
            ("migrate a unix:/x --timeout-action switch", "--timeout <TIME>"),
            ("migrate a unix:/x --check --frozen", "cannot be used with"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
