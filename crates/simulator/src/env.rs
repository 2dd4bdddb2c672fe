//! What all processes of a world share.

use crate::book::Book;
use crate::disk::Disk;
use crate::guest::SharedGuest;
use crate::mutants::Mutant;
use crate::net::Net;
use crate::rng::Rng;

pub struct Env {
    pub now: u64,
    pub rng: Rng,
    pub net: Net,
    pub book: Book,
    /// One for each host.
    pub disks: [Disk; 2],
    pub guest: SharedGuest,
    /// What is wrong on purpose.
    pub mutant: Option<Mutant>,
}

pub const MICROSECOND: u64 = 1_000;
pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;
pub const MINUTE: u64 = 60 * SECOND;
