//! Benchmarks beside another VMM, which is installed first.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::debian;
use crate::places::workspace;
use crate::process::{cargo, run};

/// What to measure
#[derive(Args)]
pub struct Bench {
    /// The cases (default: all); `whimbrel bench move --list` names those of a suite
    cases: Vec<String>,
    /// Moves between processes, files (saves, snapshots and restores), or updates
    #[arg(long, value_name = "SUITE", default_value = "move")]
    suite: Suite,
    /// Which VMM to measure in turn with Whimbrel
    #[arg(long, value_name = "VMM")]
    against: Option<Against>,
    /// How often to run each case (default: as often as each says)
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
    /// Where the raw samples go; what is there is not measured again
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// One JSON object per figure and line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// `whimbrel bench move`
    Move,
    /// `whimbrel bench keep`
    Keep,
    /// `whimbrel bench renew`
    Renew,
}

#[derive(Clone, Copy, ValueEnum)]
enum Against {
    /// QEMU 10 or later
    Qemu,
}

/// Installs the other VMM, builds Whimbrel as people run it, and measures.
pub fn run_cases(bench: &Bench) -> Result<()> {
    let against = bench.against.map(|Against::Qemu| "qemu");
    if against.is_some() {
        debian::install(&[], &["qemu-system-x86"])?;
    }
    let suite = match bench.suite {
        Suite::Move => "move",
        Suite::Keep => "keep",
        Suite::Renew => "renew",
    };
    if matches!(bench.suite, Suite::Keep) {
        // What storage can do by itself.
        debian::install(&["fio"], &[])?;
    }
    let out = workspace().join(&bench.out);
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    run(&mut cargo(&["build", "--release", "--locked", "--package", "whimbrel"]))?;
    let mut command = cargo(&["run", "--release", "--locked", "--quiet", "--package", "whimbrel"]);
    command.args(["--", "bench", suite]).args(&bench.cases);
    if matches!(bench.suite, Suite::Keep | Suite::Renew) {
        command.arg("--folder").arg(&out);
    }
    command.args(against.map(|vmm| format!("--against={vmm}")));
    command.args(bench.runs.map(|runs| format!("--runs={runs}")));
    command.args(bench.json.then_some("--json"));
    run(command.arg("--raw").arg(out.join(format!("{suite}.jsonl"))))
}
