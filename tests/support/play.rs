//! Plays the cells of a table, as often as wanted, some of them at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

/// Plays all `cells` whose `name` is wanted, so many `at_once` since most of the time of most of them is
/// spent waiting, and fails when any of them panics.
pub fn play_often<C: Copy + Send + 'static>(
    what: &str,
    at_once: usize,
    cells: fn() -> Vec<C>,
    name: fn(&C) -> String,
    play: fn(C),
) {
    let times = std::env::var("WHIMBREL_MATRIX_TIMES").map_or(1, |times| times.parse().unwrap());
    let only = std::env::var("WHIMBREL_MATRIX_ONLY").unwrap_or_default();
    let (mut played, mut surprises) = (0, Vec::new());
    for time in 1..=times {
        let begun = Instant::now();
        let wanted: Vec<_> =
            cells().into_iter().filter(|cell| name(cell).contains(&only)).collect();
        played += wanted.len();
        let surprised = play_all(wanted, at_once, name, play);
        println!(
            "{what} {time} of {times}: {} surprises, {:.1} s",
            surprised.len(),
            begun.elapsed().as_secs_f64()
        );
        surprises.extend(surprised);
    }
    println!("{what}: {played} cells played, {} surprises", surprises.len());
    // It may be in another table.
    assert!(played > 0 || !only.is_empty(), "a table without cells");
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

/// Plays these cells, and names those that did not go as the table says.
fn play_all<C: Copy + Send + 'static>(
    mut cells: Vec<C>,
    at_once: usize,
    name: fn(&C) -> String,
    play: fn(C),
) -> Vec<String> {
    cells.reverse();
    let (cells, surprises) = (Mutex::new(cells), Mutex::new(Vec::new()));
    let next = || cells.lock().unwrap().pop();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(cell) = next() {
                    let begun = Instant::now();
                    let played = thread::spawn(move || play(cell)).join();
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
