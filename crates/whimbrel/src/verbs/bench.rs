//! `whimbrel bench`

mod cases;
mod floor;
mod keep;
mod moves;
mod renew;

use crate::exit::Exit;
use clap::Subcommand;

/// Measure moves, and what they are compared with
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  whimbrel bench floor --memory 1G
  whimbrel bench move --list
  whimbrel bench move idle-blackout --runs 10
  whimbrel bench move --against qemu --raw figures.jsonl
  whimbrel bench keep --against qemu --folder /var/lib/vms
  whimbrel bench renew --against qemu")]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The least that a blackout can be here: a guest goes from one machine to another in one
    /// process, and says by its own clock how long it stood still
    Floor(floor::Floor),
    /// Moves between real processes over TCP on this host, by the guest's own clock, beside the
    /// floor and, if wanted, beside another VMM that does the same in turn
    Move(moves::Move),
    /// Saves, snapshots and restores, on the storage that a folder is on, by the guest's own clock,
    /// beside what storage and kernel need at least and, if wanted, beside another VMM
    Keep(keep::Keep),
    /// Updates: a new process under a guest that stays where it is, by the guest's own clock, beside the
    /// floor and, if wanted, beside another VMM
    Renew(renew::Renew),
}

impl Bench {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.what {
            What::Floor(floor) => floor.run(),
            What::Move(moves) => moves.run(),
            What::Keep(keep) => keep.run(),
            What::Renew(renew) => renew.run(),
        }
    }

    pub fn wants_json(&self) -> bool {
        match &self.what {
            What::Floor(floor) => floor.json,
            What::Move(moves) => moves.cases.json,
            What::Keep(keep) => keep.cases.json,
            What::Renew(renew) => renew.cases.json,
        }
    }
}
