//! Pages and runs of pages.

/// Size of a page in bytes: the unit of dirty tracking and of everything on the wire, whatever
/// backs the RAM.
pub const PAGE_SIZE: u64 = 4096;

/// Size of a huge page in bytes.
pub const HUGE_2M: u64 = 2 << 20;

/// A run of pages, by number within the RAM file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// The first page.
    pub start: u64,
    /// How many pages.
    pub count: u64,
}

impl PageRange {
    /// The run of `count` pages from `start`.
    #[must_use]
    pub const fn new(start: u64, count: u64) -> Self {
        Self { start, count }
    }

    /// The page after the last. Saturates, so that a hostile run stays out of any bounds.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.count)
    }

    /// Offset of the run in the RAM file, in bytes.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.start * PAGE_SIZE
    }

    /// Length of the run in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.count * PAGE_SIZE
    }

    /// Whether the run is not empty and lies within the first `pages` pages. Overflow is outside.
    #[must_use]
    pub const fn is_within(self, pages: u64) -> bool {
        match self.start.checked_add(self.count) {
            Some(end) => self.count > 0 && end <= pages,
            None => false,
        }
    }

    /// What the two runs have in common, if anything.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Self::new(start, end - start))
    }
}
