//! Whose the guest is: what the handover decides, and what follows from it.

use super::Terms;
use super::job::{Loaded, Phase, Restore, lock};
use crate::clock::nanos;
use crate::handover::{ContinuationPhase, Denial, FileInput, FileOutput, RunPermit};
use crate::report::ErrorReport;
use crate::{MotionError, Status};
use snapshot::Claim;
use state::Code;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

impl Restore {
    /// Takes a step, and does what follows from it.
    pub(super) fn step(&self, input: FileInput) -> Result<(), MotionError> {
        let (output, is_held) = {
            let mut decisions = lock(&self.decisions);
            if input == FileInput::Restored && self.cancelled.load(Ordering::Relaxed) {
                return Err(MotionError::new(Code::Cancelled, "it was cancelled"));
            }
            let output = decisions.handover.step(input);
            (output, decisions.handover.phase() == ContinuationPhase::Held)
        };
        match output.map_err(|denial| denied(denial, self.phase()))? {
            Some(FileOutput::WriteClaim) => return self.claim(),
            Some(FileOutput::Grant(permit)) => self.own(permit),
            Some(FileOutput::Discard) => lock(&self.decisions).loaded = None,
            None if is_held && input == FileInput::Restored => {
                self.enter(Phase::Held, Status::Completed);
                self.finish();
            }
            None => {}
        }
        Ok(())
    }

    /// Writes the claim. The guest runs once it is durable.
    fn claim(&self) -> Result<(), MotionError> {
        let before = std::mem::replace(&mut lock(&self.view).phase, Phase::Claiming);
        let begun = Instant::now();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let claim = Claim {
            host: self.options.claimant.host.clone(),
            boot: self.options.claimant.boot,
            time: nanos(since),
            token: self.token.0,
        };
        let again = self.options.terms == Terms::Reclaim;
        let reader = lock(&self.decisions).loaded.as_ref().map(|loaded| loaded.reader.clone());
        let gone = || MotionError::new(Code::Internal, "a guest is claimed that is not here");
        let written = reader
            .ok_or_else(gone)
            .and_then(|reader| reader.write_claim(&claim, again).map_err(MotionError::from));
        match written {
            Ok(()) => {
                self.note(|_, restore| restore.claim_ns = Some(nanos(begun.elapsed())));
                self.step(FileInput::ClaimWritten)
            }
            Err(error) => {
                lock(&self.view).phase = before;
                self.step(FileInput::ClaimFailed)?;
                Err(error)
            }
        }
    }

    /// The guest is this side's: it runs, unless it is a copy that is to stay stopped.
    fn own(&self, permit: RunPermit) {
        let Some(Loaded { machine, .. }) = lock(&self.decisions).loaded.take() else {
            tracing::error!("a guest is granted that is not here");
            return;
        };
        let runs = self.phase() == Phase::Claiming || !self.options.paused;
        let mut has_run = false;
        if runs {
            match machine.run(permit) {
                Ok(()) => {
                    let running_for = machine.running_for().unwrap_or_default();
                    let first = self.begun.elapsed().saturating_sub(running_for);
                    self.note(|_, restore| restore.first_instruction_ns = Some(nanos(first)));
                    has_run = true;
                }
                Err(error) => {
                    tracing::error!(%error, "the guest is ours and could not be started");
                    let (code, why) = (error.code, error.to_string());
                    self.note(|report, _| report.error = Some(ErrorReport { code, why }));
                }
            }
        } else {
            machine.grant(permit);
        }
        self.enter(Phase::Owner, Status::Completed);
        if has_run {
            self.observer.resumed();
        }
        self.finish();
    }
}

/// Why something is not done, in the words of a restore.
pub(super) fn denied(denial: Denial, phase: Phase) -> MotionError {
    let why = match (denial, phase) {
        (Denial::TooLate, Phase::Claiming) => "it is too late: the guest is being claimed",
        (Denial::TooLate, _) => "it is too late: the guest is here",
        (_, Phase::Claiming) => "the guest is being claimed, and runs in a moment",
        (_, Phase::Ended) => "the restore has failed",
        _ => "the guest is still being read from its file",
    };
    MotionError::new(denial.code(), why)
}
