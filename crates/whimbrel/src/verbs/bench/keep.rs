//! `whimbrel bench keep`

use super::cases::{Cases, Stored};
use crate::exit::Exit;
use bench::cases::KEEP;

/// Files: saves, snapshots and restores
#[derive(Debug, clap::Args)]
pub struct Keep {
    #[command(flatten)]
    pub cases: Cases,
    #[command(flatten)]
    stored: Stored,
}

impl Keep {
    pub fn run(self) -> anyhow::Result<Exit> {
        let Self { cases, stored } = self;
        cases.run(&KEEP, || stored.files())
    }
}
