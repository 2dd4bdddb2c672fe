//! One worker's way into a file, for RAM that is kept as it was at one moment.

use super::super::workers::Carry;
use super::lane::{FileLane, WRITING, count};
use super::patience::LIMIT;
use crate::guard::{Copy, Guard, Next};
use crate::ram::{PIECE_PAGES, Pass, PassTotals};
use crate::{MachineError, MotionError, SourceMachine};
use memory::PageRange;
use snapshot::Buffer;
use state::Code;
use std::sync::Arc;

/// Writes pages as they were when the guard began to keep them: those that writers waited for, which lie
/// in buffers, and all others in their order.
pub struct BeforeWriteLane {
    file: FileLane,
    guard: Arc<Guard>,
    /// Pages are let through when they are copied, before they are written: nobody waits for the disk.
    buffer: Buffer,
}

impl BeforeWriteLane {
    /// One that writes to this file what this guard keeps.
    #[must_use]
    pub fn new(file: FileLane, guard: Arc<Guard>) -> Self {
        let buffer = Buffer::new(guard.piece());
        Self { file, guard, buffer }
    }

    /// Writes what others copied.
    fn write_copies(
        &mut self,
        pass: &Pass,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<PassTotals, MotionError> {
        let mut totals = PassTotals::default();
        while !pass.is_stopped() {
            let Some(copy) = self.guard.next_copy() else { break };
            let written = self.write_copy(copy, pass)?;
            pace(written.bytes);
            totals.add(written);
        }
        Ok(totals)
    }

    fn write_copy(&mut self, copy: Copy, pass: &Pass) -> Result<PassTotals, MotionError> {
        let mut totals = PassTotals { seen: copy.range.count, ..PassTotals::default() };
        put(&mut self.file, copy.range, &copy.buffer, 0, pass, &mut totals)?;
        self.guard.written(copy);
        Ok(totals)
    }

    /// Writes the pages of one claimed chunk, as [`FileLane::write`] does.
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
        self.carry(machine, pass, chunk, pace)
    }

    /// Writes one of the copies that are left when nothing is left to stream, without waiting for one.
    /// `false` when there is none and none will come.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_last(&mut self, pass: &Pass) -> Result<bool, MotionError> {
        match self.guard.last_copy_now() {
            Next::Copy(copy) => {
                let totals = self.write_copy(copy, pass)?;
                pass.count(totals);
                Ok(true)
            }
            Next::Later => Ok(true),
            Next::None => Ok(false),
        }
    }

    /// As many pages as the bandwidth limit wants at once.
    fn most(&self, paced: u64) -> u64 {
        if paced < PIECE_PAGES { paced } else { self.buffer.pages() }
    }
}

/// Writes a run of pages, of which the copy begins at this page of the buffer.
fn put(
    file: &mut FileLane,
    range: PageRange,
    buffer: &Buffer,
    from: u64,
    pass: &Pass,
    totals: &mut PassTotals,
) -> Result<(), MotionError> {
    let FileLane { lane, patience, .. } = file;
    let written = patience.during(WRITING, LIMIT, || lane.write_copied(range, buffer, from));
    count(written.map_err(|e| file.failed(&e))?, pass.kind(), totals);
    Ok(())
}

impl Carry for BeforeWriteLane {
    fn carry(
        &mut self,
        machine: &dyn SourceMachine,
        pass: &Pass,
        chunk: PageRange,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<PassTotals, MotionError> {
        // Pages that are touched only now are zero in the copy, whether they are found here or not.
        let touched = machine.ram().touched(chunk).map_err(|e| {
            MachineError::new(Code::HostIo, "looking for pages that were touched", e)
        })?;
        let mut totals = PassTotals::default();
        let mut most = pace(0);
        loop {
            // Each of them is a buffer that the next writer may need.
            totals.add(self.write_copies(pass, pace)?);
            if pass.is_stopped() {
                break;
            }
            let most_now = self.most(most);
            let Some(range) = self.guard.take(chunk, &touched, most_now, &mut self.buffer)? else {
                break;
            };
            let before = totals.bytes;
            totals.seen += range.count;
            let mut there = 0;
            for part in touched.iter().filter_map(|part| part.intersection(range)) {
                let from = part.start - range.start;
                put(&mut self.file, part, &self.buffer, from, pass, &mut totals)?;
                there += part.count;
            }
            totals.skipped += range.count - there;
            most = pace(totals.bytes - before);
        }
        Ok(totals)
    }

    fn end(
        &mut self,
        pass: &Pass,
        _: PassTotals,
        pace: &mut dyn FnMut(u64) -> u64,
    ) -> Result<(), MotionError> {
        while !pass.is_stopped() {
            match self.guard.last_copy() {
                Next::Copy(copy) => {
                    let totals = self.write_copy(copy, pass)?;
                    pass.count(totals);
                    pace(totals.bytes);
                }
                Next::Later => {}
                Next::None => break,
            }
        }
        Ok(())
    }
}
