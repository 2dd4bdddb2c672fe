//! What all runs together have come across.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Tally {
    counts: BTreeMap<String, u64>,
    steps: u64,
}

impl Tally {
    pub fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    pub fn steps(&mut self, steps: u64) {
        self.steps += steps;
    }

    pub fn add(&mut self, other: Self) {
        self.steps += other.steps;
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    pub fn show(&self) -> String {
        let lines: Vec<String> =
            self.counts.iter().map(|(what, n)| format!("{n:>8} {what}")).collect();
        format!("{}\n{:>8} steps", lines.join("\n"), self.steps)
    }
}
