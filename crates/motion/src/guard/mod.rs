//! RAM that is kept as it was at one moment, while the guest writes on: copy before write.
//!
//! At that moment the guest stands still and all that it ever touched is
//! [write-protected](memory::userfault::WriteProtection). Then it goes on. Whoever writes a page that is
//! not copied yet waits until it is: a thread of the guard copies it into a buffer and lets the writer
//! through; nobody waits for a disk. Those who write the copy stream the rest from RAM, and what lies in
//! buffers before it. Who copies what is decided by [`crate::ram::before_write`].
//!
//! Pages that were never touched need no protection: they are zero in the copy, whatever is written to
//! them later.
//!
//! Buffers are bounded. When all are full, writers wait for those who write the copy; when that takes
//! longer than the patience, or anything fails, the copy is given up: everything is let through, at
//! once, by whoever notices.

mod buffers;
mod protector;
mod report;
mod threads;

use crate::clock::{Moment, nanos};
use crate::fill::waits::Waits;
use crate::ram::before_write::{BeforeWrite, CHUNK_PAGES, Wanted};
use crate::rules::{Rule, keeps};
use crate::{MotionError, ram};
use buffers::{Buffers, Room};
use memory::userfault::{UserfaultError, WriteProtection};
use memory::{Backing, Guarding, GuestRam, PageRange, PageSet};
use rustix::event::EventfdFlags;
use snapshot::Buffer;
use state::{Code, Refusal};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use buffers::Waiting;
pub(crate) use buffers::{Copy, Next};
pub use protector::Protector;
pub use report::CopyReport;

/// Protected at once, in pages: what is set while nobody looks at the time.
const PART: u64 = (32 << 20) / memory::PAGE_SIZE;
/// More threads do not make it faster: the kernel's locks are in the way.
const MOST_THREADS: usize = 8;

/// Why RAM cannot be kept as it is, if that can be known beforehand.
pub(crate) fn refusals(ram: &Arc<GuestRam>) -> Vec<Refusal> {
    let refusal =
        |why: String, advice: &str| vec![Refusal::new(Code::CannotProtect, "memory", why, advice)];
    if ram.image().is_some() {
        let why = "the guest runs on the pages of a snapshot file (--mmap), which cannot be write-protected";
        return refusal(why.to_owned(), "take the snapshot with --at end");
    }
    if ram.memory_file().is_some() {
        let why = "it is in a memory file (--memory-file), which cannot be write-protected";
        return refusal(why.to_owned(), "take the snapshot with --at end");
    }
    if ram.backing() == Backing::Huge1G {
        let why = "pages of 1 GiB can only be copied whole, and the guest would wait for that";
        return refusal(why.to_owned(), "take the snapshot with --at end");
    }
    if ram.filling().is_some() {
        let why = "the guest's memory is still coming out of a file, and cannot be write-protected \
                   at the same time";
        let advice =
            "wait for the event x-whimbrel-memory-complete, or take the snapshot with --at end";
        return refusal(why.to_owned(), advice);
    }
    match WriteProtection::open(ram.clone()) {
        Ok(_) => Vec::new(),
        Err(e @ UserfaultError::None { .. }) => refusal(e.to_string(), "or use --at end"),
        Err(e) => refusal(e.to_string(), "use --at end"),
    }
}

/// Told why a copy was given up.
pub type Fail = Box<dyn Fn(MotionError) + Send + Sync>;

/// How RAM is kept.
#[derive(Debug, Clone, Copy)]
pub struct GuardOptions {
    /// How long whoever waits to write waits for the disk.
    pub patience: Duration,
    /// Bytes of copies that may wait to be written.
    pub buffered: u64,
    /// So many threads protect RAM, at most.
    pub threads: usize,
}

impl GuardOptions {
    /// As in life.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self { patience, buffered: buffers::LIMIT, threads: processors.min(MOST_THREADS) }
    }
}

/// RAM that is kept, or about to be.
pub struct Guard {
    protector: Arc<dyn Protector>,
    copies: BeforeWrite,
    buffers: Buffers,
    waits: Waits,
    options: GuardOptions,
    fail: Fail,
    /// Written to once, when there is nothing left to do.
    over: OwnedFd,
    lifted: AtomicBool,
    failed: AtomicBool,
    kept: AtomicU64,
    for_writers: AtomicU64,
    in_order: AtomicU64,
    /// What somebody waited to write.
    overwritten: Mutex<PageSet>,
    threads: AtomicUsize,
    protect: Mutex<Duration>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.copies.left();
        f.debug_struct("Guard").field("left", &left).field("lifted", &self.lifted).finish()
    }
}

