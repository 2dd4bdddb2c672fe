//! `whimbrel bench renew`

use super::cases::{Cases, Stored};
use crate::exit::Exit;
use bench::cases::RENEW;

/// New processes and programs under a guest that stays where it is
#[derive(Debug, clap::Args)]
pub struct Renew {
    #[command(flatten)]
    pub cases: Cases,
    #[command(flatten)]
    stored: Stored,
}

impl Renew {
    pub fn run(self) -> anyhow::Result<Exit> {
        let Self { cases, stored } = self;
        cases.run(&RENEW, || stored.files())
    }
}
