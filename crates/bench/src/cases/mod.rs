//! The cases: what is measured of moves, of files and of updates, one file each.
//!
//! A case tells how a contender runs it once ([`Course`]) and what its figures mean ([`Metric`]). Who
//! runs when, and how often, is the [campaign](crate::campaign)'s.

mod keep;
mod moves;
mod renew;

use crate::BenchError;
use crate::Place;
use crate::peer::Peer;
use crate::raw::Figures;
use crate::row::Sum;
use serde_json::Value;
use std::time::Duration;

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Goal {
    /// The figure to divide by, and what the ratio to it is to be. Nothing can be divided by 0.
    #[must_use]
    pub fn as_ratio(self) -> Option<(f64, Self)> {
        match self {
            Self::AtMost(limit) if limit > 0.0 => Some((limit, Self::AtMost(1.0))),
            Self::AtLeast(limit) if limit > 0.0 => Some((limit, Self::AtLeast(1.0))),
            _ => None,
        }
    }

    /// Whether a figure reaches it.
    #[must_use]
    pub fn is_reached_by(self, figure: f64) -> bool {
        match self {
            Self::AtMost(limit) => figure <= limit,
            Self::AtLeast(limit) => figure >= limit,
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// What it is called.
    pub name: &'static str,
    /// The unit of its figures.
    pub unit: &'static str,
    /// How the figures of several runs become one.
    pub sum: Sum,
    /// What it is to be by itself.
    pub itself: Option<Goal>,
    /// What its ratio to the floor is to be.
    pub floor: Option<Goal>,
    /// What its ratio to the peer's is to be.
    pub peer: Option<Goal>,
}

impl Metric {
    /// A figure that is only reported.
    const fn reported(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, sum: Sum::Median, itself: None, floor: None, peer: None }
    }

    /// What has to hold in so many percent of the runs.
    /// Whether it is something that is to hold in so many of the runs, and did not: that an engine says of a
    /// blackout what its guest says, say. Unlike a figure that is higher than one would like, such a thing
    /// makes a benchmark fail.
    #[must_use]
    pub fn is_broken_by(&self, share: f64) -> bool {
        self.sum == Sum::Share && self.itself.is_some_and(|goal| !goal.is_reached_by(share))
    }

    const fn share(name: &'static str, percent: f64) -> Self {
        let itself = Some(Goal::AtLeast(percent));
        Self { itself, sum: Sum::Share, ..Self::reported(name, "%") }
    }
}

/// How often a case is run when nobody says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// By Whimbrel.
    pub own: usize,
    /// By the other VMM; 0 where the case is not about it.
    pub peer: usize,
    /// By the floor; 0 where there is none.
    pub floor: usize,
}

/// Who runs a case.
#[derive(Clone, Copy)]
pub enum Contender<'a> {
    /// A VMM, Whimbrel or another.
    Vmm(&'a dyn Peer),
    /// What the kernel needs at least, measured with the help of Whimbrel's guests.
    Floor(&'a dyn Peer),
}

/// What one run measured, and what else there is to say about it.
pub type Outcome = (Figures, Value);

/// A contender in the middle of a case. What is expensive to set up stays between its runs.
pub trait Course {
    /// Runs the case once; a cheap one may do it several times.
    ///
    /// # Errors
    /// [`BenchError`]: this run counts as failed, and the next begins from nothing.
    fn run(&mut self) -> Result<Vec<Outcome>, BenchError>;

    /// Lets the others have the processors.
    ///
    /// # Errors
    /// [`BenchError`], as above.
    fn rest(&mut self) -> Result<(), BenchError> {
        Ok(())
    }

    /// Ends the rest.
    ///
    /// # Errors
    /// [`BenchError`], as above.
    fn wake(&mut self) -> Result<(), BenchError> {
        Ok(())
    }
}

/// Sets a contender up for a case.
pub type Begin = for<'a> fn(Contender<'a>, &'a Place) -> Result<Box<dyn Course + 'a>, BenchError>;

/// A case.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What is done, in a line.
    pub about: &'static str,
    /// What is measured.
    pub metrics: &'static [Metric],
    /// How often.
    pub runs: Runs,
    /// What a guest touches, in bytes.
    pub touches: u64,
    /// What one run takes, about: by Whimbrel, by the other VMM and by the floor; and the set-up of
    /// all.
    pub takes: [Duration; 4],
    /// How a contender is set up.
    pub begin: Begin,
}

