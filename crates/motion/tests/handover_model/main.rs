//! The handover, model-checked: the engine's own decisions, on every state that a network which
//! loses, repeats and reorders, processes and hosts that die, journals that fail and operators who
//! interfere can lead to.
//!
//! `docs/handover.md` has the argument; each promise there is a property here, and each rule there is
//! taken out here once, to show that the properties notice.

mod graph;
mod model;
mod mutants;
mod world;

use graph::Graph;
use model::Handover;
use stateright::{Checker, Model};
use whimbrel_motion::handover::decision::{AllRules, Rule};

#[test]
fn at_most_one_side_runs_the_guest_and_one_always_can() {
    let checker = Handover::<AllRules>::default().checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    println!("{} states, {} of them unique", checker.state_count(), checker.unique_state_count());
    // A model that reaches little proves little.
    assert!(checker.unique_state_count() > 1000);
}

#[test]
fn every_state_leads_to_a_decision() {
    let graph = Graph::of(&Handover::<AllRules>::default());
    println!("{} states, {} edges", graph.len(), graph.edges());
    assert_eq!(graph.stuck_without_operator(), None);
    assert_eq!(graph.stuck_with_operator(), None);
    // Were it never needed, the two checks would be one.
    assert!(graph.operator_is_needed());
}

#[test]
fn every_rule_has_its_mutant_and_its_place_in_the_documentation() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("the file is there");
    let mutants = read("tests/handover_model/mutants.rs");
    let docs = read("../../docs/handover.md");
    for rule in Rule::ALL {
        assert!(mutants.contains(&format!("without {rule:?},")), "{rule:?} is never taken out");
        assert!(docs.contains(&format!("`{rule:?}`")), "{rule:?} is not in docs/handover.md");
    }
}
