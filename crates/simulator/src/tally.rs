//! What all runs together have come across.

use std::collections::BTreeMap;

/// How often what happened where.
#[derive(Debug, Default)]
pub struct Tally {
    counts: BTreeMap<String, u64>,
    steps: u64,
}

impl Tally {
    pub(crate) fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    pub(crate) fn steps(&mut self, steps: u64) {
        self.steps += steps;
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.steps += other.steps;
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// How often this happened.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// A line for each place, with what happened there.
    #[must_use]
    pub fn show(&self) -> String {
        let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (what, count) in &self.counts {
            let (what, place) = what.rsplit_once(" in ").unwrap_or((what, "motions"));
            lines.entry(place).or_default().push(format!("{what} {count}"));
        }
        let lines = lines.into_iter().map(|(place, what)| format!("{place}: {}", what.join(", ")));
        let lines: Vec<String> = lines.collect();
        format!("{}\n{} steps", lines.join("\n"), self.steps)
    }
}
