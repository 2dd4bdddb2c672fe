//! What no seed may do.

use whimbrel_simulator::{Case, PLOTS, Sweep, explain, places, places_of_saves, places_of_updates};

/// So many in CI; `cargo xtask sim --seeds N` for more.
const SEEDS: u64 = 10_000;

/// Of each plot, so many.
const CHANCES: u64 = 100;

/// Panics with the trace of the seed that failed, if one did.
fn judge(failed: Option<u64>, case: Case) {
    if let Some(seed) = failed {
        let (trace, wrong) = explain(seed, case);
        let wrong = wrong.unwrap_or_else(|| "it did not fail again".into());
        let plot = case.plot.map(|plot| format!(" --plot '{}'", plot.name)).unwrap_or_default();
        panic!("{trace}\n\nseed {seed}: {wrong}\n`cargo xtask sim --seed {seed}{plot}` repeats it");
    }
}

/// Whatever was played before it on the same thread: else nobody could look at what a sweep found.
#[test]
fn a_seed_is_the_same_story_each_time() {
    let tell = |seed| explain(seed, Case::default()).0;
    let (first, last) = (1, 60);
    let forwards: Vec<String> = (first..=last).map(tell).collect();
    let mut backwards: Vec<String> = (first..=last).rev().map(tell).collect();
    backwards.reverse();
    for (at, seed) in (first..=last).enumerate() {
        assert!(forwards[at] == backwards[at], "seed {seed} went otherwise the second time");
    }
}

#[test]
fn no_seed_loses_a_guest() {
    let found = Sweep::of(SEEDS).run(&|_| {});
    judge(found.failed, Case::default());
    println!("{}", found.tally.show());
    // A simulator that never got somewhere says nothing about it.
    for place in places() {
        for what in ["kill source", "kill destination", "cut", "stall", "cancel"] {
            let name = format!("{what} in {place}");
            assert!(found.tally.of(&name) > 0, "no seed came to: {name}");
        }
    }
    for place in places_of_updates() {
        for what in [
            "kill source",
            "kill destination",
            "source dies within a step",
            "destination dies within a step",
            "freeze source",
            "freeze destination",
            "cut",
            "cancel",
        ] {
            let name = format!("{what} in {place}");
            assert!(found.tally.of(&name) > 0, "no seed came to: {name}");
        }
    }
    // Whoever has the guest in the end, and whether the other one knows or is dead.
    let ends = ["Open, failed", "Kept, failed", "Kept, cancelled", "Kept, source dead"];
    for end in ends.into_iter().chain(["Entered, completed", "Entered, source dead"]) {
        assert!(found.tally.of(&format!("{end} in updates")) > 0, "no update ended: {end}");
    }
    // And where it went there and back.
    for end in ["there", "Entered, completed", "Kept, failed", "Open, source dead"] {
        assert!(found.tally.of(&format!("{end} in exec")) > 0, "no update by exec came to: {end}");
    }
    let troubles = ["kill", "power cut", "disk fails", "disk hangs", "cancel"];
    let saves = places_of_saves().flat_map(|at| troubles.map(|what| format!("{what} in {at}")));
    let restores = ["kill", "power cut", "disk fails", "cancel", "rival", "restored", "reclaimed"];
    let restores = restores.map(|what| format!("{what} in restore"));
    let filling = [
        "kill",
        "power cut",
        "disk fails",
        "disk hangs",
        "page rots",
        "file is cut",
        "nobody left",
        "outage",
        "early outage",
        "retried",
        "quit",
        "all is in",
    ];
    let filling = filling.map(|what| format!("{what} in filling"));
    let at_start = troubles.into_iter().chain(["protecting fails", "guest gone", "completed"]);
    let at_start = at_start.map(|what| format!("{what} in at start"));
    let reboot = ["completed", "reclaimed", "ran on"].map(|what| format!("{what} in reboot"));
    for name in saves.chain(restores).chain(filling).chain(at_start).chain(reboot) {
        assert!(found.tally.of(&name) > 0, "no seed came to: {name}");
    }
}

/// What once was the end of a guest, or would be: told again and again, with other circumstances.
#[test]
fn no_plot_loses_a_guest() {
    for plot in &PLOTS {
        let case = Case { plot: Some(plot), ..Case::default() };
        judge(Sweep { case, ..Sweep::of(CHANCES) }.run(&|_| {}).failed, case);
    }
}
