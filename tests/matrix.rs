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
#[path = "matrix/stage.rs"]
mod stage;
mod support;
#[path = "matrix/table.rs"]
mod table;

use cell::{Cell, Resolution};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;
use table::{Fault, Outcome, Phase, TABLE};

/// Cells played at once: most of the time of most of them is spent waiting.
const AT_ONCE: usize = 3;

#[test]
fn whatever_goes_wrong_the_guest_is_where_the_table_says() {
    let times = std::env::var("WHIMBREL_MATRIX_TIMES").map_or(1, |times| times.parse().unwrap());
    let only = std::env::var("WHIMBREL_MATRIX_ONLY").unwrap_or_default();
    let (mut played, mut surprises) = (0, Vec::new());
    for time in 1..=times {
        let begun = Instant::now();
        let cells: Vec<_> = cells().filter(|cell| name(cell).contains(&only)).collect();
        played += cells.len();
        let surprised = play(cells);
        println!(
            "matrix {time} of {times}: {} surprises, {:.1} s",
            surprised.len(),
            begun.elapsed().as_secs_f64()
        );
        surprises.extend(surprised);
    }
    println!("{played} cells played, {} surprises", surprises.len());
    assert!(played > 0, "no cell is called `{only}`");
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
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
fn cells() -> impl Iterator<Item = Cell> {
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
    cells.into_iter()
}

fn name(cell: &Cell) -> String {
    let Cell { phase, fault, outcome, resolution } = cell;
    let resolved = resolution.map_or(String::new(), |r| format!(", resolved by {r:?}"));
    format!("{phase}, {fault}: {outcome}{resolved}")
}

/// Plays these cells, and names those that did not go as the table says.
fn play(mut cells: Vec<Cell>) -> Vec<String> {
    cells.reverse();
    let (cells, surprises) = (Mutex::new(cells), Mutex::new(Vec::new()));
    let next = || cells.lock().unwrap().pop();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(cell) = next() {
                    let begun = Instant::now();
                    let played = thread::spawn(move || cell.play()).join();
                    let took = begun.elapsed().as_secs_f64();
                    let surprise = played.err().map(|panic| said(&*panic));
                    let verdict = if surprise.is_none() { "as it should" } else { "SURPRISE" };
                    println!("{took:6.1} s  {verdict}: {}", name(&cell));
                    if let Some(surprise) = surprise {
                        surprises.lock().unwrap().push(format!("{}: {surprise}", name(&cell)));
                    }
                }
            });
        }
    });
    surprises.into_inner().unwrap()
}

/// What somebody who panicked has said.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}
