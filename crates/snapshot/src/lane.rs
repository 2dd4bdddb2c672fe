//! What one thread writes pages with.

use crate::WriteError;
use crate::buffer::Buffer;
use crate::checksum;
use crate::places::PAGE;
use crate::writer::Writer;
use memory::{GuestRam, PAGE_SIZE, PageRange};
use std::sync::Arc;

/// Pages that are written at once: a MiB, beside which a system call is nothing.
/// `cargo run --release -p whimbrel-snapshot --example rates` measures what comes of it.
const PIECE: usize = 256;
/// Pages that are copied at once: they stay in the processor's cache while they are looked at.
const COPY: usize = 32;

const ZERO: [u8; PAGE] = [0; PAGE];

/// What became of pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneTotals {
    /// Pages that had something in them.
    pub data: u64,
    /// Pages that were zero.
    pub zero: u64,
    /// Bytes of pages that go to the file.
    pub bytes: u64,
}

impl std::ops::AddAssign for LaneTotals {
    fn add_assign(&mut self, other: Self) {
        self.data += other.data;
        self.zero += other.zero;
        self.bytes += other.bytes;
    }
}

/// Writes pages, on one thread. What it took may wait in its buffer until [`Lane::flush`].
#[derive(Debug)]
pub struct Lane {
    writer: Arc<Writer>,
    /// Private copies of pages: what was summed is what is written, whatever the guest does.
    buffer: Buffer,
    /// Pages at the beginning of `buffer` that are in use. The last of them, as many as there are
    /// `sums`, are a run of pages that waits to be written.
    filled: usize,
    /// The first page of that run.
    start: u64,
    sums: Vec<u32>,
}

impl Lane {
    pub(crate) fn new(writer: Arc<Writer>) -> Self {
        let buffer = Buffer::new(PIECE as u64);
        Self { writer, buffer, filled: 0, start: 0, sums: Vec::with_capacity(PIECE) }
    }

    /// Writes pages that were touched, at their place: a private copy of each, with its checksum.
    /// Zero ones become holes.
    ///
    /// A page may be written again, by any lane, once the lane that wrote it was flushed.
    ///
    /// # Errors
    /// [`WriteError`]; the snapshot can only be abandoned then.
    pub fn write(&mut self, ram: &GuestRam, range: PageRange) -> Result<LaneTotals, WriteError> {
        self.writer.check(range)?;
        let mut totals = LaneTotals::default();
        let mut zeroes = PageRange::new(range.start, 0);
        let mut at = range.start;
        while at < range.end() {
            if self.filled == PIECE || at != self.waiting().end() {
                self.flush()?;
            }
            let room = (PIECE - self.filled).min(COPY) as u64;
            let part = PageRange::new(at, room.min(range.end() - at));
            self.copy(ram, part)?;
            for page in part.start..part.end() {
                let bytes = &self.buffer.as_slice()[self.filled * PAGE..(self.filled + 1) * PAGE];
                if *bytes != ZERO {
                    if self.sums.is_empty() {
                        self.start = page;
                    }
                    self.sums.push(checksum::of(bytes));
                    totals.data += 1;
                } else {
                    self.write_run()?;
                    totals.zero += 1;
                    if zeroes.end() != page {
                        self.clear(zeroes)?;
                        zeroes = PageRange::new(page, 0);
                    }
                    zeroes.count += 1;
                }
                self.filled += 1;
            }
            at = part.end();
        }
        self.clear(zeroes)?;
        totals.bytes = totals.data * PAGE_SIZE;
        Ok(totals)
    }

    /// Writes pages of which `copy` holds a private copy, from its page `from` on, at their place: all
    /// that is next to each other at once. Zero ones become holes. None of them waits in this lane.
    ///
    /// # Errors
    /// [`WriteError`]; the snapshot can only be abandoned then.
    pub fn write_copied(
        &mut self,
        range: PageRange,
        copy: &Buffer,
        from: u64,
    ) -> Result<LaneTotals, WriteError> {
        self.writer.check(range)?;
        let place = |page: u64| usize::try_from(page.checked_mul(PAGE_SIZE)?).ok();
        let end = from.checked_add(range.count).and_then(place);
        let copy = place(from).zip(end).and_then(|(from, end)| copy.as_slice().get(from..end));
        let Some(copy) = copy else {
            return Err(self.writer.misused("pages are to be written that were not copied"));
        };
        let mut totals = LaneTotals::default();
        let mut at = range.start;
        for run in copy.as_chunks::<PAGE>().0.chunk_by(|a, b| (*a == ZERO) == (*b == ZERO)) {
            let pages = PageRange::new(at, run.len() as u64);
            if run[0] == ZERO {
                self.clear(pages)?;
                totals.zero += pages.count;
            } else {
                let sums: Vec<u32> = run.iter().map(|page| checksum::of(page)).collect();
                self.writer.put(at, run.as_flattened(), &sums)?;
                totals.data += pages.count;
            }
            at = pages.end();
        }
        totals.bytes = totals.data * PAGE_SIZE;
        Ok(totals)
    }

    /// Notes pages that read as zero and need not be looked at: never touched, or discarded.
    ///
    /// # Errors
    /// [`WriteError`]; the snapshot can only be abandoned then.
    pub fn absent(&mut self, range: PageRange) -> Result<LaneTotals, WriteError> {
        self.writer.check(range)?;
        if self.waiting().intersection(range).is_some() {
            self.flush()?;
        }
        self.clear(range)?;
        Ok(LaneTotals { zero: range.count, ..LaneTotals::default() })
    }

    /// Writes what waits in the buffer.
    ///
    /// # Errors
    /// [`WriteError`]; the snapshot can only be abandoned then.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.write_run()?;
        self.filled = 0;
        Ok(())
    }

    fn waiting(&self) -> PageRange {
        PageRange::new(self.start, self.sums.len() as u64)
    }

    /// Copies pages behind those in the buffer, which has room for them.
    fn copy(&mut self, ram: &GuestRam, part: PageRange) -> Result<(), WriteError> {
        let from = self.filled * PAGE;
        let room = self.buffer.as_mut_slice().get_mut(from..).unwrap_or_default();
        let length = usize::try_from(part.bytes()).unwrap_or(usize::MAX).min(room.len());
        ram.copy(part, &mut room[..length])
            .map_err(|source| WriteError::Ram { range: part, source })
    }

    fn write_run(&mut self) -> Result<(), WriteError> {
        if !self.sums.is_empty() {
            let from = self.filled - self.sums.len();
            let bytes = &self.buffer.as_slice()[from * PAGE..self.filled * PAGE];
            self.writer.put(self.start, bytes, &self.sums)?;
            self.sums.clear();
        }
        Ok(())
    }

    fn clear(&self, range: PageRange) -> Result<(), WriteError> {
        if range.count > 0 { self.writer.clear(range) } else { Ok(()) }
    }
}
