//! `whimbrel bench move`

use super::cases::{Cases, Files};
use crate::exit::Exit;
use anyhow::Context;
use bench::Place;
use bench::cases::MOVE;

/// Moves between real processes
#[derive(Debug, clap::Args)]
pub struct Move {
    #[command(flatten)]
    pub cases: Cases,
}

impl Move {
    pub fn run(self) -> anyhow::Result<Exit> {
        self.cases.run(&MOVE, || {
            let folder = tempfile::tempdir().context("cannot make a folder for the benchmark")?;
            let place = Place::new(folder.path().to_owned(), false);
            Ok(Files { place, _folder: folder, storage: None })
        })
    }
}
