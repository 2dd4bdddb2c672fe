//! One sweep over a set of pages, shared out in chunks.

use crate::rules::{Rule, keeps};
use memory::{DirtyLog, DirtyLogError, PageRange, PageSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Pages of a chunk: what one worker claims, rearms and sends as a whole. 2 MiB, so that a huge
/// page is never shared out between workers and rearming costs one call for each.
pub const CHUNK_PAGES: u64 = 512;

/// What a pass may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassKind {
    /// The first: nothing was sent before, and the destination's RAM is all zero. Pages that are
    /// zero, or were never touched, need not be sent.
    First,
    /// A later one: a page that became zero must be said to be zero.
    Later,
}

/// A pass: the set of pages to send, and how far its workers are. Claims are handed out without
/// locks, each chunk once.
#[derive(Debug)]
pub struct Pass {
    number: u32,
    kind: PassKind,
    set: PageSet,
    /// Whether writes are being logged, so that pages must be rearmed before they are read.
    logged: bool,
    next: AtomicU64,
    stopped: AtomicBool,
    /// Shared by whoever rearms.
    rearming: RwLock<()>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Totals {
    seen: AtomicU64,
    data: AtomicU64,
    zero: AtomicU64,
    skipped: AtomicU64,
    bytes: AtomicU64,
}

/// What a pass, or a part of it, has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PassTotals {
    /// Pages of the set that were dealt with.
    pub seen: u64,
    /// Pages sent with contents.
    pub data: u64,
    /// Pages sent as zero.
    pub zero: u64,
    /// Pages found zero or never touched, and left out.
    pub skipped: u64,
    /// Bytes of contents and tables.
    pub bytes: u64,
}

impl PassTotals {
    /// Adds what another part has sent.
    pub fn add(&mut self, other: Self) {
        let Self { seen, data, zero, skipped, bytes } = other;
        self.seen += seen;
        self.data += data;
        self.zero += zero;
        self.skipped += skipped;
        self.bytes += bytes;
    }
}

impl Pass {
    /// A pass over `set`.
    #[must_use]
    pub fn new(number: u32, kind: PassKind, set: PageSet, logged: bool) -> Self {
        Self {
            number,
            kind,
            set,
            logged,
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            rearming: RwLock::default(),
            totals: Totals::default(),
        }
    }

    /// Its number, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What it may leave out.
    #[must_use]
    pub fn kind(&self) -> PassKind {
        self.kind
    }

    /// The pages to send.
    #[must_use]
    pub fn set(&self) -> &PageSet {
        &self.set
    }

    /// Whether pages must be rearmed before they are read.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        self.logged
    }

    /// Has writes to a chunk's pages be logged again. Whether the pass still goes on: if it was stopped
    /// nothing is rearmed.
    ///
    /// # Errors
    /// As of [`DirtyLog::rearm`].
    pub fn rearm(&self, log: &dyn DirtyLog, chunk: PageRange) -> Result<bool, DirtyLogError> {
        let _rearming = self.rearming.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopped() {
            return Ok(false);
        }
        log.rearm(&self.set, chunk).map(|()| true)
    }

    /// The next chunk that has pages to send, for whoever asks first. `None` when there are no
    /// more, or the pass was stopped.
    #[must_use]
    pub fn claim(&self) -> Option<PageRange> {
        while !self.is_stopped() {
            let start = self.next.fetch_add(CHUNK_PAGES, Ordering::Relaxed);
            if start >= self.set.pages() {
                return None;
            }
            let chunk = PageRange::new(start, CHUNK_PAGES.min(self.set.pages() - start));
            if !keeps(Rule::EveryChunkIsSent) && start == CHUNK_PAGES {
                continue;
            }
            if self.set.runs_in(chunk).next().is_some() {
                return Some(chunk);
            }
        }
        None
    }

    /// Has all workers end as soon as they can. None of them rearms a page any more once this returns:
    /// nobody may wait for one that hangs, and the log can be the next motion's by the time it goes on, which
    /// would miss what the guest had written.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(self.rearming.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether it was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Counts what a worker has sent.
    pub fn count(&self, part: PassTotals) {
        let PassTotals { seen, data, zero, skipped, bytes } = part;
        self.totals.seen.fetch_add(seen, Ordering::Relaxed);
        self.totals.data.fetch_add(data, Ordering::Relaxed);
        self.totals.zero.fetch_add(zero, Ordering::Relaxed);
        self.totals.skipped.fetch_add(skipped, Ordering::Relaxed);
        self.totals.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What all workers have sent so far.
    #[must_use]
    pub fn totals(&self) -> PassTotals {
        PassTotals {
            seen: self.totals.seen.load(Ordering::Relaxed),
            data: self.totals.data.load(Ordering::Relaxed),
            zero: self.totals.zero.load(Ordering::Relaxed),
            skipped: self.totals.skipped.load(Ordering::Relaxed),
            bytes: self.totals.bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    #[test]
    fn every_page_is_claimed_once() {
        let mut set = PageSet::new(3 * CHUNK_PAGES + 7);
        set.insert(PageRange::new(5, 1));
        set.insert(PageRange::new(2 * CHUNK_PAGES + 511, 500));
        let pass = Pass::new(1, PassKind::First, set.clone(), false);
        let mut seen = PageSet::new(set.pages());
        while let Some(chunk) = pass.claim() {
            for run in set.runs_in(chunk) {
                assert_eq!(seen.count_in(run), 0);
                seen.insert(run);
            }
        }
        assert_eq!(seen, set);
    }

    #[test]
    fn a_stopped_pass_gives_out_nothing_more() {
        let pass = Pass::new(1, PassKind::First, PageSet::full(5 * CHUNK_PAGES), false);
        assert!(pass.claim().is_some());
        pass.stop();
        assert!(pass.claim().is_none());
    }

    /// A log that says when it begins to rearm, and goes on when it may.
    struct Slow {
        begun: Sender<PageRange>,
        go_on: Mutex<Receiver<()>>,
    }

    impl DirtyLog for Slow {
        fn start(&self) -> Result<(), DirtyLogError> {
            Ok(())
        }

        fn collect(&self, _: &mut PageSet) -> Result<(), DirtyLogError> {
            Ok(())
        }

        fn rearm(&self, _: &PageSet, range: PageRange) -> Result<(), DirtyLogError> {
            self.begun.send(range).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
            Ok(())
        }

        fn stop(&self) -> Result<(), DirtyLogError> {
            Ok(())
        }
    }

    #[test]
    fn a_chunk_that_was_claimed_is_not_rearmed_once_its_pass_is_stopped() {
        let (begun, begins) = channel();
        let (let_go, go_on) = channel();
        let log = Slow { begun, go_on: Mutex::new(go_on) };
        let pass = Pass::new(1, PassKind::First, PageSet::full(2 * CHUNK_PAGES), true);
        let (first, second) = (pass.claim().unwrap(), pass.claim().unwrap());
        std::thread::scope(|scope| {
            let rearming = scope.spawn(|| pass.rearm(&log, first).unwrap());
            assert_eq!(begins.recv().unwrap(), first);
            let stopping = scope.spawn(|| pass.stop());
            while !pass.is_stopped() {
                std::thread::yield_now();
            }
            assert!(!stopping.is_finished(), "it waits for whoever is at it");
            let_go.send(()).unwrap();
            assert!(rearming.join().unwrap());
            stopping.join().unwrap();
        });
        assert!(!pass.rearm(&log, second).unwrap());
        assert!(begins.try_recv().is_err(), "the log is somebody else's");
    }
}
