//! What was waited for, and what was fetched for which reason.

use super::Reason;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Faults, by what was done about them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FaultTotals {
    /// The chunk was fetched for it.
    pub fetched: u64,
    /// The chunk was being fetched already.
    pub underway: u64,
    /// The page is not the source's to have, or was there by the time that the fault was looked at.
    pub zero: u64,
}

/// Pages that have come, by the reason for which their chunk was fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FetchTotals {
    /// Somebody waited for a page of the chunk.
    pub fault: u64,
    /// The engine wanted to look at it.
    pub asked: u64,
    /// It lay near one that somebody waited for.
    pub near: u64,
    /// It had been in use last.
    pub recent: u64,
    /// Its turn had come.
    pub sequential: u64,
}

impl FetchTotals {
    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let Self { fault, asked, near, recent, sequential } = *self;
        fault + asked + near + recent + sequential
    }
}

/// As they grow.
#[derive(Debug, Default)]
pub(super) struct Totals {
    fetched: AtomicU64,
    underway: AtomicU64,
    zero: AtomicU64,
    pages: [AtomicU64; 5],
}

impl Totals {
    pub fn count_fetched(&self) {
        self.fetched.fetch_add(1, Relaxed);
    }

    pub fn count_underway(&self) {
        self.underway.fetch_add(1, Relaxed);
    }

    pub fn count_zero(&self) {
        self.zero.fetch_add(1, Relaxed);
    }

    pub fn count_pages(&self, reason: Reason, pages: u64) {
        self.pages[reason as usize].fetch_add(pages, Relaxed);
    }

    pub fn read(&self) -> (FaultTotals, FetchTotals) {
        let pages = |reason: Reason| self.pages[reason as usize].load(Relaxed);
        let faults = FaultTotals {
            fetched: self.fetched.load(Relaxed),
            underway: self.underway.load(Relaxed),
            zero: self.zero.load(Relaxed),
        };
        let fetched = FetchTotals {
            fault: pages(Reason::Fault),
            asked: pages(Reason::Asked),
            near: pages(Reason::Near),
            recent: pages(Reason::Recent),
            sequential: pages(Reason::Sequential),
        };
        (faults, fetched)
    }
}
