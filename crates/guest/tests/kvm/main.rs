//! The guests on real KVM, in the least machine that runs them

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod behaviour;
mod host;
mod mutations;
