//! Runs seeds of the simulator: what `cargo xtask sim` starts.
#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;
use whimbrel_simulator::{Case, Mutant, PLOTS, Sweep, explain};

/// Runs the engine on simulated hosts, a seed at a time, until one fails
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run
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
    /// With this wrong on purpose; part of its name is enough
    #[arg(long)]
    mutant: Option<String>,
}

fn main() -> ExitCode {
    let Arguments { seeds, start, jobs, seed, plot, mutant } = Arguments::parse();
    let plot = match plot {
        None => None,
        Some(name) => match PLOTS.iter().find(|plot| plot.name.contains(&name)) {
            Some(plot) => Some(plot),
            None => {
                let names: Vec<&str> = PLOTS.iter().map(|plot| plot.name).collect();
                eprintln!("there is no plot `{name}`; there are:\n{}", names.join("\n"));
                return ExitCode::from(2);
            }
        },
    };
    let mutant = match mutant {
        None => None,
        Some(name) => match Mutant::all().into_iter().find(|m| m.to_string().contains(&name)) {
            Some(mutant) => Some(mutant),
            None => {
                eprintln!("there is no mutant `{name}`, or it needs the feature `mutate`");
                return ExitCode::from(2);
            }
        },
    };
    let case = Case { plot, mutant };
    let failed = match seed {
        Some(seed) => Some(seed),
        None => sweep(Sweep { start, seeds, jobs, case }),
    };
    let Some(seed) = failed else { return ExitCode::SUCCESS };
    let (trace, wrong) = explain(seed, case);
    println!("{trace}\n");
    match wrong {
        None => println!("seed {seed}: nothing is wrong"),
        Some(why) => {
            let plot = plot.map(|plot| format!(" --plot '{}'", plot.name)).unwrap_or_default();
            println!("seed {seed}: {why}\n`cargo xtask sim --seed {seed}{plot}` repeats it");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Runs all of them, and says which one failed.
fn sweep(sweep: Sweep) -> Option<u64> {
    let begun = Instant::now();
    let found = sweep.run(&|seeds| {
        eprintln!("{seeds} seeds, {:.0} s", begun.elapsed().as_secs_f64());
    });
    println!("{}", found.tally.show());
    if found.failed.is_none() {
        let (seeds, time) = (sweep.seeds, begun.elapsed().as_secs_f64());
        println!("{seeds} seeds from {}: nothing is wrong, in {time:.0} s", sweep.start);
    }
    found.failed
}
