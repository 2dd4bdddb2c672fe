//! What is measured of moves.

mod cancel;
pub(super) mod flat_out;
pub(super) mod idle;
mod limited;
mod sparse;
mod start_up;
mod stopped;

use super::{
    Begin, Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, ms, quiet, whether,
};

/// Every case.
pub const ALL: &[Case] = &[
    idle::ONE,
    idle::FOUR,
    idle::EIGHT,
    sparse::CASE,
    flat_out::CASE,
    limited::ABOVE,
    limited::BELOW,
    stopped::CASE,
    start_up::CASE,
    cancel::CASE,
];
