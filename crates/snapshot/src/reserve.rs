//! Space that is taken before it is written.
//!
//! Where several lanes write to what is a hole as yet, a file system finds room for each piece by
//! itself, while others wait, and the pieces lie where there was room. Taken as a whole beforehand the
//! same space lies in one piece, and writing to it is a third faster on ext4.

use crate::storage::Failure;
use crate::writer::Writer;
use memory::PageRange;

/// Runs of fewer pages are not worth a call: 2 MiB.
const LEAST: u64 = 512;

impl Writer {
    /// Takes the space of pages that will most likely be written, before any is. It is a hint: where
    /// that cannot be had nothing is lost, and [`Writer::finish`] gives back what was not needed.
    pub fn reserve(&self, runs: &[PageRange]) {
        let runs = runs.iter().filter(|run| run.count >= LEAST && self.check(**run).is_ok());
        let runs: Vec<PageRange> = runs.copied().collect();
        let needed: u64 = runs.iter().map(|run| run.bytes()).sum();
        // Pages that turn out to be zero must not be what fills the disk.
        if needed == 0 || self.storage.room() < needed.saturating_add(needed / 8) {
            return;
        }
        let mut reserved = self.reserved();
        for run in runs {
            // It may have been taken in part.
            reserved.push(run);
            if let Err(Failure { action, source, .. }) =
                self.storage.reserve(self.place_of(run), run.bytes())
            {
                tracing::debug!(error = %source, "{action}: pages are written without");
                return;
            }
        }
    }

    /// Makes holes of what was reserved and not written.
    pub(crate) fn give_back(&self) -> Result<(), Failure> {
        for run in std::mem::take(&mut *self.reserved()) {
            for gap in self.blocks.absent(run) {
                self.storage.give_back(self.place_of(gap), gap.bytes())?;
            }
        }
        Ok(())
    }
}
