//! Everything that can go wrong, in every phase of a move, on real processes: what becomes of the
//! guest is what the table says, and never two run it.
//!
//! `WHIMBREL_MATRIX_TIMES` has the whole of it played so many times over (`cargo xtask matrix`), and
//! `WHIMBREL_MATRIX_ONLY` only those cells whose name contains that.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "matrix/cell.rs"]
mod cell;
#[path = "support/link.rs"]
mod link;
#[path = "support/play.rs"]
mod play;
#[path = "matrix/stage.rs"]
mod stage;
mod support;
#[path = "matrix/table.rs"]
mod table;

use cell::{Cell, Resolution};
use play::play_often;
use table::{Fault, Outcome, Phase, TABLE};

#[test]
fn whatever_goes_wrong_the_guest_is_where_the_table_says() {
    play_often("matrix", 3, cells, name, Cell::play);
}

#[test]
fn the_table_for_operators_is_the_table_that_is_tested() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failures.md");
    let document = std::fs::read_to_string(path).unwrap();
    for row in table::as_written() {
        assert!(document.contains(&row), "docs/failures.md has no line\n{row}");
    }
}

/// All cells, those that take longest first.
fn cells() -> Vec<Cell> {
    let all = |(phase, outcomes): (Phase, [Outcome; 7])| {
        Fault::ALL.into_iter().zip(outcomes).flat_map(move |(fault, outcome)| {
            let resolved = move |&resolution: &Resolution| Cell {
                phase,
                fault,
                outcome,
                resolution: Some(resolution),
            };
            let unresolved = Cell { phase, fault, outcome, resolution: None };
            match (outcome, phase) {
                // Only a source that had sent COMMIT has left a word to be passed on.
                (Outcome::Held, Phase::Commit) => {
                    [Resolution::Here, Resolution::Peer, Resolution::Word]
                        .iter()
                        .map(resolved)
                        .collect()
                }
                (Outcome::Held | Outcome::Undecided, _) => {
                    [Resolution::Here, Resolution::Peer].iter().map(resolved).collect()
                }
                _ => vec![unresolved],
            }
        })
    };
    let mut cells: Vec<_> = TABLE.into_iter().flat_map(all).collect();
    cells.sort_by_key(|cell| !cell.fault.is_silent());
    cells
}

fn name(cell: &Cell) -> String {
    let Cell { phase, fault, outcome, resolution } = cell;
    let resolved = resolution.map_or(String::new(), |r| format!(", resolved by {r:?}"));
    format!("{phase}, {fault}: {outcome}{resolved}")
}
