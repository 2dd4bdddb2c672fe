//! `cargo xtask sim`: the engine on simulated hosts, for as many seeds as one has time for.

use anyhow::Result;

use crate::process::{cargo, run as run_command};

/// Which seeds.
#[derive(clap::Args)]
pub struct Sim {
    /// How many seeds to run; 10,000 take a minute on two processors
    #[arg(long, default_value_t = 10_000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    start: u64,
    /// On so many threads; 0 is one for each processor
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    jobs: usize,
    /// Print the trace of this seed alone
    #[arg(long)]
    seed: Option<u64>,
    /// With this plot in its first motion; part of its name is enough
    #[arg(long)]
    plot: Option<String>,
}

/// Runs them until one fails, and prints that one's trace.
pub fn run(args: &Sim) -> Result<()> {
    let mut command =
        cargo(&["run", "--quiet", "--locked", "--package", "whimbrel-simulator", "--"]);
    match args.seed {
        Some(seed) => command.arg("--seed").arg(seed.to_string()),
        None => {
            let Sim { seeds, start, jobs, .. } = args;
            command.args([
                format!("--seeds={seeds}"),
                format!("--start={start}"),
                format!("--jobs={jobs}"),
            ])
        }
    };
    if let Some(plot) = &args.plot {
        command.arg("--plot").arg(plot);
    }
    run_command(&mut command)
}
