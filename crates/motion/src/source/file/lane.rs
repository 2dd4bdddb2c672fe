//! One worker's way into a file.

use super::super::workers::Carry;
use super::patience::{LIMIT, Patience};
use crate::ram::{Carrier, Pass, PassKind, PassTotals, walk_chunk};
use crate::{MachineError, MotionError, SourceMachine};
use memory::PageRange;
use snapshot::{Lane, LaneTotals, WriteError};
use std::sync::Arc;
use std::time::Instant;

/// Writes pages at their places.
pub struct FileLane {
    pub(super) lane: Lane,
    pub(super) patience: Arc<Patience>,
    path: String,
}

impl FileLane {
    pub(super) fn new(lane: Lane, epoch: Instant, path: &str) -> Self {
        Self { lane, patience: Arc::new(Patience::new(epoch)), path: path.to_owned() }
    }

    /// How it is known whether it hangs.
    pub(super) fn patience(&self) -> Arc<Patience> {
        self.patience.clone()
    }

    /// Writes the pages of one claimed chunk. `pace` is told after each piece how many bytes it took,
    /// and says how many pages the next may have.
    ///
    /// # Errors
    /// When the file cannot be written, or the machine's RAM not read.
    pub fn write(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        chunk: PageRange,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<PassTotals, MotionError> {
        let mut writing =
            Writing { lane: &mut self.lane, patience: &self.patience, machine, kind: pass.kind() };
        let written = walk_chunk(machine, pass, chunk, pace, &mut writing);
        written.map_err(|e| self.error(e))
    }

    /// Writes what waits to be written: the pass has nothing left.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), MotionError> {
        let Self { lane, patience, .. } = self;
        patience.during(WRITING, LIMIT, || lane.flush()).map_err(|e| self.error(LaneError::File(e)))
    }

    fn error(&self, error: LaneError) -> MotionError {
        match error {
            LaneError::Machine(error) => error.into(),
            LaneError::File(error) => self.failed(&error),
        }
    }

    /// What to say of a file that could not be written.
    pub(super) fn failed(&self, error: &WriteError) -> MotionError {
        MotionError::new(super::code(error), format!("writing {}: {error}", self.path))
    }
}

impl Carry for FileLane {
    fn carry(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        chunk: PageRange,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<PassTotals, MotionError> {
        self.write(machine, pass, chunk, pace)
    }

    fn end(
        &mut self,
        _: &Pass,
        _: PassTotals,
        _: &mut dyn FnMut(u64) -> u64,
    ) -> Result<(), MotionError> {
        self.flush()
    }
}

pub(super) const WRITING: &str = "writing a page";

/// A lane at work on a chunk.
struct Writing<'a> {
    lane: &'a mut Lane,
    patience: &'a Patience,
    machine: &'a dyn SourceMachine,
    kind: PassKind,
}

#[derive(Debug, thiserror::Error)]
enum LaneError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    File(#[from] WriteError),
}

impl Carrier for Writing<'_> {
    type Error = LaneError;

    fn touched(&mut self, piece: PageRange, totals: &mut PassTotals) -> Result<(), LaneError> {
        let Self { lane, patience, machine, kind } = self;
        let written = patience.during(WRITING, LIMIT, || lane.write(machine.ram(), piece))?;
        count(written, *kind, totals);
        Ok(())
    }

    fn zero(&mut self, range: PageRange, totals: &mut PassTotals) -> Result<(), LaneError> {
        let Self { lane, patience, kind, .. } = self;
        let written = patience.during(WRITING, LIMIT, || lane.absent(range))?;
        count(written, *kind, totals);
        Ok(())
    }
}

pub(super) fn count(written: LaneTotals, kind: PassKind, totals: &mut PassTotals) {
    let LaneTotals { data, zero, bytes } = written;
    totals.data += data;
    totals.bytes += bytes;
    match kind {
        PassKind::First => totals.skipped += zero,
        PassKind::Later => totals.zero += zero,
    }
}
