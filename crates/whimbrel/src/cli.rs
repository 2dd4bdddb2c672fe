//! The command line.

use crate::exit::Exit;
use crate::verbs::{
    bench, demo, guest, handover, inspect, kill, list, migrate, pause, qmp, restore, resume, run,
    save, shutdown, snapshot, status, update,
};
use clap::{Parser, Subcommand};

/// Run virtual machines, and move them while they run.
#[derive(Debug, Parser)]
#[command(name = "whimbrel", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to log to stderr: off, error, warn, info, debug, trace, or a filter such as
    /// `whimbrel_motion=debug`. WHIMBREL_LOG says the same.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const AFTER_HELP: &str = "\
Start with:
  whimbrel demo
  whimbrel run --name a --guest clock --console stdio

Exit status: 0 done, 1 failed (the guest is safe where it was), 2 wrong usage, 3 refused before
anything was touched, 4 cancelled.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Run(run::Run),
    Restore(restore::Restore),
    List(list::List),
    Status(status::Status),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Shutdown(shutdown::Shutdown),
    Kill(kill::Kill),
    Migrate(migrate::Migrate),
    Save(save::Save),
    Snapshot(snapshot::Snapshot),
    Update(update::Update),
    Handover(handover::Handover),
    Inspect(inspect::Inspect),
    Guest(guest::Guest),
    Demo(demo::Demo),
    Bench(bench::Bench),
    Qmp(qmp::Qmp),
}

impl Verb {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Run(verb) => verb.run(),
            Self::Restore(verb) => verb.run(),
            Self::List(verb) => verb.run(),
            Self::Status(verb) => verb.run(),
            Self::Pause(verb) => verb.run(),
            Self::Resume(verb) => verb.run(),
            Self::Shutdown(verb) => verb.run(),
            Self::Kill(verb) => verb.run(),
            Self::Migrate(verb) => verb.run(),
            Self::Save(verb) => verb.run(),
            Self::Snapshot(verb) => verb.run(),
            Self::Update(verb) => verb.run(),
            Self::Handover(verb) => verb.run(),
            Self::Inspect(verb) => verb.run(),
            Self::Guest(verb) => verb.run(),
            Self::Demo(verb) => verb.run(),
            Self::Bench(verb) => verb.run(),
            Self::Qmp(verb) => verb.run(),
        }
    }

    /// Whether its errors, too, are to be JSON.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Run(verb) => verb.wants_json(),
            Self::Restore(verb) => verb.wants_json(),
            Self::List(verb) => verb.json,
            Self::Status(verb) => verb.json,
            Self::Pause(verb) => verb.json,
            Self::Resume(verb) => verb.json,
            Self::Shutdown(verb) => verb.json,
            Self::Kill(verb) => verb.json,
            Self::Migrate(verb) => verb.json,
            Self::Save(verb) => verb.json,
            Self::Snapshot(verb) => verb.json,
            Self::Update(verb) => verb.json,
            Self::Handover(verb) => verb.wants_json(),
            Self::Inspect(verb) => verb.json,
            Self::Guest(verb) => verb.wants_json(),
            Self::Demo(verb) => verb.json,
            Self::Bench(verb) => verb.wants_json(),
            // Its output is the machine's own, which is JSON anyway.
            Self::Qmp(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_a_help_with_an_example() {
        for verb in Cli::command().get_subcommands().filter(|v| v.get_name() != "help") {
            let after = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("whimbrel {}", verb.get_name());
            assert!(after.contains(&example), "{} has no example", verb.get_name());
        }
    }

    #[test]
    fn every_verb_and_every_flag_stands_in_the_manual() {
        let manual = include_str!("../../../docs/cli.md");
        let known = |verb: &clap::Command, manual: &str| {
            for flag in verb.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let Some(long) = flag.get_long().filter(|long| *long != "help") else { continue };
                assert!(manual.contains(&format!("--{long}")), "{} --{long}", verb.get_name());
            }
        };
        for verb in Cli::command().get_subcommands().filter(|v| v.get_name() != "help") {
            let name = verb.get_name();
            assert!(
                manual.lines().any(|line| line.starts_with("## ") && line.contains(name)),
                "{name} has no section"
            );
            known(verb, manual);
            verb.get_subcommands().for_each(|action| known(action, manual));
        }
    }
}
