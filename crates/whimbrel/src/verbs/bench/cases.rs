//! What `whimbrel bench move`, `keep` and `renew` have in common: cases that are run in turn.

use crate::exit::Exit;
use crate::output::{nanos, print_json, print_line, table};
use anyhow::Context;
use bench::campaign::{Campaign, expected, rows};
use bench::cases::{Case, Metric, Suite};
use bench::host::{Host, storage};
use bench::peer::{Peer, Qemu, Whimbrel};
use bench::raw::{Raw, Sample};
use bench::{BenchError, Place, Row, chart};
use clap::ValueEnum;
use monitor::Error;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Which cases to run, and how
#[derive(Debug, clap::Args)]
pub struct Cases {
    /// What to measure; see --list [default: all]
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// How often to run each case; floor and peer no more often than the case says
    /// [default: as often as each case says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: Option<u32>,
    /// Have another VMM do the same in turn: QEMU 10 or later, installed as qemu-system-x86_64
    #[arg(long, value_name = "VMM")]
    against: Option<Against>,
    /// Keep every sample in this file, with a description of this machine, and do not measure again
    /// what it holds already
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Only name the cases, with what they measure and how long they take
    #[arg(long)]
    list: bool,
    /// One JSON object per figure and line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Against {
    /// QEMU
    Qemu,
}

impl Cases {
    /// Runs them, with their files in `place`.
    pub fn run(
        self,
        suite: &Suite,
        place: impl FnOnce() -> anyhow::Result<Files>,
    ) -> anyhow::Result<Exit> {
        let cases = suite.find(&self.cases).map_err(explain)?;
        if self.list {
            list(&cases, self.json)?;
            return Ok(Exit::Done);
        }
        let programs = tempfile::tempdir().context("cannot make a folder for the benchmark")?;
        let own = Whimbrel { program: copy_of_program(programs.path())? };
        let peer = match self.against {
            Some(Against::Qemu) => Some(Qemu::new(programs.path()).map_err(explain)?),
            None => None,
        };
        let peer: Option<&dyn Peer> = peer.as_ref().map(|qemu| qemu as &dyn Peer);
        let files = place()?;
        let host = Host {
            storage: files.storage.clone(),
            peer: peer.map(Peer::version),
            peer_settings: peer.map(Peer::settings),
            ..Host::here()
        };
        let mut raw = match &self.raw {
            Some(path) => Raw::open(path, &host).map_err(explain)?,
            None => Raw::default(),
        };
        if !self.json {
            host.lines().iter().for_each(|line| print_line(line));
        }
        let runs = self.runs.map(usize::try_from).transpose()?;
        if runs.is_none() {
            let sum = cases.iter().map(|case| expected(case, peer.is_some())).sum();
            say(&format!("{} cases, about {}", cases.len(), duration(sum)));
        }
        let campaign = Campaign { own: &own, peer, place: &files.place, runs };
        let mut failures = 0;
        for case in cases {
            let mut count = 0;
            let seen = |sample: &Sample| {
                count += 1;
                failures += usize::from(sample.error.is_some());
                report(case, sample, count);
            };
            campaign.run(case, &mut raw, seen).map_err(explain)?;
            let rows = rows(suite, case, &raw, peer.map(Peer::name));
            self.print(case, &rows)?;
            if !files.place.is_tiny() {
                failures += broken_promises(case, &rows);
            }
        }
        Ok(if failures == 0 { Exit::Done } else { Exit::Failed })
    }

    fn print(&self, case: &'static Case, rows: &[(&'static Metric, Row)]) -> anyhow::Result<()> {
        if self.json {
            return rows.iter().try_for_each(|(_, row)| print_json(row));
        }
        print_line("");
        print_line(&format!("{}: {}", case.name, case.about));
        if rows.is_empty() {
            print_line("  nothing was measured");
        } else {
            print_line(chart(rows).trim_end());
        }
        Ok(())
    }
}

