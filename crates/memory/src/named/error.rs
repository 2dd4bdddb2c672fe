//! Why a named file cannot be a machine's RAM.

use std::io;
use std::path::PathBuf;

/// Why a [`MemoryFile`](super::MemoryFile) cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryFileError {
    /// Another process has it.
    #[error("the memory file {} is in use: a machine runs on it, or is about to", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is not empty, and nobody said that what is in it may go.
    #[error(
        "the memory file {} holds the RAM of a guest: continue that with `whimbrel restore` from the \
         state that was saved for it, or give it up with --discard-memory", path.display()
    )]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// It is something of which no RAM can be mapped that lasts.
    #[error("{} cannot be a memory file: it is {what}", path.display())]
    NotUsable {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Its file system has not enough room for all of RAM.
    #[error(
        "the memory file {} may grow to {needed} bytes, and its file system has {free} left: make \
         room, or use --overcommit if the guest will never use all of it", path.display()
    )]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Bytes of RAM.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Nothing says what is in it.
    #[error(
        "{} does not say what the memory file beside it holds: it was never written, is damaged, or \
         is of a later version", sidecar.display()
    )]
    Unknown {
        /// The sidecar.
        sidecar: PathBuf,
    },
    /// It holds the RAM of something else than what was expected.
    #[error("the memory file {} is another one than the state was saved with: {why}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// In what it differs.
        why: String,
    },
    /// The guest ran on in it.
    #[error(
        "the guest ran on in the memory file {} after this state was saved (its generation is {now}, \
         and the state is of {saved}): they do not belong together any more", path.display()
    )]
    RanOn {
        /// The file.
        path: PathBuf,
        /// The generation of the state.
        saved: u64,
        /// The generation of the file.
        now: u64,
    },
    /// A system call failed.
    #[error("{action} {} failed: {source}", path.display())]
    System {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
