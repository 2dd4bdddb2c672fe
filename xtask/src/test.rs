//! `cargo xtask test`: everything that has to hold before a change goes in.

mod absence;
pub mod qmp_client;
mod step;
mod suite;

use std::process::ExitCode;

use anyhow::Result;

use crate::process::{self, run as run_command};
use crate::{debian, fuzz, lab};
use step::{Log, Tally};

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 20;

/// What is to be tested.
#[derive(clap::Args)]
pub struct Test {
    /// Only the steps whose name contains one of these
    #[arg(value_name = "STEP")]
    only: Vec<String>,
}

/// Runs all steps, whatever becomes of the earlier ones, and sums up.
pub fn run(args: &Test) -> ExitCode {
    let mut log = Log::new(args.only.clone());
    log.step("packages", install);
    log.step("format", || {
        cargo(&["fmt", "--all", "--check"])?;
        cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])?;
        Ok(Tally::passed(2))
    });
    log.step("lint", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
    });
    log.step("tests", suite::run);
    log.step("mutations", suite::run_mutations);
    log.step("doc tests", suite::run_doc_tests);
    log.step("test hook absent", absence::run);
    log.step("qmp client", qmp_client::run);
    log.step("fuzz", || Ok(Tally::passed(fuzz::run(&fuzz::Fuzz::all(FUZZ_SECONDS))?)));
    log.step("lab", || {
        if !debian::is_here() {
            let why = "the lab is built from Debian packages, and there is no apt here";
            return Ok(Tally::impossible(why));
        }
        let played = lab::run(&lab::Lab::plain())?;
        Ok(Tally { impossible: played.left_out, ..Tally::passed(played.scenarios) })
    });
    // Nothing is said after the last line of the summary.
    if log.summary() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the other steps need from the system.
fn install() -> Result<Tally> {
    if !debian::is_here() {
        let why = "there is no apt here; if a step misses a program, install it by hand";
        return Ok(Tally::impossible(why));
    }
    // A C++ compiler, for libFuzzer.
    debian::install(&["python3-venv", "g++", "strace"], &[])?;
    qmp_client::install()?;
    lab::install()?;
    Ok(Tally::passed(1))
}

/// A step that is one command of Cargo's.
fn cargo(arguments: &[&str]) -> Result<Tally> {
    run_command(&mut process::cargo(arguments))?;
    Ok(Tally::passed(1))
}
