//! Steps, their times, and the sum of what they found.

use std::time::{Duration, Instant};

use anyhow::Result;

/// What one step found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests or checks that passed.
    pub passed: u32,
    /// That did not.
    pub failed: u32,
    /// That could have run and did not: as bad as failed.
    pub skipped: u32,
    /// Why this machine cannot run the step, if that is so.
    pub impossible: Option<&'static str>,
}

impl Tally {
    /// So many passed.
    pub fn passed(passed: u32) -> Self {
        Self { passed, ..Self::default() }
    }

    /// Adds what another part of the step found.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.impossible = self.impossible.or(other.impossible);
    }

    /// This machine cannot run the step.
    pub fn impossible(why: &'static str) -> Self {
        Self { impossible: Some(why), ..Self::default() }
    }
}

/// All steps so far.
pub struct Log {
    only: Vec<String>,
    steps: Vec<(&'static str, Duration, Tally)>,
    started: Instant,
}

impl Log {
    /// With `only`, steps whose name contains none of its words are left out, and not counted.
    pub fn new(only: Vec<String>) -> Self {
        Self { only, steps: Vec::new(), started: Instant::now() }
    }

    /// Runs a step.
    pub fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<Tally>) {
        if !self.only.is_empty() && !self.only.iter().any(|word| name.contains(word.as_str())) {
            return;
        }
        println!("==> {name}");
        let started = Instant::now();
        let tally = work().unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        });
        if let Some(why) = tally.impossible {
            println!("!!! CANNOT RUN HERE: {name}: {why}");
        }
        let took = started.elapsed();
        println!("<== {name}: {} ({:.1} s)", verdict(&tally), took.as_secs_f64());
        self.steps.push((name, took, tally));
    }

    /// Prints the sum, the last line of it for machines; whether all is well.
    pub fn summary(&self) -> bool {
        println!();
        for (name, took, tally) in &self.steps {
            println!("{name:<20} {:>7.1} s  {}", took.as_secs_f64(), verdict(tally));
            if let Some(why) = tally.impossible {
                println!("!!! CANNOT RUN HERE: {name}: {why}");
            }
        }
        println!("{:<20} {:>7.1} s", "all", self.started.elapsed().as_secs_f64());
        let sum = |count: fn(&Tally) -> u32| -> u32 {
            self.steps.iter().map(|(_, _, tally)| count(tally)).sum()
        };
        let (failed, not_run) = (sum(|tally| tally.failed), sum(|tally| tally.skipped));
        let skipped = not_run + sum(|tally| u32::from(tally.impossible.is_some()));
        println!("{} passed, {failed} failed, {skipped} skipped", sum(|tally| tally.passed));
        failed == 0 && not_run == 0
    }
}

fn verdict(tally: &Tally) -> String {
    let Tally { passed, failed, skipped, impossible } = tally;
    let word = match impossible {
        Some(_) => "cannot run here",
        None if *failed > 0 || *skipped > 0 => "FAILED",
        None => "passed",
    };
    format!("{word}: {passed} passed, {failed} failed, {skipped} skipped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(tallies: impl IntoIterator<Item = Result<Tally>>) -> Log {
        let mut log = Log::new(Vec::new());
        for tally in tallies {
            log.step("step", || tally);
        }
        log
    }

    #[test]
    fn an_error_or_a_test_that_did_not_run_spoils_the_whole() {
        assert!(log([Ok(Tally::passed(3))]).summary());
        assert!(!log([Ok(Tally::passed(3)), Err(anyhow::anyhow!("no"))]).summary());
        assert!(!log([Ok(Tally { passed: 3, skipped: 1, ..Tally::default() })]).summary());
    }

    #[test]
    fn what_the_machine_cannot_do_does_not() {
        assert!(log([Ok(Tally::passed(3)), Ok(Tally::impossible("no apt"))]).summary());
    }

    #[test]
    fn steps_not_asked_for_are_left_out() {
        let mut log = Log::new(vec!["lab".into()]);
        log.step("lint", || anyhow::bail!("was not asked for"));
        log.step("lab", || Ok(Tally::passed(1)));
        assert!(log.summary());
    }
}