impl Guard {
    /// Makes everything ready to keep `ram` as it is; nobody waits yet. `fail` is told, once, why a copy
    /// was given up.
    ///
    /// # Errors
    /// No userfaultfd, no threads.
    pub(crate) fn start(
        ram: &Arc<GuestRam>,
        patience: Duration,
        fail: Fail,
    ) -> Result<Arc<Self>, MotionError> {
        let protection = WriteProtection::open(ram.clone())
            .map_err(|e| MotionError::new(Code::CannotProtect, e.to_string()))?;
        protection.register().map_err(cannot("registering RAM with userfaultfd"))?;
        let protection = Arc::new(protection);
        let guard = Self::over(protection.clone(), GuardOptions::new(patience), fail)?;
        threads::start(&guard, &protection).map_err(|e| {
            guard.lift();
            cannot("starting threads to copy RAM")(e)
        })?;
        Ok(guard)
    }

    /// The same, without threads: whoever waits to write is [served](Self::try_serve) by others.
    ///
    /// # Errors
    /// No descriptors.
    pub fn over(
        protector: Arc<dyn Protector>,
        options: GuardOptions,
        fail: Fail,
    ) -> Result<Arc<Self>, MotionError> {
        let over = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| cannot("getting ready to copy RAM")(e.into()))?;
        let chunk_pages = CHUNK_PAGES.max(protector.unit());
        let ram = protector.ram().clone();
        let guard = Arc::new(Self {
            copies: BeforeWrite::new(ram.pages(), chunk_pages),
            buffers: Buffers::new(chunk_pages, options.buffered),
            protector,
            waits: Waits::default(),
            options,
            fail,
            over,
            lifted: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            kept: AtomicU64::new(0),
            for_writers: AtomicU64::new(0),
            in_order: AtomicU64::new(0),
            overwritten: Mutex::new(PageSet::new(ram.pages())),
            threads: AtomicUsize::new(0),
            protect: Mutex::default(),
        });
        ram.set_guarding(Some(guard.clone()));
        Ok(guard)
    }

    fn ram(&self) -> &Arc<GuestRam> {
        self.protector.ram()
    }

    /// Keeps RAM as it is now: writers wait from here on. The guest stands still. Which pages that is
    /// about; all others were never touched. In whole chunks of [`crate::ram::CHUNK_PAGES`].
    ///
    /// # Errors
    /// The kernel cannot, or it was not done by then; some writers may have to wait until
    /// [`Self::lift`].
    pub fn keep(
        &self,
        by: Option<Moment>,
        now: &(dyn Fn() -> Moment + Sync),
    ) -> Result<PageSet, MotionError> {
        let begun = Instant::now();
        let touched = self
            .ram()
            .resident_blocks(ram::CHUNK_PAGES)
            .map_err(cannot("looking for pages that were touched"))?;
        // Before the first of them is protected: whoever waits must find that there is something to copy.
        self.copies.keep(&touched);
        let parts: Vec<PageRange> = touched
            .runs()
            .flat_map(|run| {
                (run.start..run.end())
                    .step_by(usize::try_from(PART).expect("a part is addressable"))
                    .map(move |start| PageRange::new(start, PART.min(run.end() - start)))
            })
            .collect();
        let threads = self.options.threads.min(parts.len()).max(1);
        let next = AtomicUsize::new(usize::from(!keeps(Rule::AllIsProtected)));
        let protect = || -> Result<(), MotionError> {
            while let Some(part) = parts.get(next.fetch_add(1, Relaxed)) {
                if by.is_some_and(|by| by <= now()) {
                    let why = "write-protecting the guest's memory takes longer than the guest may \
                               stand still: allow more with --max-blackout";
                    return Err(MotionError::new(Code::BudgetExceeded, why));
                }
                self.protector.protect(*part).map_err(cannot("write-protecting RAM"))?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(protect)).collect();
            let own = protect();
            others.into_iter().fold(own, |result, other| {
                result.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        })?;
        self.kept.store(touched.count(), Relaxed);
        self.threads.store(threads, Relaxed);
        *self.protect.lock().unwrap_or_else(PoisonError::into_inner) = begun.elapsed();
        Ok(touched)
    }

    /// Pages for whoever writes the copy in its order, within a block: claimed and copied into `buffer`,
    /// from its beginning, where they were ever touched. Writers go on. No more than so many pages, or
    /// one chunk.
    ///
    /// # Errors
    /// RAM cannot be read, or writers cannot be let through.
    pub(crate) fn take(
        &self,
        block: PageRange,
        touched: &[PageRange],
        most: u64,
        buffer: &mut Buffer,
    ) -> Result<Option<PageRange>, MotionError> {
        let most = most.min(buffer.pages());
        let Some(range) = self.copies.claim(block, most) else { return Ok(None) };
        let parts = touched.iter().filter_map(|part| part.intersection(range));
        self.copy(range, parts, buffer)?;
        self.copied(range);
        self.in_order.fetch_add(range.count, Relaxed);
        Ok(Some(range))
    }

    /// What was copied for writers, one after the other, in no order.
    pub(crate) fn next_copy(&self) -> Option<Copy> {
        self.buffers.next()
    }

    /// The same, waiting for it, until nothing is left to copy or to write.
    pub(crate) fn last_copy(&self) -> Next {
        if self.is_done() {
            return Next::None;
        }
        self.buffers.wait(|| self.copies.left() == 0)
    }

    /// The same, without waiting.
    pub(crate) fn last_copy_now(&self) -> Next {
        if self.is_done() {
            return Next::None;
        }
        self.buffers.look(|| self.copies.left() == 0)
    }

    /// It was written.
    pub(crate) fn written(&self, copy: Copy) {
        self.buffers.give_back(copy.buffer);
    }

    /// The largest run that [`Self::take`] gives, in pages.
    pub(crate) fn piece(&self) -> u64 {
        threads::STREAM_PAGES.max(self.copies.chunk_pages())
    }

    /// Serves one writer that waits.
    fn serve(&self, page: u64, thread: u32) {
        let since = Instant::now();
        // The buffer first: while there is none, whoever streams may come by and let the writer through.
        let mut buffer = None;
        if self.copies.is_kept(page) {
            buffer = match self.buffers.get(self.options.patience, || self.is_done()) {
                Ok(buffer) => buffer,
                Err(waited) => return self.too_slow(waited),
            };
        }
        self.serve_with(page, thread, since, buffer);
    }

    /// The same, without waiting: `false` when there is no room for the copy now, and it is to be asked
    /// again, with the same `waiting`.
    pub fn try_serve(&self, page: u64, waiting: &mut Option<Waiting>, now: Instant) -> bool {
        let mut buffer = None;
        if self.copies.is_kept(page) {
            let room = self.buffers.try_get(waiting, now, self.options.patience, || self.is_done());
            buffer = match room {
                Room::Buffer(buffer) => Some(buffer),
                Room::Over => None,
                Room::Later => return false,
                Room::Late(waited) => {
                    self.too_slow(waited);
                    return true;
                }
            };
        }
        self.serve_with(page, 0, Instant::now(), buffer);
        true
    }

    /// Serves a writer that waits, with room for the copy if one is needed.
    fn serve_with(&self, page: u64, thread: u32, since: Instant, buffer: Option<Buffer>) {
        let chunk = page / self.copies.chunk_pages();
        let ask = || {
            // Without a buffer nothing may be claimed: somebody else has it, or all is over.
            let wanted = match buffer {
                Some(_) => self.copies.wanted(page),
                None if self.copies.is_kept(page) => Wanted::Underway,
                None => self.copies.wanted(page),
            };
            (wanted, wanted == Wanted::Underway)
        };
        let wanted = self.waits.ask(thread, chunk, since, ask);
        let served = match (wanted, buffer) {
            (Wanted::Copy(range), Some(mut buffer)) => {
                let copied = self.copy(range, std::iter::once(range), &mut buffer);
                if copied.is_ok() {
                    self.for_writers.fetch_add(range.count, Relaxed);
                    self.overwritten().insert(range);
                    self.buffers.queue(Copy { range, buffer });
                    self.copied(range);
                    self.waits.over_of(thread, since);
                }
                copied
            }
            (Wanted::Free(range), buffer) => {
                buffer.into_iter().for_each(|buffer| self.buffers.give_back(buffer));
                self.waits.over_of(thread, since);
                self.let_through(range)
            }
            (_, buffer) => {
                buffer.into_iter().for_each(|buffer| self.buffers.give_back(buffer));
                Ok(())
            }
        };
        if let Err(error) = served {
            self.give_up(error);
        }
    }

    /// Copies those parts of a range that was claimed, and lets its writers through.
    fn copy(
        &self,
        range: PageRange,
        parts: impl Iterator<Item = PageRange>,
        buffer: &mut Buffer,
    ) -> Result<(), MotionError> {
        if !keeps(Rule::CopyComesFirst) {
            self.let_through(range)?;
        }
        let at = |page: u64| usize::try_from((page - range.start) * memory::PAGE_SIZE);
        for part in parts {
            let bytes = at(part.start).and_then(|start| Ok(start..at(part.end())?));
            let bytes = bytes.ok().and_then(|bytes| buffer.as_mut_slice().get_mut(bytes));
            let room = || io::Error::from(io::ErrorKind::InvalidInput);
            bytes.ok_or_else(room).and_then(|bytes| self.ram().read(part, bytes)).map_err(|e| {
                let why = format!("reading guest RAM at {:#x}: {e}", part.offset());
                MotionError::new(Code::HostIo, why)
            })?;
        }
        self.let_through(range)
    }

    fn let_through(&self, range: PageRange) -> Result<(), MotionError> {
        match self.protector.let_through(range) {
            // Nothing is registered any more: all go through.
            Err(_) if self.is_done() => Ok(()),
            result => result.map_err(|e| {
                MotionError::new(Code::HostIo, format!("letting writes to guest RAM through: {e}"))
            }),
        }
    }

    /// A range that was claimed is copied, and writers were let through.
    fn copied(&self, range: PageRange) {
        self.copies.copied(range);
        for chunk in (range.start..range.end())
            .step_by(usize::try_from(self.copies.chunk_pages()).unwrap_or(usize::MAX))
        {
            self.waits.over(chunk / self.copies.chunk_pages());
        }
        if self.copies.left() == 0 {
            self.buffers.tell();
        }
    }

    /// Pages of chunks that were written before they were copied in their order: those that the guest
    /// used while the copy was taken.
    pub(crate) fn overwritten(&self) -> MutexGuard<'_, PageSet> {
        self.overwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_done(&self) -> bool {
        self.lifted.load(SeqCst)
    }

    /// Nobody writes the copies.
    fn too_slow(&self, waited: Duration) {
        let why = format!(
            "the guest waits to write its memory, {} MiB that it would have overwritten are copied and \
             not written to the file yet, and the disk has taken none of it for {} s: the snapshot is \
             given up",
            self.buffers.limit() >> 20,
            waited.as_secs()
        );
        self.give_up(MotionError::new(Code::LinkStalled, why));
    }

    /// Gives the copy up: everybody goes on before anybody is told.
    fn give_up(&self, error: MotionError) {
        // Before anybody can write what is not copied: from then on the copy is none.
        if self.is_done() || self.failed.swap(true, SeqCst) {
            return;
        }
        self.lift();
        (self.fail)(error);
    }

    /// Whether the copy was given up.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(SeqCst) && keeps(Rule::GivenUpIsNoCopy)
    }

    /// All was written that there was: nobody waits any more. How it went; nothing when the copy was given
    /// up meanwhile, and why is said otherwise.
    pub fn end(&self) -> Option<CopyReport> {
        if self.has_failed() {
            return None;
        }
        self.lift();
        Some(self.report())
    }

    /// Lets all writers through, for good. What is not copied by now never will be.
    pub fn lift(&self) {
        if self.lifted.swap(true, SeqCst) {
            return;
        }
        if let Err(error) = self.protector.unregister() {
            tracing::error!(%error, "guest RAM may still be write-protected");
        }
        self.ram().set_guarding(None);
        // It cannot fail: the counter is at most one.
        let _ = rustix::io::write(&self.over, &1u64.to_ne_bytes());
        self.buffers.tell();
    }

    /// How it went so far.
    #[must_use]
    pub fn report(&self) -> CopyReport {
        let (latency, waits) = self.waits.report();
        let (most, waited) = self.buffers.used();
        CopyReport {
            protected_pages: self.kept.load(Relaxed),
            protect_ns: nanos(*self.protect.lock().unwrap_or_else(PoisonError::into_inner)),
            protect_threads: self.threads.load(Relaxed),
            chunk_pages: self.copies.chunk_pages(),
            fault_pages: self.for_writers.load(Relaxed),
            streamed_pages: self.in_order.load(Relaxed),
            latency,
            waits,
            buffered_bytes: most,
            buffer_limit_bytes: self.buffers.limit(),
            buffer_waits: waited,
        }
    }
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> MotionError {
    move |e| MotionError::new(Code::CannotProtect, format!("{what}: {e}"))
}

impl Guarding for Guard {
    fn abandon(&self) {
        let why = "the machine has ended before all of its RAM was copied";
        self.give_up(MotionError::new(Code::GuestGone, why));
    }
}

#[cfg(test)]
mod tests;
