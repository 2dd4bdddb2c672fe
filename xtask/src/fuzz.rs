//! `cargo xtask fuzz`: hostile input for every door, on the stable toolchain.
//!
//! The targets lie in `/fuzz`, in the layout of cargo-fuzz; what that tool would do is done here,
//! because LLVM's coverage pass needs no nightly compiler and no sanitizer: libFuzzer is built with
//! them, and the limit of memory is their own allocator's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

use crate::places;
use crate::process::{cargo, rendered, run as run_command};

/// What the compiler is told, so that libFuzzer sees which branches an input takes and with what it
/// was compared (clang's `SanitizerCoverage`).
const FLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Named, so that build scripts and macros are spared the flags.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Targets that run at the same time.
const AT_ONCE: usize = 2;
/// An input that takes longer than this, in seconds, is a finding.
const SLOWEST: u32 = 10;
/// A target that needs more memory than this in all, in MiB, has a leak.
const MOST_MEMORY: u32 = 1024;

/// What is to be fuzzed.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask fuzz --target source --seconds 3600")]
pub struct Fuzz {
    /// Only this target; may be given several times
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// For how long each target runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Begin with the committed seeds and this random number, so that a run can be repeated
    #[arg(long, value_name = "N", conflicts_with = "replay")]
    seed: Option<u32>,
    /// Run one target on this input, and on nothing else
    #[arg(long, value_name = "FILE", requires = "target")]
    replay: Option<PathBuf>,
}

impl Fuzz {
    /// Every target, for so long, and the same each time: what CI says of a commit, it says again.
    pub fn all(seconds: u32) -> Self {
        Self { target: Vec::new(), seconds, seed: Some(1), replay: None }
    }
}

/// Builds the targets and runs them, whatever becomes of the others. How many ran.
pub fn run(args: &Fuzz) -> Result<u32> {
    let known = targets()?;
    let unknown = args.target.iter().find(|name| !known.contains(name));
    if let Some(name) = unknown {
        bail!("there is no target `{name}`; there are {}", known.join(", "));
    }
    let wanted = if args.target.is_empty() { known } else { args.target.clone() };
    build(&wanted)?;
    if let Some(input) = &args.replay {
        let input = fs::canonicalize(input)
            .with_context(|| format!("cannot find the input {}", input.display()))?;
        for name in &wanted {
            run_command(Command::new(program(name)).arg(&input))?;
        }
        return Ok(1);
    }
    let failed = Mutex::new(Vec::new());
    let waiting = Mutex::new(wanted.iter());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(wanted.len()) {
            scope.spawn(|| {
                while let Some(name) = next(&waiting) {
                    match one(name, args) {
                        Ok(summary) => println!("fuzz {name}: {summary}"),
                        Err(error) => {
                            println!("fuzz {name}: {error:#}");
                            lock(&failed).push(name.as_str());
                        }
                    }
                }
            });
        }
    });
    let failed = lock(&failed);
    ensure!(failed.is_empty(), "found something in {}", failed.join(", "));
    Ok(u32::try_from(wanted.len()).unwrap_or(u32::MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn next<'a>(waiting: &Mutex<std::slice::Iter<'a, String>>) -> Option<&'a String> {
    lock(waiting).next()
}

fn folder() -> PathBuf {
    places::workspace().join("fuzz")
}

fn output() -> PathBuf {
    places::target().join("fuzz")
}

