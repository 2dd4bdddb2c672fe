//! `whimbrel`: run virtual machines, and move them while they run.
//!
//! This binary parses, prints and shows progress. What commands mean is in the crate `monitor`.
#![forbid(unsafe_code)]

mod cli;
mod exit;
mod log;
mod machine;
mod motion;
mod output;
mod terminal;
mod units;
mod verbs;

use clap::Parser;
use clap::error::ErrorKind;
use exit::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to be done if this cannot even be printed.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
                _ => Exit::Usage,
            }
            .into();
        }
    };
    if let Err(error) = log::start(cli.log.as_deref()) {
        eprintln!("whimbrel: {error:#}");
        return Exit::Usage.into();
    }
    let json = cli.verb.wants_json();
    match cli.verb.run() {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = Exit::of(&error);
            output::print_error(&error, json);
            exit.into()
        }
    }
}
