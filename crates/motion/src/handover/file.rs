//! The handover of a guest from a file, as the engine sees it.

use super::decide::{Continuation, ContinuationPhase, Entitlement, FileInput, FileOutput};
use super::{Denial, RunPermit};

/// A guest on its way from a file to this process. It gives out the guest's permit, once.
#[derive(Debug)]
#[must_use = "it is the only way to the guest's permit"]
pub struct FileHandover(Continuation);

impl FileHandover {
    /// Begins: the file entitles to this. `paused` is a guest that stays stopped until an operator
    /// says `cont`, and is claimed no sooner.
    pub fn begin(entitlement: Entitlement, paused: bool) -> Self {
        Self(Continuation::new(entitlement, paused))
    }

    /// Takes one step, and says what is to be done then.
    ///
    /// # Errors
    /// [`Denial`]; it is as it was.
    pub fn step(&mut self, input: FileInput) -> Result<Option<FileOutput<RunPermit>>, Denial> {
        Ok(self.0.step(input)?.map(|output| match output {
            FileOutput::WriteClaim => FileOutput::WriteClaim,
            FileOutput::Grant(()) => FileOutput::Grant(RunPermit::of_decided_handover(())),
            FileOutput::Discard => FileOutput::Discard,
        }))
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> ContinuationPhase {
        self.0.phase()
    }
}
