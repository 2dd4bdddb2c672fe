//! `whimbrel bench move`

use super::cases::{Cases, Files};
use crate::exit::Exit;
use bench::cases::MOVE;

/// Moves between real processes
#[derive(Debug, clap::Args)]
pub struct Move {
    #[command(flatten)]
    pub cases: Cases,
    /// Make everything a sixteenth of its size: shows whether it works, and says nothing of how fast
    #[arg(long)]
    tiny: bool,
}

impl Move {
    pub fn run(self) -> anyhow::Result<Exit> {
        let Self { cases, tiny } = self;
        cases.run(&MOVE, || Files::none(tiny))
    }
}
