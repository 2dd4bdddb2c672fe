//! RAM that comes on demand: who fetches which chunk, and in which order. Pure, without I/O.
//!
//! Each chunk is fetched by whoever claims it, with one atomic step; all others go on to the next,
//! or wait. The order is: what somebody waits for, what lies near it, what was in use last, the rest.

mod latency;
mod plan;
mod totals;
mod words;

use memory::{PageRange, PageSet};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use latency::{Latency, LatencyReport};
pub use plan::ranges;
use totals::Totals;
pub use totals::{FaultTotals, FetchTotals};
use words::Words;

/// Pages of a chunk, unless what backs RAM asks for more: 64 KiB.
pub const CHUNK_PAGES: u64 = 16;

/// Chunks before and after one that was waited for, which come next.
const BEFORE: u64 = 1;
const AFTER: u64 = 4;
/// How many faults are remembered for their neighbours' sake.
const REMEMBERED: usize = 64;

/// Why a chunk is fetched when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The guest, or somebody on its behalf, waits for it.
    Fault,
    /// The engine wants to look at it.
    Asked,
    /// It lies near one that the guest waited for.
    Near,
    /// The guest used it last.
    Recent,
    /// Its turn has come.
    Sequential,
}

/// The right to fetch some adjacent chunks, and the duty to [finish](OnDemand::finish) them or
/// [give them back](OnDemand::give_back).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Claim {
    id: u64,
    chunks: Range<u64>,
    /// Why now.
    pub reason: Reason,
}

impl Claim {
    /// The chunks.
    #[must_use]
    pub fn chunks(&self) -> Range<u64> {
        self.chunks.clone()
    }
}

/// What is to be done about a page that somebody waits for.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Fetch its chunk.
    Fetch(Claim),
    /// Somebody else is fetching it, who will find it [wanted](OnDemand::finish).
    Underway,
    /// The source does not have it, or it was provided before (and discarded since, if it is
    /// missing): it is zero.
    Zero,
}

/// Where a chunk stands; the lowest bits of its word. The highest are the claim's id.
mod state {
    /// The source has no page of it.
    pub const NONE: u64 = 0;
    /// Nobody has come to it.
    pub const TO_COME: u64 = 1;
    /// Somebody is getting it from the source.
    pub const CLAIMED: u64 = 2;
    /// It is being put into RAM.
    pub const INSTALLING: u64 = 3;
    /// It is in RAM.
    pub const PRESENT: u64 = 4;

    pub const MASK: u64 = 7;
    /// Somebody waits for it.
    pub const WANTED: u64 = 8;
    pub const ID_SHIFT: u32 = 4;
}
use state::{CLAIMED, ID_SHIFT, INSTALLING, MASK, NONE, PRESENT, TO_COME, WANTED};

/// The state of all chunks of one machine's RAM.
#[derive(Debug)]
pub struct OnDemand {
    /// The pages that the source has.
    present: PageSet,
    chunk_pages: u64,
    words: Words,
    /// How many chunks are yet to come.
    left: AtomicU64,
    next_id: AtomicU64,
    /// Chunks that the engine asked for, or that were given back.
    asked: Mutex<VecDeque<u64>>,
    /// Chunks near those that were waited for, the last first.
    near: Mutex<VecDeque<Range<u64>>>,
    /// Chunks with pages that were in use last.
    recent: Vec<u64>,
    next_recent: AtomicUsize,
    next: AtomicU64,
    totals: Totals,
}

impl OnDemand {
    /// Nothing has come yet of `present`, which the source has. `recent` are the pages that were in
    /// use last: a hint, which may be empty or wrong. `chunk_pages` is a power of two.
    #[must_use]
    pub fn new(present: PageSet, recent: &PageSet, chunk_pages: u64) -> Self {
        assert!(chunk_pages.is_power_of_two(), "chunks of {chunk_pages} pages");
        let chunks = present.pages().div_ceil(chunk_pages);
        let mut words = Words::new(chunks);
        let mut left = 0;
        for chunk in chunks_with(&present, chunk_pages) {
            *words.insert(chunk) = AtomicU64::new(TO_COME);
            left += 1;
        }
        let is_ours =
            |chunk: &u64| words.get(*chunk).is_some_and(|word| word.load(Relaxed) == TO_COME);
        let recent = chunks_with(recent, chunk_pages).filter(is_ours).collect();
        Self {
            present,
            chunk_pages,
            words,
            left: AtomicU64::new(left),
            next_id: AtomicU64::new(1),
            asked: Mutex::default(),
            near: Mutex::default(),
            recent,
            next_recent: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            totals: Totals::default(),
        }
    }

