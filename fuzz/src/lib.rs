//! Hostile input for every door of Whimbrel: what the targets under `fuzz_targets/` do with the bytes
//! that they are given.
//!
//! A target fails when the code under test panics (overflow checks are on), takes more memory than its
//! input warrants, or breaks a promise that the target states.
#![forbid(unsafe_code)]

pub mod allocation;
pub mod bzimage;
pub mod destination;
pub mod elf;
pub mod handshake;
pub mod input;
pub mod kept;
mod kernel;
mod messages;
pub mod qmp;
pub mod record;
pub mod snapshot;
pub mod source;
mod stage;
pub mod wire;
