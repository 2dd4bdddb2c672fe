//! The engine on simulated hosts: its own code, two machines, a network that delays, repeats, cuts
//! and stalls, processes that die and come back, disks that fail, people who interfere. A seed
//! decides everything, so a run that fails can be repeated and looked at:
//!
//! ```text
//! cargo xtask sim --seeds 1000000      runs so many seeds
//! cargo xtask sim --seed 4711          shows the trace of one
//! ```
//!
//! A seed decides two lives: that of a guest that moves between hosts, and that of one that is kept in
//! files ([`keep`]).
//!
//! [`Scenario`](scenario) says how the world is and what goes wrong when, [`story`] carries it out
//! on a [`world`], and [`checks`] holds what must be true after every step.
#![forbid(unsafe_code)]

mod book;
mod builder;
mod call;
mod checks;
mod destination;
mod disk;
mod env;
mod gate;
mod guest;
mod keep;
mod life;
mod machine;
mod mutants;
mod net;
mod plots;
mod process;
mod reader;
mod receivers;
mod rng;
mod scenario;
mod senders;
mod source;
mod stage;
mod story;
mod strike;
mod sweep;
mod tally;
mod watcher;
mod witness;
mod world;

pub use mutants::Mutant;
pub use plots::{PLOTS, Plot};
pub use sweep::{Found, Sweep, explain};
pub use tally::Tally;
pub use world::Case;

/// The places in a motion at which something can go wrong, by the names that a [`Tally`] has for
/// them.
pub fn places() -> impl Iterator<Item = String> {
    scenario::SPOTS.into_iter().map(scenario::Spot::name)
}

/// The same, of an update.
pub fn places_of_updates() -> impl Iterator<Item = String> {
    scenario::SPOTS_OF_UPDATES.into_iter().map(|spot| format!("update {}", spot.name()))
}

/// The same, of a motion to a file.
pub fn places_of_saves() -> impl Iterator<Item = String> {
    keep::places()
}
