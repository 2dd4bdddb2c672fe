//! `whimbrel inspect`

mod about;
mod cbor;
mod diff;
mod page;
mod picture;
mod state;
mod time;
mod verify;

use crate::exit::Exit;
use crate::output::print_error;
use clap::ArgGroup;
use monitor::Error;
use motion::MotionError;
use snapshot::{Origin, Peek, ReadError, Reader};
use std::path::{Path, PathBuf};

/// Look into a snapshot file; no KVM is needed
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("what").args(["verify", "page", "state", "diff"])))]
#[command(after_help = "\
Examples:
  whimbrel inspect web.snap
  whimbrel inspect web.snap --verify
  whimbrel inspect web.snap --page 0x100000
  whimbrel inspect monday.snap --diff tuesday.snap")]
pub struct Inspect {
    /// The file
    file: PathBuf,
    /// Where in the file the snapshot begins, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// Check every page against its checksum; the status is 1 if anything is wrong
    #[arg(long)]
    verify: bool,
    /// Show the page at this guest-physical address
    #[arg(long, value_name = "ADDRESS", value_parser = page::address)]
    page: Option<u64>,
    /// Show the machine's description and state, as JSON
    #[arg(long)]
    state: bool,
    /// Show in what another snapshot differs
    #[arg(long, value_name = "OTHER")]
    diff: Option<PathBuf>,
    /// Answer with one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Inspect {
    pub fn run(self) -> anyhow::Result<Exit> {
        if self.verify {
            // Around the page cache: what is on the medium is to be checked.
            return match self.open(&self.file, true) {
                Ok(reader) => verify::run(&reader, self.json),
                // Whatever is wrong, not only with pages, has one status here.
                Err(error) => {
                    print_error(&error.into(), self.json);
                    Ok(Exit::Failed)
                }
            };
        }
        if let Some(address) = self.page {
            return page::run(&self.with_pages(&self.file)?, address, self.json);
        }
        if self.state {
            return state::run(&self.open(&self.file, false)?);
        }
        if let Some(other) = &self.diff {
            let (one, other) = (self.with_pages(&self.file)?, self.with_pages(other)?);
            return diff::run(&one, &other, self.json);
        }
        let peek = Peek::at(self.origin(&self.file)).map_err(error)?;
        let reader = Reader::open(self.origin(&self.file), false);
        about::run(&self.file, &peek, &reader.map_err(MotionError::from), self.json)
    }

    fn origin(&self, path: &Path) -> Origin {
        Origin::Path { path: path.to_owned(), offset: self.offset }
    }

    /// One whose pages are to be looked at.
    fn with_pages(&self, path: &Path) -> Result<Reader, Error> {
        let reader = self.open(path, false)?;
        reader.check_here().map_err(error)?;
        Ok(reader)
    }

    fn open(&self, path: &Path, direct: bool) -> Result<Reader, Error> {
        Reader::open(self.origin(path), direct).map_err(error)
    }
}

/// The file's name is in it.
fn error(error: ReadError) -> Error {
    MotionError::from(error).into()
}
