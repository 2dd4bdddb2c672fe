//! The tests of all crates, and how many there were.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::qmp_client;
use super::step::Tally;
use crate::process::{cargo, rendered, succeeds};

/// Runs all tests.
pub fn run() -> Result<Tally> {
    tests(&["--workspace", "--all-targets"])
}

/// Runs the tests for which the engine is made to lose and damage pages, and to break its rules, and the
/// program to be another version of itself.
pub fn run_mutations() -> Result<Tally> {
    let program = ["--package", "whimbrel", "--features", "mutate"];
    let mut sum = tests(&[&program[..], &["--test", "mutations", "--test", "versions"]].concat())?;
    let simulated =
        ["--package", "whimbrel-simulator", "--features", "mutate", "--test", "mutants"];
    sum.add(&tests(&simulated)?);
    Ok(sum)
}

/// Runs the tests that `which` selects, by `cargo nextest` where that is installed.
fn tests(which: &[&str]) -> Result<Tally> {
    let always = ["--locked", "--no-fail-fast"];
    if succeeds(&mut cargo(&["nextest", "--version"])) {
        let mut nextest = cargo(&["nextest", "run"]);
        return count(nextest.args(which).args(always).envs(qmp_client::told()), from_nextest);
    }
    // One thread: what `.config/nextest.toml` says about tests that need the machine for
    // themselves is not heard here.
    let one_thread = ["--", "--test-threads=1"];
    let mut test = cargo(&["test"]);
    count(test.args(which).args(always).args(one_thread).envs(qmp_client::told()), from_libtest)
}

/// Runs the examples in the documentation, which nextest leaves out.
pub fn run_doc_tests() -> Result<Tally> {
    count(&mut cargo(&["test", "--workspace", "--doc", "--locked", "--no-fail-fast"]), from_libtest)
}

/// Runs a command, shows all that it says, and adds up what `read` finds in each line.
fn count(command: &mut Command, read: fn(&str) -> Option<Tally>) -> Result<Tally> {
    // The summary is on standard error in one case and on standard output in the other.
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start `{}`", rendered(command)))?;
    // The command still holds the pipe's other end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut sum = Tally::default();
    let mut lines = BufReader::new(reader);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? != 0 {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        println!("{text}");
        if let Some(found) = read(text) {
            sum.passed += found.passed;
            sum.failed += found.failed;
            sum.skipped += found.skipped;
        }
        line.clear();
    }
    if !child.wait()?.success() && sum.failed == 0 {
        // Something did not even compile.
        sum.failed = 1;
    }
    Ok(sum)
}

/// Reads `Summary [ 1.2s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 0 skipped`.
fn from_nextest(line: &str) -> Option<Tally> {
    let (head, counts) = line.split_once(" run: ")?;
    if !head.trim_start().starts_with("Summary [") {
        return None;
    }
    let mut tally = Tally::default();
    for count in counts.split(", ") {
        let (number, kind) = count.trim().split_once(' ')?;
        // In brackets are details of what was counted already.
        let Ok(number) = number.parse::<u32>() else { continue };
        match kind.split(' ').next()? {
            "passed" => tally.passed += number,
            "skipped" => tally.skipped += number,
            "failed" | "timed" | "exec" => tally.failed += number,
            _ => {}
        }
    }
    Some(tally)
}

/// Reads `test result: ok. 7 passed; 1 failed; 2 ignored; 0 measured; 1 filtered out; …`.
fn from_libtest(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut tally = Tally::default();
    for count in counts.split("; ") {
        let Some((number, kind)) = count.split_once(' ') else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        match kind {
            "passed" => tally.passed += number,
            "failed" => tally.failed += number,
            "ignored" | "filtered out" => tally.skipped += number,
            _ => {}
        }
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u32, failed: u32, skipped: u32) -> Tally {
        Tally { passed, failed, skipped, impossible: None }
    }

    #[test]
    fn the_summary_of_nextest_is_understood() {
        let line = "     Summary [   5.123s] 120 tests run: 117 passed (1 slow, 2 leaky), \
                    2 failed, 1 timed out, 4 skipped";
        assert_eq!(from_nextest(line), Some(tally(117, 3, 4)));
        let line = "     Summary [   0.003s] 1 test run: 1 passed, 0 skipped";
        assert_eq!(from_nextest(line), Some(tally(1, 0, 0)));
        assert_eq!(from_nextest("        PASS [   0.003s] xtask"), None);
    }

    #[test]
    fn the_summary_of_libtest_is_understood() {
        let line = "test result: FAILED. 7 passed; 1 failed; 2 ignored; 0 measured; 3 filtered \
                    out; finished in 0.00s";
        assert_eq!(from_libtest(line), Some(tally(7, 1, 5)));
        assert_eq!(from_libtest("test a ... ok"), None);
    }

    #[test]
    fn a_command_that_fails_without_a_summary_counts_as_a_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'error: does not compile' >&2; exit 101"]);
        assert_eq!(count(&mut command, from_libtest).unwrap(), tally(0, 1, 0));
    }
}
