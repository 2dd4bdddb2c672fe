//! `cargo xtask sim`: the engine on simulated hosts, for as many seeds as one has time for.

use std::ffi::OsString;

use anyhow::Result;

use crate::process::{cargo, run as run_command};

/// What the simulator is told; `--help` is its own.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Sim {
    /// Its arguments: `cargo xtask sim --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs seeds until one fails, and prints that one's trace.
pub fn run(args: &Sim) -> Result<()> {
    let mut command =
        cargo(&["run", "--quiet", "--locked", "--package", "whimbrel-simulator", "--"]);
    run_command(command.args(&args.arguments))
}
