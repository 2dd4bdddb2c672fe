//! `whimbrel bench floor`

use crate::exit::Exit;
use crate::output::{print_json, print_line};
use crate::units::Size;
use bench::floor::{Options, measure};
use indicatif::ProgressBar;
use memory::Backing;
use monitor::Error;
use std::io::{IsTerminal, stderr};

/// The least that a blackout can be here
#[derive(Debug, clap::Args)]
pub struct Floor {
    /// RAM of the guest
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    memory: Size,
    /// What backs it
    #[arg(long, value_name = "off|thp|2M|1G", default_value = "off")]
    hugepages: Backing,
    /// How many processors the guest has
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: u8,
    /// How many of them watch the clock; the others halt [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    watch: Option<u8>,
    /// How many handovers to measure
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// One JSON object per figure and line
    #[arg(long)]
    pub json: bool,
}

impl Floor {
    pub fn run(self) -> anyhow::Result<Exit> {
        let options = Options {
            memory: self.memory.0,
            backing: self.hugepages,
            vcpus: self.cpus.into(),
            watchers: self.watch.unwrap_or(self.cpus).into(),
            runs: usize::try_from(self.runs)?,
        };
        let shown = stderr().is_terminal() && !self.json;
        let bar = if shown { ProgressBar::new(self.runs.into()) } else { ProgressBar::hidden() };
        let rows = measure(&options, |_| bar.inc(1)).map_err(|error| {
            Error::new(error.code(), format!("cannot measure the handover floor: {error}"))
        })?;
        bar.finish_and_clear();
        if self.json {
            rows.iter().try_for_each(print_json)?;
        } else {
            print_line(bench::table(&rows).trim_end());
        }
        Ok(Exit::Done)
    }
}
