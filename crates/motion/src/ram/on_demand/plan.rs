//! Which ranges raise faults.

use memory::{PageRange, PageSet};

/// The ranges, of whole chunks, in which faults are served: few enough that the kernel keeps a
/// mapping for each, and as little as possible of what the source does not have, since that costs
/// the guest a fault served here instead of one by the kernel.
#[must_use]
pub fn ranges(present: &PageSet, chunk_pages: u64, most: usize) -> Vec<PageRange> {
    let whole = |run: PageRange| {
        let start = run.start / chunk_pages * chunk_pages;
        let end = run.end().next_multiple_of(chunk_pages).min(present.pages());
        PageRange::new(start, end - start)
    };
    let mut ranges = joined(present.runs().map(whole), 0);
    let mut gap = chunk_pages;
    while ranges.len() > most.max(1) {
        ranges = joined(ranges.into_iter(), gap);
        gap = gap.saturating_mul(2);
    }
    ranges
}

/// Joins runs that have no more than so many pages between them.
fn joined(runs: impl Iterator<Item = PageRange>, gap: u64) -> Vec<PageRange> {
    let mut joined: Vec<PageRange> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if run.start <= last.end().saturating_add(gap) => {
                last.count = run.end() - last.start;
            }
            _ => joined.push(run),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_few_and_whole_and_hold_every_page_that_is_to_come(
            pages in 1u64..2000, chunk in 0u32..6, most in 1usize..20,
            runs in proptest::collection::vec((0u64..2000, 1u64..40), 0..60),
        ) {
            let chunk = 1u64 << chunk;
            let pages = pages.next_multiple_of(chunk);
            let mut present = PageSet::new(pages);
            runs.iter().for_each(|(start, count)| present.insert(PageRange::new(*start, *count)));
            let ranges = ranges(&present, chunk, most);
            prop_assert!(ranges.len() <= most);
            let mut held = PageSet::new(pages);
            for range in &ranges {
                prop_assert!(range.start % chunk == 0 && range.count % chunk == 0);
                prop_assert!(range.is_within(pages));
                held.insert(*range);
            }
            prop_assert!(ranges.windows(2).all(|w| w[0].end() < w[1].start));
            let mut missing = present.clone();
            missing.subtract(&held);
            prop_assert!(missing.is_empty());
        }
    }

    #[test]
    fn where_there_are_few_nothing_is_registered_that_the_source_does_not_have() {
        let mut present = PageSet::new(1000);
        present.insert(PageRange::new(3, 2));
        present.insert(PageRange::new(15, 2));
        present.insert(PageRange::new(64, 16));
        let expected = [PageRange::new(0, 32), PageRange::new(64, 16)];
        assert_eq!(ranges(&present, 16, 10), expected);
        assert_eq!(ranges(&present, 16, 1), [PageRange::new(0, 80)]);
    }
}
