//! `whimbrel bench renew`

use super::cases::{Cases, Files};
use crate::exit::Exit;
use bench::cases::RENEW;

/// New processes under a guest that stays where it is
#[derive(Debug, clap::Args)]
pub struct Renew {
    #[command(flatten)]
    pub cases: Cases,
}

impl Renew {
    pub fn run(self) -> anyhow::Result<Exit> {
        self.cases.run(&RENEW, Files::none)
    }
}