fn program(target: &str) -> PathBuf {
    output().join(TRIPLE).join("release").join(target)
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let folder = folder().join("fuzz_targets");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

fn build(targets: &[String]) -> Result<()> {
    // Not `--locked`: the targets' own lock file would have to follow each change of a dependency of
    // the crates that they test. What is in it stays as it is.
    let mut command = cargo(&["build", "--release", "--target", TRIPLE]);
    command
        .current_dir(folder())
        .arg("--target-dir")
        .arg(output())
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    for target in targets {
        command.args(["--bin", target]);
    }
    run_command(&mut command)
}

/// Runs one target; what it did, in a line.
fn one(target: &str, args: &Fuzz) -> Result<String> {
    let seeds = folder().join("corpus").join(target);
    let found = match args.seed {
        None => output().join("corpus").join(target),
        Some(_) => emptied(output().join("repeated").join(target))?,
    };
    let artifacts = output().join("artifacts").join(target);
    for folder in [&found, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // Where the program lies in memory is part of how it tells branches apart.
    let mut command = Command::new("setarch");
    command.arg("--addr-no-randomize").arg(program(target));
    if let Some(seed) = args.seed {
        command.arg(format!("-seed={seed}"));
    }
    // What is new goes into the first folder; the second is only read.
    command
        .arg(&found)
        .arg(&seeds)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={}", args.seconds))
        .arg(format!("-timeout={SLOWEST}"))
        .arg(format!("-rss_limit_mb={MOST_MEMORY}"))
        .args(["-print_final_stats=1", "-verbosity=1", "-use_value_profile=1"])
        .stdin(Stdio::null());
    let output =
        command.output().with_context(|| format!("cannot start `{}`", rendered(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(summary(&said));
    }
    bail!("{}\n{}", output.status, finding(target, &said));
}

/// This folder without anything in it.
fn emptied(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    Ok(folder)
}

/// Executions, rate and coverage out of what libFuzzer says.
fn summary(said: &str) -> String {
    let number = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    let covered = said.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once(" cov: ")?;
        rest.split(' ').next()
    });
    format!(
        "{} inputs, {} a second, {} branches covered",
        number("stat::number_of_executed_units:"),
        number("stat::average_exec_per_sec:"),
        covered.unwrap_or("?"),
    )
}

/// What broke, the input, and how to see it again.
fn finding(target: &str, said: &str) -> String {
    // What comes before is the list of what was tried.
    let from = said
        .lines()
        .position(|line| line.contains("panicked at") || line.contains("memory allocation of"))
        .or_else(|| said.lines().position(|line| line.starts_with("==")))
        .unwrap_or(0);
    let mut text: Vec<String> = said.lines().skip(from).take(60).map(str::to_owned).collect();
    let written = said.lines().find_map(|line| line.split_once("Test unit written to "));
    if let Some((_, file)) = written {
        text.push(format!("the input is in {file}; to see it again:"));
        text.push(format!("  cargo xtask fuzz --target {target} --replay {file}"));
        text.push("when it is mended, the input goes to the seeds:".to_owned());
        let seeds = Path::new("fuzz/corpus").join(target);
        text.push(format!("  cp {file} {}/", seeds.display()));
    }
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: &str = "\
#8\tINITED cov: 12 ft: 12 corp: 1/1b exec/s: 0 rss: 26Mb
#4194304\tpulse  cov: 113 ft: 413 corp: 6/36b lim: 4096 exec/s: 1398101 rss: 27Mb
#12924080\tDONE   cov: 117 ft: 420 corp: 6/36b lim: 4096 exec/s: 1174916 rss: 27Mb
Done 12924080 runs in 11 second(s)
stat::number_of_executed_units: 12924080
stat::average_exec_per_sec:     1174916
";

    #[test]
    fn what_libfuzzer_counts_is_told() {
        let expected = "12924080 inputs, 1174916 a second, 117 branches covered";
        assert_eq!(summary(DONE), expected);
    }

    #[test]
    fn a_finding_is_told_with_its_input_and_how_to_see_it_again() {
        let said = "#2 INITED cov: 1\nthread '<unnamed>' panicked at src/a.rs:1:2:\nno\n\
                    artifact_prefix='/t/'; Test unit written to /t/crash-1\nBase64: AA==\n";
        let told = finding("wire", said);
        assert!(told.starts_with("thread '<unnamed>' panicked"), "{told}");
        assert!(told.contains("--target wire --replay /t/crash-1"), "{told}");
    }
}
