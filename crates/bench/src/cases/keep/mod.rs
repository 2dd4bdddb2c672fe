//! What is measured of files: saves, snapshots and restores.

mod checksums;
mod clones;
mod eager;
mod faults;
mod guests;
mod lazy;
mod live;
mod lost;
mod rate;
mod size;
mod sparse;

use super::{
    Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, moves, ms, quiet,
};
use guests::{GIB, Rated, Reader};

/// Every case.
pub const ALL: &[Case] = &[
    sparse::CASE,
    rate::CASE,
    eager::CASE,
    lazy::WARM,
    lazy::COLD,
    size::CASE,
    lazy::ALL_IN,
    faults::CASE,
    checksums::CASE,
    clones::CASE,
    live::END,
    live::START,
    lost::END,
    lost::START,
];

/// Seconds as milliseconds.
fn millis(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