/// Cases that belong together.
#[derive(Clone, Copy)]
pub struct Suite {
    /// What it is called on the command line, and in what it says.
    pub name: &'static str,
    /// Its cases.
    pub cases: &'static [Case],
}

/// Moves between processes.
pub const MOVE: Suite = Suite { name: "move", cases: moves::ALL };
/// Files: saves, snapshots and restores.
pub const KEEP: Suite = Suite { name: "keep", cases: keep::ALL };
/// New processes under a guest that stays where it is.
pub const RENEW: Suite = Suite { name: "renew", cases: renew::ALL };

impl Suite {
    /// The cases of these names, or all if there is none.
    ///
    /// # Errors
    /// [`BenchError::NoSuchCase`].
    pub fn find(&self, names: &[String]) -> Result<Vec<&'static Case>, BenchError> {
        if names.is_empty() {
            return Ok(self.cases.iter().collect());
        }
        let of = |name: &String| {
            let found = self.cases.iter().find(|case| case.name == name);
            let none = || BenchError::NoSuchCase { name: name.clone(), bench: self.name };
            found.ok_or_else(none)
        };
        names.iter().map(of).collect()
    }
}

/// What every guest here is told: nothing is said that was not asked for.
fn quiet(parameters: &str) -> String {
    format!("{parameters} report=3600s gap=3600s")
}

/// Milliseconds.
const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Figures by name.
fn figures<const N: usize>(all: [(&str, f64); N]) -> Figures {
    all.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect()
}

/// 1 for what holds, 0 for what does not.
fn whether(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITES: [Suite; 3] = [MOVE, KEEP, RENEW];

    fn all() -> impl Iterator<Item = &'static Case> {
        SUITES.into_iter().flat_map(|suite| suite.cases)
    }

    #[test]
    fn cases_are_found_by_name_and_named_once() {
        for suite in SUITES {
            for case in suite.find(&[]).unwrap() {
                assert_eq!(suite.find(&[case.name.to_owned()]).unwrap()[0].name, case.name);
                assert_eq!(all().filter(|other| other.name == case.name).count(), 1);
                assert!(case.runs.own > 0 && !case.metrics.is_empty(), "{}", case.name);
            }
            let error = suite.find(&["fast".into()]).err().unwrap().to_string();
            assert!(error.contains(&format!("bench {} --list", suite.name)), "{error}");
        }
    }

    #[test]
    fn what_is_to_hold_is_broken_by_a_run_too_many_and_a_slow_figure_breaks_nothing() {
        let nine_in_ten = Metric::share("holds", 90.0);
        assert!(!nine_in_ten.is_broken_by(90.0));
        assert!(nine_in_ten.is_broken_by(89.9));
        assert!(!Metric::share("is told of", 0.0).is_broken_by(0.0));
        let slow = Metric { itself: Some(Goal::AtMost(10.0)), ..Metric::reported("total", "ms") };
        assert!(!slow.is_broken_by(11.0));
    }

    #[test]
    fn metrics_are_named_once_in_a_case_and_fit_into_the_table() {
        for case in all() {
            for metric in case.metrics {
                let same = case.metrics.iter().filter(|other| other.name == metric.name);
                assert_eq!(same.count(), 1, "{}: {}", case.name, metric.name);
                assert!(metric.name.chars().count() <= 26, "{}", metric.name);
            }
        }
    }

    #[test]
    fn every_case_stands_in_the_documentation() {
        let manual = include_str!("../../../../docs/performance.md");
        for case in all() {
            assert!(manual.contains(&format!("`{}`", case.name)), "{}", case.name);
        }
    }

    #[test]
    fn whoever_runs_a_suite_is_done_within_25_minutes() {
        for suite in SUITES {
            let each = suite.cases.iter().map(|case| crate::campaign::expected(case, true));
            let sum: Duration = each.sum();
            assert!(sum <= Duration::from_secs(25 * 60), "{}: {sum:?}", suite.name);
        }
    }
}