/// Says what did not hold in as many runs as it is to, and how many such things there are.
fn broken_promises(case: &Case, rows: &[(&'static Metric, Row)]) -> usize {
    let broken = rows.iter().filter(|(metric, row)| metric.is_broken_by(row.median));
    broken
        .inspect(|(_, row)| {
            let Row { metric, median, runs, .. } = row;
            eprintln!("{}: {metric}: in {median:.0} % of {runs} runs only", case.name);
        })
        .count()
}

/// Where a benchmark stores its files
#[derive(Debug, clap::Args)]
pub struct Stored {
    /// Where the files go: some 12 GiB, in a folder of their own that is removed in the end. What is
    /// measured is the storage that this is on
    #[arg(long, value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Make everything a sixteenth of its size: shows whether it works, and says nothing of how fast
    #[arg(long)]
    tiny: bool,
}

impl Stored {
    /// A folder there.
    pub fn files(self) -> anyhow::Result<Files> {
        let Self { folder, tiny } = self;
        let shown = folder.display();
        let cannot = || format!("cannot make a folder for the benchmark in {shown}");
        let inside = std::path::absolute(&folder).with_context(cannot)?;
        let inside = tempfile::tempdir_in(inside).with_context(cannot)?;
        let storage = storage(inside.path()).with_context(cannot)?;
        let storage = if tiny { format!("{storage}; a trial, everything tiny") } else { storage };
        let place = Place::new(inside.path().to_owned(), tiny);
        Ok(Files { place, _folder: inside, storage: Some(storage) })
    }
}

/// Where the files of a benchmark are, for as long as it runs.
pub struct Files {
    /// The folder, empty at first.
    pub place: Place,
    /// It is removed in the end.
    pub _folder: TempDir,
    /// What they are stored on, if that matters.
    pub storage: Option<String>,
}

impl Files {
    /// A folder for a benchmark that stores nothing.
    pub fn none(tiny: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for the benchmark")?;
        let place = Place::new(folder.path().to_owned(), tiny);
        let storage = tiny.then(|| "none; a trial, everything tiny".to_owned());
        Ok(Self { place, _folder: folder, storage })
    }
}

/// A file of its own for the processes that are measured: pages that this process has mapped, too,
/// would count only in part as theirs.
fn copy_of_program(place: &Path) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let copy = place.join("whimbrel");
    std::fs::copy(&program, &copy)
        .with_context(|| format!("cannot copy {} to measure it", program.display()))?;
    Ok(copy)
}

fn explain(error: BenchError) -> anyhow::Error {
    Error::new(error.code(), format!("cannot measure: {error}")).into()
}

/// To those who wait, not to those who read the output.
fn say(line: &str) {
    if stderr().is_terminal() {
        eprintln!("{line}");
    }
}

fn report(case: &Case, sample: &Sample, count: usize) {
    let Sample { who, figures, error, .. } = sample;
    if let Some(error) = error {
        eprintln!("{}: {who}, run failed: {error}", case.name);
        return;
    }
    let shown = |metric: &Metric| {
        let figure = figures.get(metric.name)?;
        Some(format!("{} {figure:.2} {}", metric.name, metric.unit))
    };
    let first = case.metrics.iter().find_map(shown).unwrap_or_default();
    say(&format!("{} {count}: {who} {first}", case.name));
}

fn duration(time: Duration) -> String {
    nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn list(cases: &[&Case], json: bool) -> anyhow::Result<()> {
    if json {
        return cases.iter().try_for_each(|case| {
            let metrics: Vec<_> = case.metrics.iter().map(|metric| metric.name).collect();
            print_json(&serde_json::json!({
                "case": case.name,
                "about": case.about,
                "runs": case.runs.own,
                "metrics": metrics,
                "floor": case.runs.floor > 0,
                "seconds": expected(case, true).as_secs(),
            }))
        });
    }
    for case in cases {
        print_line(&format!("{}: {}", case.name, case.about));
        let metrics: Vec<_> = case.metrics.iter().map(|metric| metric.name).collect();
        let rows = [
            vec!["  measures".into(), metrics.join(", ")],
            vec![
                "  runs".into(),
                format!("{} by Whimbrel, {} by the other", case.runs.own, case.runs.peer),
            ],
            vec!["  takes".into(), format!("{} with both", duration(expected(case, true)))],
        ];
        table(&rows).iter().for_each(|line| print_line(line));
    }
    Ok(())
}
