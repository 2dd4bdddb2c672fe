//! What only tests may do is not in the program that people run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::step::Tally;
use crate::lab::Programs;
use crate::places;

/// The feature that lets tests make the engine lose or damage pages on purpose.
const FEATURE: &str = "whimbrel/mutate";
/// The text that a program with that feature contains.
const MARKER: &[u8] = b"whimbrel-test-hook";

/// Builds the program both ways and looks for the marker.
pub fn run() -> Result<Tally> {
    let folder = places::target().join("lab");
    // The build without the feature comes last, and is the one that the lab uses.
    let with = Programs::build(&folder, &[FEATURE])?;
    let marked = contains_marker(&with.path("whimbrel"))?;
    ensure!(
        marked,
        "the program built with `{FEATURE}` has no marker, so its absence says nothing"
    );
    let without = Programs::build(&folder, &[])?;
    let marked = contains_marker(&without.path("whimbrel"))?;
    ensure!(!marked, "the release build contains the engine's test hook");
    Ok(Tally::passed(2))
}

fn contains_marker(program: &Path) -> Result<bool> {
    let content =
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    Ok(content.windows(MARKER.len()).any(|window| window == MARKER))
}
