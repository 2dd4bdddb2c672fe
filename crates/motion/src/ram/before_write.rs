//! Which pages of RAM are yet to be copied as they were at one moment, while the guest writes on.
//!
//! RAM is dealt with in chunks. Each is *kept* (writes to it wait), then somebody is *copying* it, then
//! it is *free*. One atomic step decides who copies a chunk: whoever streams RAM in its order, or
//! whoever serves a writer that waits. No I/O here: who copies lets the writers through.

use memory::{PageRange, PageSet};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};

/// Pages of a chunk where RAM has small pages: what one writer's wait copies. 64 KiB, so that a guest that
/// writes its memory in order waits once for sixteen pages. One page takes some 10 µs to be copied and let
/// through, sixteen 30 to 50, sixty-four 200: that is what a write to a page that lies alone pays.
pub const CHUNK_PAGES: u64 = 16;

const FREE: u8 = 0;
const KEPT: u8 = 1;
const COPYING: u8 = 2;

/// What is to be done for a writer that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Copy these pages: they are the caller's. Then [`BeforeWrite::copied`].
    Copy(PageRange),
    /// Nothing: somebody is copying them, and lets the writer through.
    Underway,
    /// Let the writer through: there is nothing to copy.
    Free(PageRange),
}

/// How far the copy is.
#[derive(Debug)]
pub struct BeforeWrite {
    pages: u64,
    chunk_pages: u64,
    chunks: Box<[AtomicU8]>,
    /// Chunks that are not free.
    left: AtomicU64,
}

impl BeforeWrite {
    /// Of RAM of so many pages, in chunks of so many, all of them free.
    #[must_use]
    pub fn new(pages: u64, chunk_pages: u64) -> Self {
        let count = pages.div_ceil(chunk_pages);
        let chunks = (0..count).map(|_| AtomicU8::new(FREE)).collect();
        Self { pages, chunk_pages, chunks, left: AtomicU64::new(0) }
    }

    /// Pages that are copied as one.
    #[must_use]
    pub fn chunk_pages(&self) -> u64 {
        self.chunk_pages
    }

    /// Chunks that are not copied yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.load(SeqCst)
    }

    /// From now on all chunks with pages of the set are kept, which nobody has claimed before.
    pub fn keep(&self, set: &PageSet) {
        for run in set.runs() {
            let chunks = run.start / self.chunk_pages..run.end().div_ceil(self.chunk_pages);
            for chunk in chunks {
                if self.chunk(chunk).swap(KEPT, SeqCst) == FREE {
                    self.left.fetch_add(1, SeqCst);
                }
            }
        }
    }

    /// Whether the page is yet to be copied, and nobody is at it.
    #[must_use]
    pub fn is_kept(&self, page: u64) -> bool {
        page < self.pages && self.chunk(page / self.chunk_pages).load(SeqCst) == KEPT
    }

    /// What to do for whoever waits to write the page.
    #[must_use]
    pub fn wanted(&self, page: u64) -> Wanted {
        let chunk = (page / self.chunk_pages).min(self.chunks.len() as u64 - 1);
        let range = self.range(chunk, chunk + 1);
        match self.chunk(chunk).compare_exchange(KEPT, COPYING, SeqCst, SeqCst) {
            Ok(_) => Wanted::Copy(range),
            Err(COPYING) => Wanted::Underway,
            Err(_) => Wanted::Free(range),
        }
    }

    /// Claims the first chunks within `within` that are kept, as many as lie side by side, but no more
    /// than `most` pages, or one chunk.
    #[must_use]
    pub fn claim(&self, within: PageRange, most: u64) -> Option<PageRange> {
        let end = within.end().div_ceil(self.chunk_pages).min(self.chunks.len() as u64);
        let most = (most / self.chunk_pages).max(1);
        let take =
            |chunk| self.chunk(chunk).compare_exchange(KEPT, COPYING, SeqCst, SeqCst).is_ok();
        let first = (within.start / self.chunk_pages..end).find(|chunk| take(*chunk))?;
        let more = (first + 1..end.min(first + most)).take_while(|chunk| take(*chunk)).count();
        Some(self.range(first, first + 1 + more as u64))
    }

    /// Pages that were claimed are copied, and their writers were let through.
    pub fn copied(&self, range: PageRange) {
        let chunks = range.start / self.chunk_pages..range.end().div_ceil(self.chunk_pages);
        for chunk in chunks {
            if self.chunk(chunk).swap(FREE, SeqCst) != FREE {
                self.left.fetch_sub(1, SeqCst);
            }
        }
    }

    fn chunk(&self, chunk: u64) -> &AtomicU8 {
        &self.chunks[usize::try_from(chunk).expect("there are fewer chunks than pages")]
    }

    /// The pages of these chunks; the last may be shorter.
    fn range(&self, start: u64, end: u64) -> PageRange {
        let first = start * self.chunk_pages;
        PageRange::new(first, (end * self.chunk_pages).min(self.pages) - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: u64 = 1000;

    fn some_pages() -> impl Strategy<Value = PageSet> {
        proptest::collection::vec((0..PAGES, 1..200u64), 0..6).prop_map(|runs| {
            let mut set = PageSet::new(PAGES);
            for (start, count) in runs {
                set.insert(PageRange::new(start, count.min(PAGES - start)));
            }
            set
        })
    }

    proptest! {
        #[test]
        fn every_page_that_is_kept_is_copied_by_one(
            set in some_pages(),
            chunk in prop_oneof![Just(1u64), Just(16), Just(512)],
            asked in proptest::collection::vec((0..PAGES, 1..400u64, any::<bool>()), 0..40),
        ) {
            let copies = BeforeWrite::new(PAGES, chunk);
            copies.keep(&set);
            let mut seen = PageSet::new(PAGES);
            let mut take = |range: PageRange, most: u64| {
                assert_eq!(seen.count_in(range), 0, "copied twice");
                assert!(range.count <= most.max(chunk) && range.start.is_multiple_of(chunk));
                assert!(!copies.is_kept(range.start));
                seen.insert(range);
                assert!(matches!(copies.wanted(range.start), Wanted::Underway));
                copies.copied(range);
                assert!(matches!(copies.wanted(range.start), Wanted::Free(_)));
            };
            for (page, most, waits) in asked {
                if !waits {
                    let within = PageRange::new(page, PAGES - page);
                    copies.claim(within, most).into_iter().for_each(|range| take(range, most));
                } else if let Wanted::Copy(range) = copies.wanted(page) {
                    prop_assert!(range.start <= page && page < range.end());
                    take(range, chunk);
                }
            }
            while let Some(range) = copies.claim(PageRange::new(0, PAGES), 64) {
                take(range, 64);
            }
            prop_assert_eq!(copies.left(), 0);
            for page in 0..PAGES {
                let start = page / chunk * chunk;
                let whole = PageRange::new(start, chunk.min(PAGES - start));
                prop_assert_eq!(seen.contains(page), set.count_in(whole) > 0);
            }
        }
    }
}
