//! Tasks that are run more than twice: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod again;
mod bench;
mod cpio;
mod debian;
mod fuzz;
mod lab;
mod places;
mod process;
mod sim;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks that are run more than twice
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run everything that has to hold before a change goes in
    Test(test::Test),
    /// Play everything that can go wrong in a move, again and again
    Matrix(again::Matrix),
    /// Move a guest, and fail to move it, for long
    Soak(again::Soak),
    /// Boot stock Linux guests on a complete KVM, in an emulated host
    Lab(lab::Lab),
    /// Run the engine on simulated hosts, for as many seeds as there is time for
    Sim(sim::Sim),
    /// Measure moves, beside another VMM that does the same in turn
    Bench(bench::Bench),
    /// Give every door hostile input
    Fuzz(fuzz::Fuzz),
}

fn main() -> ExitCode {
    let outcome = match Xtask::parse().task {
        Task::Test(args) => Ok(test::run(&args)),
        Task::Matrix(args) => args.run().map(|()| ExitCode::SUCCESS),
        Task::Soak(args) => args.run().map(|()| ExitCode::SUCCESS),
        Task::Bench(args) => bench::run_cases(&args).map(|()| ExitCode::SUCCESS),
        Task::Lab(args) => lab::run(&args).map(|played| {
            if let Some(why) = played.left_out {
                println!("!!! NOT ALL WAS PLAYED: {why}");
            }
            ExitCode::SUCCESS
        }),
        Task::Sim(args) => sim::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Fuzz(args) => fuzz::run(&args).map(|_| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
