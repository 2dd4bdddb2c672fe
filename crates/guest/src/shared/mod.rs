//! What a guest and its host must agree on: compiled into both, so that each
//! line that a guest prints is one that the host can read

pub mod builtin;
pub mod fpu;
pub mod histogram;
pub mod invariant;
pub mod params;
pub mod pattern;
pub mod progress;
pub mod quantiles;
pub mod report;
pub mod shuffle;
#[cfg(target_arch = "x86_64")]
pub mod sweep;
#[cfg(target_arch = "x86_64")]
pub mod tsc;
