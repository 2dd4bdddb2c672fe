//! Where handover records are kept.

mod dir;
mod memory;

use super::{Key, Record, RecordError};
use std::io;
use std::path::PathBuf;

pub use dir::DirJournal;
pub use memory::MemoryJournal;

/// Keeps handover records, so that they outlive the process that wrote them.
///
/// A record belongs to the process that wrote it while that lives. They need not outlive the host: a
/// guest does not either, and no record means that nothing is known.
pub trait Journal {
    /// Writes a record, in place of what was there under its key. When it fails, what was there is
    /// still there.
    ///
    /// # Errors
    /// [`JournalError`]
    fn put(&mut self, record: &Record) -> Result<(), JournalError>;

    /// Removes a record of this process. No-op where there is none.
    ///
    /// # Errors
    /// [`JournalError`]
    fn remove(&mut self, key: Key) -> Result<(), JournalError>;

    /// Reads a record, whoever it belongs to.
    ///
    /// # Errors
    /// [`JournalError`]
    fn get(&self, key: Key) -> Result<Option<Record>, JournalError>;

    /// Takes over the record of a process that is dead, to speak for it as its
    /// [`Witness`](super::Witness).
    ///
    /// # Errors
    /// [`JournalError::InUse`] while the process that it belongs to lives.
    fn adopt(&mut self, key: Key) -> Result<Option<Record>, JournalError>;

    /// What records there are, whoever they belong to, in no particular order.
    ///
    /// # Errors
    /// [`JournalError`]
    fn list(&self) -> Result<Vec<Key>, JournalError>;
}

/// Why a handover record could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("cannot {doing} the handover record {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file holds no record that this build can read.
    #[error("cannot read the handover record {}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The record belongs to another process.
    #[error("the handover record {} belongs to another process that is running", .0.display())]
    InUse(PathBuf),
    /// A [`MemoryJournal`] was told to fail.
    #[error("the handover journal was told to fail")]
    ToldTo,
}

#[cfg(test)]
mod tests;
