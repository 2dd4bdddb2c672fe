//! Pages and runs of pages.

/// Size of a page in bytes: the unit of dirty tracking and of everything on the wire, whatever
/// backs the RAM.
pub const PAGE_SIZE: u64 = 4096;

/// Size of a huge page in bytes.
pub const HUGE_2M: u64 = 2 << 20;
/// Size in bytes of the largest huge page of x86-64.
pub const HUGE_1G: u64 = 1 << 30;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers at which arithmetic goes wrong, and those between which it cannot.
    const EDGES: [u64; 13] = [
        0,
        1,
        2,
        63,
        64,
        65,
        1 << 52,
        (1 << 52) + 1,
        1 << 60,
        1 << 63,
        u64::MAX - 64,
        u64::MAX - 1,
        u64::MAX,
    ];

    /// Every run of which both numbers are small or near an edge.
    fn runs() -> impl Iterator<Item = PageRange> + Clone {
        let numbers = (0..8).chain(EDGES);
        numbers
            .clone()
            .flat_map(move |start| numbers.clone().map(move |count| PageRange::new(start, count)))
    }

    fn true_end(run: PageRange) -> u128 {
        u128::from(run.start) + u128::from(run.count)
    }

    #[test]
    fn whether_a_run_lies_within_is_decided_as_without_overflow() {
        for (run, pages) in runs().flat_map(|run| EDGES.map(|pages| (run, pages))) {
            let within = run.count > 0 && true_end(run) <= u128::from(pages);
            assert_eq!(run.is_within(pages), within, "{run:?} of {pages}");
            assert_eq!(u128::from(run.end()), true_end(run).min(u64::MAX.into()), "{run:?}");
        }
    }

    #[test]
    fn what_two_runs_have_in_common_is_what_every_page_says() {
        for (a, b) in runs().flat_map(|a| runs().map(move |b| (a, b))) {
            let common = a.intersection(b);
            assert_eq!(common, b.intersection(a));
            let (start, end) = (a.start.max(b.start), a.end().min(b.end()));
            match common {
                Some(run) => {
                    assert_eq!((run.start, run.end()), (start, end), "{a:?} and {b:?}");
                    assert!(run.count > 0);
                }
                None => assert!(start >= end, "{a:?} and {b:?}"),
            }
        }
    }

    #[test]
    fn a_run_within_the_largest_ram_has_an_offset_and_a_length() {
        // 64 TiB, the most that a machine can have.
        let most = (64 << 40) / PAGE_SIZE;
        for run in runs().filter(|run| run.is_within(most)) {
            assert_eq!(u128::from(run.offset()), u128::from(run.start) * 4096);
            assert_eq!(u128::from(run.bytes()), u128::from(run.count) * 4096);
        }
    }
}
