//! What a guest and its host must agree on: compiled into both, so that each
//! line that a guest prints is one that the host can read

pub mod builtin;
pub mod histogram;
pub mod params;
pub mod pattern;
pub mod report;
