//! Many seeds, on several processors.

use crate::tally::Tally;
use crate::world::{self, Case};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which seeds are to be run.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    /// The first.
    pub start: u64,
    /// How many.
    pub seeds: u64,
    /// On so many threads; 0 is one for each processor.
    pub jobs: usize,
    /// With what.
    pub case: Case,
}

/// What a sweep came to.
#[derive(Debug)]
pub struct Found {
    /// The first seed in which something was wrong. None after it were run.
    pub failed: Option<u64>,
    /// What all runs together came across.
    pub tally: Tally,
}

impl Sweep {
    /// So many seeds from 1, of the engine as it is.
    #[must_use]
    pub fn of(seeds: u64) -> Self {
        Self { start: 1, seeds, jobs: 0, case: Case::default() }
    }

    /// Runs seeds until one fails. `progress` is told now and then how many have been begun.
    pub fn run(self, progress: &(dyn Fn(u64) + Sync)) -> Found {
        const NOW_AND_THEN: u64 = 10_000;
        let next = AtomicU64::new(0);
        let failed = AtomicU64::new(u64::MAX);
        let total = Mutex::new(Tally::default());
        let jobs = match self.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        };
        let work = || {
            let mut tally = Tally::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.seeds || number > failed.load(Ordering::Relaxed) {
                    break;
                }
                if number > 0 && number.is_multiple_of(NOW_AND_THEN) {
                    progress(number);
                }
                let run = world::run(self.start.wrapping_add(number), self.case, false);
                tally.add(run.tally);
                if run.wrong.is_some() {
                    failed.fetch_min(number, Ordering::Relaxed);
                }
            }
            total.lock().expect("nobody panics while holding it").add(tally);
        };
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(work);
            }
        });
        let failed = failed.into_inner();
        let failed = (failed != u64::MAX).then(|| self.start.wrapping_add(failed));
        Found { failed, tally: total.into_inner().expect("nobody panics while holding it") }
    }
}

/// The trace of a seed, and what is wrong in it.
#[must_use]
pub fn explain(seed: u64, case: Case) -> (String, Option<String>) {
    let run = world::run(seed, case, true);
    (run.trace, run.wrong)
}
