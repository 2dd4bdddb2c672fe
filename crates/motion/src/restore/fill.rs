//! Filling RAM from a file, all of it, before the guest runs.

use crate::MotionError;
use memory::{GuestRam, PageRange};
use snapshot::{Buffer, Reader};
use state::Code;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Pages that a thread takes on at once, and has a buffer for.
const CHUNK: u64 = 256;

/// RAM on its way out of a file. Threads may look at it while others fill it.
pub(super) struct Fill<'a> {
    pub reader: &'a Reader,
    /// Where they go to, if they are not only to be verified.
    pub ram: Option<&'a GuestRam>,
    /// Pages that were taken.
    pub done: &'a AtomicU64,
    /// Somebody wants it to end.
    pub cancelled: &'a AtomicBool,
}

impl Fill<'_> {
    /// Puts every page that the file has into RAM, verified. What it has not is zero there already.
    /// `threads` of them read, this one among them.
    ///
    /// # Errors
    /// The first error of any thread. RAM then holds a part.
    pub fn run(&self, threads: usize) -> Result<(), MotionError> {
        let next = AtomicU64::new(0);
        let failure = Mutex::new(None);
        let work = || {
            if let Err(error) = self.work(&next) {
                // The others find nothing left to do.
                next.store(self.reader.present().pages(), Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        };
        thread::scope(|scope| {
            for index in 1..threads.max(1) {
                let worker = thread::Builder::new().name(format!("restore-{index}"));
                if let Err(error) = worker.spawn_scoped(scope, work) {
                    tracing::warn!(%error, "fewer threads than wanted fill RAM");
                    break;
                }
            }
            work();
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn work(&self, next: &AtomicU64) -> Result<(), MotionError> {
        let mut buffer = Buffer::new(CHUNK);
        let pages = self.reader.present().pages();
        loop {
            // A chunk is given out once, whoever asks.
            let start = next.fetch_add(CHUNK, Ordering::Relaxed);
            if start >= pages {
                return Ok(());
            }
            let chunk = PageRange::new(start, CHUNK.min(pages - start));
            for run in self.reader.present().runs_in(chunk) {
                if self.cancelled.load(Ordering::Relaxed) {
                    let why = "it was cancelled while RAM was being filled";
                    return Err(MotionError::new(Code::Cancelled, why));
                }
                self.take(run, &mut buffer)?;
            }
        }
    }

    /// Takes pages out of the file and puts them into RAM.
    fn take(&self, run: PageRange, buffer: &mut Buffer) -> Result<(), MotionError> {
        self.reader.read(run, buffer)?;
        if let Some(ram) = self.ram {
            ram.prepare(run);
            let failed =
                |why: String| MotionError::new(Code::HostIo, format!("filling RAM: {why}"));
            let slice = ram.slice(run).map_err(|e| failed(e.to_string()))?;
            let bytes = buffer.as_slice().get(..slice.len());
            let short = || failed("a run is longer than its buffer".to_owned());
            slice.copy_from(bytes.ok_or_else(short)?);
        }
        self.done.fetch_add(run.count, Ordering::Relaxed);
        Ok(())
    }
}
