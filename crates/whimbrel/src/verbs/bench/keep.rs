//! `whimbrel bench keep`

use super::cases::{Cases, Files};
use crate::exit::Exit;
use anyhow::Context;
use bench::Place;
use bench::cases::KEEP;
use bench::host::storage;
use std::path::PathBuf;

/// Files: saves, snapshots and restores
#[derive(Debug, clap::Args)]
pub struct Keep {
    #[command(flatten)]
    pub cases: Cases,
    /// Where the files go: some 12 GiB, in a folder of their own that is removed in the end. What is
    /// measured is the storage that this is on
    #[arg(long, value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Make everything a sixteenth of its size: shows whether it works, and says nothing of how fast
    #[arg(long)]
    tiny: bool,
}

impl Keep {
    pub fn run(self) -> anyhow::Result<Exit> {
        let Self { cases, folder, tiny } = self;
        cases.run(&KEEP, || {
            let shown = folder.display();
            let cannot = || format!("cannot make a folder for the benchmark in {shown}");
            let inside = std::path::absolute(&folder).with_context(cannot)?;
            let inside = tempfile::tempdir_in(inside).with_context(cannot)?;
            let storage = storage(inside.path()).with_context(cannot)?;
            let storage =
                if tiny { format!("{storage}; a trial, everything tiny") } else { storage };
            let place = Place::new(inside.path().to_owned(), tiny);
            Ok(Files { place, _folder: inside, storage: Some(storage) })
        })
    }
}
