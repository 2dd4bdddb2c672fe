//! A guest that is kept in files: saved, copied, restored, on two hosts that share a disk.
//!
//! One thing is under way at a time, but for what happens within it: a disk that fails or hangs,
//! processes and hosts that die, people who cancel, and another host that wants the same guest.

mod cellar;
mod checks;
mod coming;
mod crew;
mod disk;
mod restore;
mod restoring;
mod save;
mod saving;
mod world;

use crate::book::Book;
use crate::mutants::Mutant;
use crate::rng::Rng;
use crate::tally::Tally;

pub use cellar::Cellar;

/// What the disk says that it does, and does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Pages, tables and state are not made durable before the mark is written.
    Pages,
    /// Nor is the mark before it is said to be.
    Mark,
    /// Nor is the name.
    Name,
    /// Nor is a claim before the guest runs.
    Claim,
    /// Two may hold the lock under which a file is claimed.
    Lock,
    /// RAM in a memory file is not made durable before its state is.
    Ram,
}

impl Lie {
    pub const ALL: [Self; 6] =
        [Self::Pages, Self::Mark, Self::Name, Self::Claim, Self::Lock, Self::Ram];
}

/// The places in a motion to a file at which something can go wrong, by the names that a [`Tally`] has
/// for them.
pub fn places() -> impl Iterator<Item = String> {
    saving::PHASES.into_iter().map(|phase| format!("save {phase:?}"))
}

/// The life of one guest in files.
pub fn live(seed: u64, mutant: Option<Mutant>, book: &Book) -> Tally {
    // Not what the moves of the same seed have made of it.
    let mut world = world::Keep::new(Rng::new(seed ^ 0x6b65_6570), mutant, book);
    world.live();
    world.tally
}
