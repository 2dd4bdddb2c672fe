//! What is measured of updates: another process under the same guest, whose RAM stays where it is.

mod exec;
mod flat_out;
mod idle;
mod reboot;
mod size;

use super::{
    Begin, Case, Contender, Course, Goal, Metric, Outcome, Place, Runs, figures, moves, ms, quiet,
    whether,
};
use crate::peer::Spec;

/// Every case.
pub const ALL: &[Case] =
    &[idle::ONE, idle::TWO, idle::EIGHT, size::CASE, flat_out::CASE, exec::CASE, reboot::CASE];

/// A guest with so many bytes of RAM, which has touched as much as is said and is idle now.
fn idle_guest(memory: u64, vcpus: u32, touch: u64) -> Spec {
    Spec { memory, vcpus, cmdline: quiet(&format!("touch={touch} rate=0 watch=1")) }
}

/// What of so many bytes is touched where most is to be, in whole MiB.
const fn touched(memory: u64) -> u64 {
    ((memory >> 20) * 9 / 10) << 20
}

/// Nanoseconds of the guest's clock in seconds.
fn seconds(nanoseconds: u64) -> f64 {
    crate::travel::millis(nanoseconds) / 1e3
}
