//! Checking all pages.

use crate::ReadError;
use crate::buffer::Buffer;
use crate::reader::Reader;
use memory::PageRange;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

/// Pages that are read at once.
const PIECE: u64 = 256;

/// A page that is not what was written, or cannot be read.
#[derive(Debug)]
pub struct Fault {
    /// Number of the page in RAM's file.
    pub page: u64,
    /// Where the guest has it.
    pub address: u64,
    /// Where it is in the file, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub error: ReadError,
}

impl Reader {
    /// Checks all pages, on so many threads. `progress` is told, on the calling thread and from time
    /// to time, how many of the [`Reader::present`] have been checked. Gives the faults by rising page.
    pub fn verify(&self, threads: usize, progress: &dyn Fn(u64)) -> Vec<Fault> {
        let pages = self.present().pages();
        let next = AtomicU64::new(0);
        let (done, finished) = mpsc::channel();
        let mut faults = std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                let (next, done) = (&next, done.clone());
                scope.spawn(move || {
                    let mut buffer = Buffer::new(PIECE);
                    loop {
                        let start = next.fetch_add(PIECE, Ordering::Relaxed);
                        if start >= pages {
                            break;
                        }
                        let piece = PageRange::new(start, PIECE.min(pages - start));
                        let count = self.present().count_in(piece);
                        if count > 0 && done.send((count, self.faults(piece, &mut buffer))).is_err()
                        {
                            break;
                        }
                    }
                });
            }
            drop(done);
            let mut checked = 0;
            let mut faults = Vec::new();
            for (count, found) in finished {
                checked += count;
                faults.extend(found);
                progress(checked);
            }
            faults
        });
        faults.sort_by_key(|fault| fault.page);
        faults
    }

    /// The faults among these pages: all at once, and one by one where something is wrong.
    fn faults(&self, piece: PageRange, buffer: &mut Buffer) -> Vec<Fault> {
        let mut faults = Vec::new();
        for run in self.present().runs_in(piece) {
            if self.read(run, buffer).is_ok() {
                continue;
            }
            for page in run.start..run.end() {
                if let Err(error) = self.read(PageRange::new(page, 1), buffer) {
                    let (address, offset) = (self.header().address_of(page), self.place_of(page));
                    faults.push(Fault { page, address, offset, error });
                }
            }
        }
        faults
    }
}
