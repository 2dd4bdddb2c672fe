//! Everything that can go wrong, at every step of an update, on real processes: what becomes of the guest
//! is what the table says, and never two run it.
//!
//! `WHIMBREL_MATRIX_TIMES` has the whole of it played so many times over (`cargo xtask matrix`), and
//! `WHIMBREL_MATRIX_ONLY` only those cells whose name contains that.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "update_matrix/cell.rs"]
mod cell;
#[path = "support/courier.rs"]
mod courier;
#[path = "update_matrix/exec/mod.rs"]
mod exec;
#[path = "support/link.rs"]
mod link;
#[path = "support/play.rs"]
mod play;
#[path = "update_matrix/scene.rs"]
mod scene;
#[path = "update_matrix/stage.rs"]
mod stage;
mod support;
#[path = "update_matrix/table.rs"]
mod table;

use cell::Cell;
use play::play_often;
use table::{Fault, TABLE};

#[test]
fn whatever_goes_wrong_with_an_update_the_guest_is_where_the_table_says() {
    play_often("update matrix", 6, cells, name, Cell::play);
}

#[test]
fn whatever_goes_wrong_while_a_process_becomes_another_the_guest_is_where_the_table_says() {
    play_often("exec matrix", 6, exec_cells, exec_name, exec::cell::Cell::play);
}

#[test]
fn the_table_for_operators_is_the_table_that_is_tested() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failures.md");
    let document = std::fs::read_to_string(path).unwrap();
    for row in table::as_written().into_iter().chain(exec::table::as_written()) {
        assert!(document.contains(&row), "docs/failures.md has no line\n{row}");
    }
}

/// All cells, those that take longest first.
fn cells() -> Vec<Cell> {
    let mut cells: Vec<_> = TABLE
        .into_iter()
        .flat_map(|(step, outcomes)| {
            let all = Fault::ALL.into_iter().zip(outcomes);
            all.map(move |(fault, outcome)| Cell { step, fault, outcome })
        })
        .collect();
    cells.sort_by_key(|cell| !cell.fault.is_silent());
    cells
}

fn name(cell: &Cell) -> String {
    let Cell { step, fault, outcome } = cell;
    format!("{step}, {fault}: {outcome}")
}

fn exec_cells() -> Vec<exec::cell::Cell> {
    let mut cells: Vec<_> = exec::table::TABLE
        .into_iter()
        .flat_map(|(leg, step, outcomes)| {
            let all = exec::table::Fault::ALL.into_iter().zip(outcomes);
            all.map(move |(fault, outcome)| exec::cell::Cell { leg, step, fault, outcome })
        })
        .collect();
    cells.sort_by_key(|cell| !cell.fault.is_silent());
    cells
}

fn exec_name(cell: &exec::cell::Cell) -> String {
    let exec::cell::Cell { leg, step, fault, outcome } = cell;
    format!("{leg}: {step}, {fault}: {outcome}")
}
