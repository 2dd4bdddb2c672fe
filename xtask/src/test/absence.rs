//! What only tests may do is not in the program that people run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::step::Tally;
use crate::lab::Programs;
use crate::places;
use crate::process::{cargo, run as run_command};

/// The feature that lets tests make the engine lose or damage pages on purpose.
const FEATURE: &str = "whimbrel/mutate";
/// The text that a program with that feature contains.
const MARKER: &[u8] = b"whimbrel-test-hook";

/// Builds the program both ways and looks for the marker.
pub fn run() -> Result<Tally> {
    // The one that the mutations were tested with, which is here already and says the marker too.
    run_command(&mut cargo(&[
        "build",
        "--locked",
        "--package",
        "whimbrel",
        "--features",
        FEATURE,
    ]))?;
    let marked = contains_marker(&places::target().join("debug/whimbrel"))?;
    ensure!(
        marked,
        "the program built with `{FEATURE}` has no marker, so its absence says nothing"
    );
    // The one that the lab uses.
    let without = Programs::build(&places::target().join("lab"), &[])?;
    let marked = contains_marker(&without.path("whimbrel"))?;
    ensure!(!marked, "the release build contains the engine's test hook");
    Ok(Tally::passed(2))
}

fn contains_marker(program: &Path) -> Result<bool> {
    let content =
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    Ok(content.windows(MARKER.len()).any(|window| window == MARKER))
}