    /// The pages that the source has.
    #[must_use]
    pub fn present(&self) -> &PageSet {
        &self.present
    }

    /// Pages of a chunk.
    #[must_use]
    pub fn chunk_pages(&self) -> u64 {
        self.chunk_pages
    }

    /// How many chunks are yet to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.load(Acquire)
    }

    /// The pages of these chunks.
    #[must_use]
    pub fn pages_of(&self, chunks: Range<u64>) -> PageRange {
        let start = chunks.start * self.chunk_pages;
        let end = (chunks.end * self.chunk_pages).min(self.present.pages());
        PageRange::new(start, end.saturating_sub(start))
    }

    /// Somebody waits for this page.
    #[must_use]
    pub fn fault(&self, page: u64) -> Answer {
        let chunk = page / self.chunk_pages;
        // Within small chunks each page is there or not by itself; large ones are huge pages, which
        // come as a whole.
        let is_whole = self.chunk_pages != CHUNK_PAGES;
        if !is_whole && !self.present.contains(page) {
            self.totals.count_zero();
            return Answer::Zero;
        }
        let Some(word) = self.words.get(chunk) else {
            self.totals.count_zero();
            return Answer::Zero;
        };
        loop {
            let seen = word.load(Acquire);
            match seen & MASK {
                TO_COME => {
                    if let Some(claim) = self.claim(chunk..chunk + 1, Reason::Fault, WANTED) {
                        self.remember(chunk);
                        self.totals.count_fetched();
                        return Answer::Fetch(claim);
                    }
                }
                CLAIMED | INSTALLING => {
                    if word.compare_exchange(seen, seen | WANTED, AcqRel, Acquire).is_ok() {
                        self.totals.count_underway();
                        return Answer::Underway;
                    }
                }
                _ => {
                    self.totals.count_zero();
                    return Answer::Zero;
                }
            }
        }
    }

    /// What to fetch next, when nobody waits: at most so many adjacent chunks. `None` when all that
    /// is left is being fetched.
    #[must_use]
    pub fn next(&self, most: u64) -> Option<Claim> {
        let up_to = |chunk: u64| chunk..(chunk + most).min(self.words.chunks());
        while let Some(chunk) = self.asked().pop_front() {
            if let Some(claim) = self.claim(chunk..chunk + 1, Reason::Asked, WANTED) {
                return Some(claim);
            }
        }
        if let Some(claim) = self.next_near(most) {
            return Some(claim);
        }
        while let Some(chunk) = self.recent.get(self.next_recent.fetch_add(1, Relaxed)) {
            // What follows may be recent too, and is adjacent: it is passed over when its own turn
            // comes.
            if let Some(claim) = self.claim(up_to(*chunk), Reason::Recent, 0) {
                return Some(claim);
            }
        }
        loop {
            let chunk = self.next.fetch_add(1, Relaxed);
            if chunk >= self.words.chunks() {
                return None;
            }
            if let Some(claim) = self.claim(up_to(chunk), Reason::Sequential, 0) {
                // Another may have the counter by now: it only ever grows.
                self.next.fetch_max(claim.chunks.end, Relaxed);
                return Some(claim);
            }
            self.next.fetch_max(self.words.after(chunk), Relaxed);
        }
    }

    /// The chunks near the last fault that have some.
    fn next_near(&self, most: u64) -> Option<Claim> {
        loop {
            let window = self.near().pop_front()?;
            for chunk in window.clone() {
                let end = (chunk + most).min(window.end);
                if let Some(claim) = self.claim(chunk..end, Reason::Near, 0) {
                    if claim.chunks.end < window.end {
                        self.near().push_front(claim.chunks.end..window.end);
                    }
                    return Some(claim);
                }
            }
        }
    }

    /// Claims as many of these chunks as are to come, from the first on.
    fn claim(&self, chunks: Range<u64>, reason: Reason, wanted: u64) -> Option<Claim> {
        let id = self.next_id.fetch_add(1, Relaxed);
        let claimed = id << ID_SHIFT | CLAIMED | wanted;
        let take = |chunk: &u64| {
            let take = |seen| (seen & MASK == TO_COME).then_some(claimed | seen & WANTED);
            self.words.get(*chunk).is_some_and(|w| w.fetch_update(AcqRel, Acquire, take).is_ok())
        };
        let start = chunks.start;
        let count = chunks.take_while(take).count() as u64;
        (count > 0).then(|| Claim { id, chunks: start..start + count, reason })
    }

    /// Before a chunk of the claim is put into RAM: `false` if the claim to it was
    /// [revoked](Self::revoke), and its contents must go nowhere.
    #[must_use]
    pub fn begin(&self, claim: &Claim, chunk: u64) -> bool {
        self.change(claim.id, chunk, CLAIMED, INSTALLING).is_some()
    }

    /// After a chunk was put into RAM. Whether somebody waited for it.
    #[must_use]
    pub fn finish(&self, claim: &Claim, chunk: u64) -> bool {
        let Some(before) = self.change(claim.id, chunk, INSTALLING, PRESENT) else {
            return false;
        };
        let pages = self.present.count_in(self.pages_of(chunk..chunk + 1));
        self.totals.count_pages(claim.reason, pages);
        self.left.fetch_sub(1, AcqRel);
        before & WANTED != 0
    }

    /// Gives back what was not finished of the claim.
    pub fn give_back(&self, claim: &Claim) {
        for from in [CLAIMED, INSTALLING] {
            self.return_chunks(claim, from);
        }
    }

    /// Takes the claim from somebody who does not answer. What is being put into RAM at this moment
    /// stays with them.
    pub fn revoke(&self, claim: &Claim) {
        self.return_chunks(claim, CLAIMED);
    }

    fn return_chunks(&self, claim: &Claim, from: u64) {
        for chunk in claim.chunks() {
            if self.change(claim.id, chunk, from, TO_COME).is_some() {
                self.asked().push_back(chunk);
            }
        }
    }

    /// Takes a chunk that this claim holds from one state to another; what it was before, if it did.
    fn change(&self, id: u64, chunk: u64, from: u64, to: u64) -> Option<u64> {
        let held = id << ID_SHIFT | from;
        let change = |seen: u64| (seen & !WANTED == held).then_some(seen & !MASK | to);
        self.words.get(chunk)?.fetch_update(AcqRel, Acquire, change).ok()
    }

    /// Has what is to come of these pages come before others. Whether all of them are there.
    #[must_use]
    pub fn ask(&self, range: PageRange) -> bool {
        let mut are_there = true;
        for chunk in self.chunks_of(range) {
            let mark = |seen: u64| {
                matches!(seen & MASK, TO_COME | CLAIMED | INSTALLING).then_some(seen | WANTED)
            };
            let Some(word) = self.words.get(chunk) else { continue };
            let Ok(before) = word.fetch_update(AcqRel, Acquire, mark) else { continue };
            are_there = false;
            // One that is wanted and yet to come has been put there before.
            if before & (MASK | WANTED) == TO_COME {
                self.asked().push_back(chunk);
            }
        }
        are_there
    }

    /// Whether none of these pages is yet to come.
    #[must_use]
    pub fn are_there(&self, range: PageRange) -> bool {
        self.chunks_of(range)
            .filter_map(|chunk| self.words.get(chunk))
            .all(|word| matches!(word.load(Acquire) & MASK, NONE | PRESENT))
    }

    /// What was waited for, and what was fetched.
    #[must_use]
    pub fn totals(&self) -> (FaultTotals, FetchTotals) {
        self.totals.read()
    }

    fn chunks_of(&self, range: PageRange) -> Range<u64> {
        let end = range.end().min(self.present.pages()).div_ceil(self.chunk_pages);
        (range.start / self.chunk_pages).min(end)..end
    }

    /// Has the neighbours of a chunk that was waited for come next.
    fn remember(&self, chunk: u64) {
        let end = (chunk + 1 + AFTER).min(self.words.chunks());
        let mut near = self.near();
        near.push_front(chunk.saturating_sub(BEFORE)..end);
        near.truncate(REMEMBERED);
    }

    fn asked(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn near(&self) -> MutexGuard<'_, VecDeque<Range<u64>>> {
        self.near.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chunks that have pages of the set.
fn chunks_with(set: &PageSet, chunk_pages: u64) -> impl Iterator<Item = u64> {
    let mut next = 0;
    set.runs().flat_map(move |run| {
        let first = (run.start / chunk_pages).max(next);
        next = run.end().div_ceil(chunk_pages);
        first..next
    })
}

#[cfg(test)]
mod tests;
