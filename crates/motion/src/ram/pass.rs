//! One sweep over a set of pages, shared out in chunks.

use crate::rules::{Rule, keeps};
use memory::{PageRange, PageSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

    /// Has all workers end as soon as they can.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether it was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
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
}
