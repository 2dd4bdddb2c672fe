//! Whatever is wrong on purpose is found, and soon: a simulator proves no more than it would notice.

use whimbrel_simulator::{Case, Mutant, Sweep, explain};

/// Within so many seeds.
const SEEDS: u64 = 10_000;

/// Else every mutant would be caught, by what is wrong without it.
#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(Sweep::of(300).run(&|_| {}).failed, None);
}

#[test]
fn every_mutant_is_caught() {
    let mut survivors = Vec::new();
    for mutant in Mutant::all() {
        let case = Case { mutant: Some(mutant), ..Case::default() };
        match (Sweep { case, ..Sweep::of(SEEDS) }).run(&|_| {}).failed {
            Some(seed) => {
                let (_, why) = explain(seed, case);
                println!("{mutant}: caught by seed {seed}: {}", why.unwrap_or_default());
            }
            None => {
                println!("{mutant}: NOT CAUGHT in {SEEDS} seeds");
                survivors.push(mutant.to_string());
            }
        }
    }
    assert!(survivors.is_empty(), "not caught within {SEEDS} seeds: {survivors:?}");
}

#[test]
fn every_mutant_has_its_place_in_the_documentation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/safety.md");
    let docs = std::fs::read_to_string(path).expect("the file is there");
    for mutant in Mutant::all() {
        assert!(docs.contains(&format!("| {mutant} |")), "`{mutant}` is not in docs/safety.md");
    }
}
