//! Checking all pages.

use crate::buffer::Buffer;
use crate::places::PAGE;
use crate::reader::Reader;
use crate::{ReadError, checksum};
use memory::{PAGE_SIZE, PageRange};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::ops::Range;
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

    /// Whether the pages that are said to be zero are so in the file, as whoever maps it sees it.
    ///
    /// # Errors
    /// [`ReadError::BadPage`] for the first that is not; [`ReadError::Io`] when it cannot be read.
    pub fn check_absent(&self) -> Result<(), ReadError> {
        self.check_here()?;
        let mut buffer = Buffer::new(PIECE);
        let mut gap = 0;
        let pages = self.present().pages();
        for run in self.present().runs().chain([PageRange::new(pages, 0)]) {
            self.check_gap(gap..run.start, &mut buffer)?;
            gap = run.end();
        }
        Ok(())
    }

    fn check_gap(&self, gap: Range<u64>, buffer: &mut Buffer) -> Result<(), ReadError> {
        let Range { start: mut at, end } = gap;
        while at < end {
            match rustix::fs::seek(self.file.storage.file(), SeekFrom::Data(self.place_of(at))) {
                Ok(data) => at += data.saturating_sub(self.place_of(at)) / PAGE_SIZE,
                // Nothing but a hole from there on.
                Err(Errno::NXIO) => return Ok(()),
                // Where holes are not told of, all is read.
                Err(_) => {}
            }
            if at >= end {
                return Ok(());
            }
            let count = PIECE.min(end - at);
            let length = usize::try_from(count).expect("a piece at most") * PAGE;
            let bytes = &mut buffer.as_mut_slice()[..length];
            self.file.read("reading pages", bytes, self.pages_offset + at * PAGE_SIZE)?;
            for (page, contents) in (at..).zip(bytes.chunks_exact(PAGE)) {
                if contents.iter().any(|byte| *byte != 0) {
                    let (found, expected) = (checksum::of(contents), checksum::of(&[0; PAGE]));
                    let (name, offset) = (self.file.name.clone(), self.place_of(page));
                    return Err(ReadError::BadPage { name, page, offset, found, expected });
                }
            }
            at += count;
        }
        Ok(())
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
