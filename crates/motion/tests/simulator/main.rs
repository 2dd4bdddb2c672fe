//! The engine on simulated hosts: its own code, two machines, a network that delays, cuts and
//! stalls, processes that die and come back, disks that fail, people who interfere. A seed decides
//! everything, so a run that fails can be repeated and looked at:
//!
//! ```text
//! WHIMBREL_SIM_SEED=n     shows the trace of one seed; run with `no_seed --nocapture`
//! WHIMBREL_SIM_SEEDS=n    how many seeds are run, 2,000 where nothing is said
//! WHIMBREL_SIM_FROM=n     the first of them, 1 where nothing is said
//! ```

extern crate whimbrel_motion as motion;

mod book;
mod builder;
mod call;
mod checks;
mod destination;
mod disk;
mod env;
mod guest;
mod life;
mod machine;
mod mutants;
mod net;
mod process;
mod reader;
mod receivers;
mod rng;
mod scenario;
mod senders;
mod source;
mod stage;
mod story;
mod strike;
mod tally;
mod watcher;
mod witness;
mod words;
mod world;

use mutants::Mutant;
use scenario::SPOTS;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tally::Tally;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Runs seeds on all processors until one fails; says which, and what all of them came across.
fn run_seeds(first: u64, count: u64, mutant: Option<Mutant>) -> (Option<u64>, Tally) {
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(u64::MAX);
    let total = Mutex::new(Tally::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut tally = Tally::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || seed > failed.load(Ordering::Relaxed) {
                        break;
                    }
                    let run = world::run(seed, mutant, false);
                    tally.add(run.tally);
                    if run.wrong.is_some() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
                total.lock().expect("nobody panics while holding it").add(tally);
            });
        }
    });
    let failed = failed.into_inner();
    let tally = total.into_inner().expect("nobody panics while holding it");
    ((failed != u64::MAX).then_some(failed), tally)
}

/// The trace of a seed that fails, and why.
fn explain(seed: u64, mutant: Option<Mutant>) -> String {
    let run = world::run(seed, mutant, true);
    let why = run.wrong.unwrap_or_else(|| "it did not fail again".into());
    let trace = run.trace;
    format!("{trace}\n\nseed {seed}: {why}\nWHIMBREL_SIM_SEED={seed} repeats it")
}

#[test]
fn no_seed_loses_a_guest() {
    if let Some(seed) = setting("WHIMBREL_SIM_SEED") {
        println!("{}", explain(seed, None));
        assert!(world::run(seed, None, false).wrong.is_none(), "seed {seed} fails");
        return;
    }
    let count = setting("WHIMBREL_SIM_SEEDS").unwrap_or(2_000);
    let first = setting("WHIMBREL_SIM_FROM").unwrap_or(1);
    let (failed, tally) = run_seeds(first, count, None);
    if let Some(seed) = failed {
        panic!("{}", explain(seed, None));
    }
    println!("{}", tally.show());
    // A simulator that never got somewhere says nothing about it.
    if count >= 2_000 {
        for spot in SPOTS {
            for what in ["kill source", "kill destination", "cut", "stall", "cancel"] {
                let name = format!("{what} in {}", spot.name());
                assert!(tally.of(&name) > 0, "no seed came to: {name}");
            }
        }
    }
}

/// Whatever is wrong on purpose is found, and soon.
#[test]
fn every_mutant_is_caught() {
    let most = setting("WHIMBREL_SIM_MUTANT_SEEDS").unwrap_or(3_000);
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        match run_seeds(1, most, Some(mutant)).0 {
            Some(seed) => {
                let why = world::run(seed, Some(mutant), false).wrong.unwrap_or_default();
                println!("{mutant:?}: caught after {seed} seeds: {why}");
            }
            None => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not caught within {most} seeds: {survivors:?}");
}
