//! `whimbrel bench move`

use super::cases::{Cases, Files};
use crate::exit::Exit;
use bench::cases::MOVE;

/// Moves between real processes
#[derive(Debug, clap::Args)]
pub struct Move {
    #[command(flatten)]
    pub cases: Cases,
}

impl Move {
    pub fn run(self) -> anyhow::Result<Exit> {
        self.cases.run(&MOVE, Files::none)
    }
}
