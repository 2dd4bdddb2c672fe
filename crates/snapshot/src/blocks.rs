//! Which pages the file has, and their checksums, while several lanes write.

use crate::places::{BLOCK_PAGES, PAGE};
use memory::PageRange;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const WORDS: usize = PAGE / 4 / 64;
const SUMS: usize = PAGE / 4;

/// What is known of the pages of one block of the checksum table.
#[derive(Debug)]
struct Block {
    present: [AtomicU64; WORDS],
    sums: [AtomicU32; SUMS],
}

/// Presence and checksums of all pages. Memory is taken only for blocks in which pages are present.
///
/// A page is written by one lane at a time; later passes come after the lanes were joined, which
/// orders the accesses: relaxed ones do.
#[derive(Debug)]
pub(crate) struct Blocks(Vec<OnceLock<Box<Block>>>);

fn split(page: u64) -> (usize, usize) {
    let narrow = |number: u64| usize::try_from(number).expect("the caller has checked the page");
    (narrow(page / BLOCK_PAGES), narrow(page % BLOCK_PAGES))
}

impl Blocks {
    /// For so many blocks, all absent.
    pub(crate) fn new(blocks: u64) -> Self {
        Self((0..blocks).map(|_| OnceLock::new()).collect())
    }

    /// Notes that the page, which is within RAM, is in the file, with this checksum.
    pub(crate) fn set(&self, page: u64, sum: u32) {
        let (block, within) = split(page);
        let block = self.0[block].get_or_init(|| {
            Box::new(Block {
                present: [const { AtomicU64::new(0) }; WORDS],
                sums: [const { AtomicU32::new(0) }; SUMS],
            })
        });
        block.sums[within].store(sum, Ordering::Relaxed);
        block.present[within / 64].fetch_or(1 << (within % 64), Ordering::Relaxed);
    }

    /// Notes that pages, which are within RAM, are absent, and gives the runs of those that were
    /// present.
    pub(crate) fn clear(&self, range: PageRange) -> Vec<PageRange> {
        let mut runs: Vec<PageRange> = Vec::new();
        let mut page = range.start;
        while page < range.end() {
            let (block, within) = split(page);
            let Some(block) = self.0[block].get() else {
                page = (page / BLOCK_PAGES + 1) * BLOCK_PAGES;
                continue;
            };
            let bit = 1 << (within % 64);
            if block.present[within / 64].fetch_and(!bit, Ordering::Relaxed) & bit != 0 {
                block.sums[within].store(0, Ordering::Relaxed);
                match runs.last_mut() {
                    Some(run) if run.end() == page => run.count += 1,
                    _ => runs.push(PageRange::new(page, 1)),
                }
            }
            page += 1;
        }
        runs
    }

    /// The runs of pages of `range`, which is within RAM, that are absent.
    pub(crate) fn absent(&self, range: PageRange) -> Vec<PageRange> {
        let mut runs: Vec<PageRange> = Vec::new();
        let mut page = range.start;
        while page < range.end() {
            let (block, within) = split(page);
            let word = self.0[block].get().map(|block| &block.present[within / 64]);
            let word = word.map_or(0, |word| word.load(Ordering::Relaxed));
            let whole = (page / 64 + 1) * 64;
            let end = match word {
                // As a rule they are all there, or none is.
                0 => whole.min(range.end()),
                u64::MAX => {
                    page = whole;
                    continue;
                }
                _ if word >> (within % 64) & 1 == 1 => {
                    page += 1;
                    continue;
                }
                _ => page + 1,
            };
            match runs.last_mut() {
                Some(run) if run.end() == page => run.count += end - page,
                _ => runs.push(PageRange::new(page, end - page)),
            }
            page = end;
        }
        runs
    }

    /// The words of the presence bitmap: bit `p % 64` of word `p / 64` is page `p`.
    pub(crate) fn presence(&self) -> impl Iterator<Item = u64> {
        let words = |block: &OnceLock<Box<Block>>| -> [u64; WORDS] {
            std::array::from_fn(|word| {
                block.get().map_or(0, |block| block.present[word].load(Ordering::Relaxed))
            })
        };
        self.0.iter().flat_map(words)
    }

    /// The pages of the checksum table that have anything: their number, and their bytes.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (u64, [u8; PAGE])> {
        (0u64..).zip(&self.0).filter_map(|(number, block)| {
            let block = block.get()?;
            if block.present.iter().all(|word| word.load(Ordering::Relaxed) == 0) {
                return None;
            }
            let mut page = [0; PAGE];
            for (bytes, sum) in page.chunks_exact_mut(4).zip(&block.sums) {
                bytes.copy_from_slice(&sum.load(Ordering::Relaxed).to_le_bytes());
            }
            Some((number, page))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn they_behave_as_a_map_of_pages(
            steps in proptest::collection::vec((any::<bool>(), 0u64..5000, 1u64..300, any::<u32>()), 0..40),
            part in (0u64..5000, 1u64..3000),
        ) {
            const PAGES: u64 = 5 * BLOCK_PAGES;
            let blocks = Blocks::new(5);
            let mut map = BTreeMap::new();
            for (set, start, count, sum) in steps {
                let range = PageRange::new(start, count.min(PAGES - start));
                if set {
                    for page in range.start..range.end() {
                        blocks.set(page, sum);
                        map.insert(page, sum);
                    }
                } else {
                    let cleared: Vec<u64> =
                        blocks.clear(range).iter().flat_map(|run| run.start..run.end()).collect();
                    let expected: Vec<u64> =
                        (range.start..range.end()).filter(|page| map.remove(page).is_some()).collect();
                    prop_assert_eq!(cleared, expected);
                }
            }
            let asked = PageRange::new(part.0, part.1.min(PAGES - part.0));
            let absent: Vec<u64> =
                blocks.absent(asked).iter().flat_map(|run| run.start..run.end()).collect();
            let expected: Vec<u64> =
                (asked.start..asked.end()).filter(|page| !map.contains_key(page)).collect();
            prop_assert_eq!(absent, expected);
            let words: Vec<u64> = blocks.presence().collect();
            prop_assert_eq!(words.len() as u64, PAGES / 64);
            for page in 0..PAGES {
                let (word, bit) = (usize::try_from(page / 64).unwrap(), page % 64);
                prop_assert_eq!(words[word] >> bit & 1 == 1, map.contains_key(&page));
            }
            let mut found = BTreeMap::new();
            for (number, table) in blocks.tables() {
                let sums = table.chunks_exact(4).map(|sum| u32::from_le_bytes(sum.try_into().unwrap()));
                let pages = (number * BLOCK_PAGES..).zip(sums);
                found.extend(pages.filter(|(page, sum)| *sum != 0 || map.contains_key(page)));
            }
            prop_assert_eq!(found, map);
        }
    }
}
