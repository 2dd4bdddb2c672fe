//! Sets of pages.

use crate::PageRange;

const BITS: u64 = 64;
/// Words of a block.
const WORDS: usize = 512;
/// Pages of a block: 128 MiB of RAM.
const BLOCK: u64 = WORDS as u64 * BITS;

/// A set of pages among the first [`PageSet::pages`] pages of RAM: a bitmap, walked by runs. Where it has
/// nothing over a long stretch it takes no memory and no time.
#[derive(Clone)]
pub struct PageSet {
    pages: u64,
    blocks: Vec<Option<Box<Block>>>,
}

type Block = [u64; WORDS];

/// The bits of `range` that fall into the word with this index.
fn mask(word: u64, range: PageRange) -> u64 {
    let low = range.start.max(word * BITS) - word * BITS;
    let high = range.end().min((word + 1) * BITS) - word * BITS;
    let ones = high - low;
    if ones == BITS { u64::MAX } else { ((1 << ones) - 1) << low }
}

/// The words of a block that have pages of `range`, which lies within it, and the bits that those are.
fn masks(range: PageRange) -> impl Iterator<Item = (usize, u64)> {
    let words = range.start / BITS..range.end().div_ceil(BITS);
    words.map(move |word| (index(word), mask(word, range)))
}

/// A page set holds at most what fits into the address space, so a word's index fits `usize`.
#[expect(clippy::cast_possible_truncation, reason = "a set's words fit into memory")]
const fn index(word: u64) -> usize {
    word as usize
}

fn empty() -> Box<Block> {
    Box::new([0; WORDS])
}

fn is_zero(words: &[u64]) -> bool {
    words.iter().all(|word| *word == 0)
}

fn ones(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

impl PageSet {
    /// The empty set among `pages` pages.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        Self { pages, blocks: vec![None; index(pages.div_ceil(BLOCK))] }
    }

    /// The set of all `pages` pages.
    #[must_use]
    pub fn full(pages: u64) -> Self {
        let mut set = Self::new(pages);
        set.insert(PageRange::new(0, pages));
        set
    }

    /// How many pages there are to choose from.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.blocks.iter().flatten().map(|block| ones(&block[..])).sum()
    }

    /// How many pages of `range` are in the set.
    #[must_use]
    pub fn count_in(&self, range: PageRange) -> u64 {
        let in_block = |(block, part): (usize, PageRange)| {
            let words = self.blocks[block].as_ref()?;
            Some(
                masks(part)
                    .map(|(word, mask)| u64::from((words[word] & mask).count_ones()))
                    .sum::<u64>(),
            )
        };
        self.parts(range).filter_map(in_block).sum()
    }

    /// Whether no page is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.iter().flatten().all(|block| is_zero(&block[..]))
    }

    /// Whether this page is in the set; a page outside never is.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        page < self.pages && self.word(page / BITS) >> (page % BITS) & 1 == 1
    }

    /// Adds the run, as far as it lies within.
    pub fn insert(&mut self, range: PageRange) {
        for (block, part) in self.parts(range) {
            let words = self.blocks[block].get_or_insert_with(empty);
            for (word, mask) in masks(part) {
                words[word] |= mask;
            }
        }
    }

    /// Takes the run out.
    pub fn remove(&mut self, range: PageRange) {
        for (block, part) in self.parts(range) {
            let Some(words) = &mut self.blocks[block] else { continue };
            for (word, mask) in masks(part) {
                words[word] &= !mask;
            }
        }
    }

    /// Adds all pages of `other`.
    ///
    /// # Panics
    /// When the two are sets among different numbers of pages.
    pub fn union_with(&mut self, other: &Self) {
        assert_eq!(self.pages, other.pages);
        for (ours, theirs) in self.blocks.iter_mut().zip(&other.blocks) {
            match (ours, theirs) {
                (_, None) => {}
                (Some(ours), Some(theirs)) => {
                    ours.iter_mut().zip(theirs.iter()).for_each(|(a, b)| *a |= b);
                }
                (ours @ None, Some(theirs)) => *ours = Some(theirs.clone()),
            }
        }
    }

    /// Takes out all pages of `other`.
    ///
    /// # Panics
    /// When the two are sets among different numbers of pages.
    pub fn subtract(&mut self, other: &Self) {
        assert_eq!(self.pages, other.pages);
        for (ours, theirs) in self.blocks.iter_mut().zip(&other.blocks) {
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                ours.iter_mut().zip(theirs.iter()).for_each(|(a, b)| *a &= !b);
            }
        }
    }

    /// Keeps only the pages that are in `other` too.
    ///
    /// # Panics
    /// When the two are sets among different numbers of pages.
    pub fn intersect_with(&mut self, other: &Self) {
        assert_eq!(self.pages, other.pages);
        for (ours, theirs) in self.blocks.iter_mut().zip(&other.blocks) {
            match (&mut *ours, theirs) {
                (Some(ours), Some(theirs)) => {
                    ours.iter_mut().zip(theirs.iter()).for_each(|(a, b)| *a &= b);
                }
                (_, None) => *ours = None,
                (None, Some(_)) => {}
            }
        }
    }

    /// Adds the pages that a kernel bitmap shows as ones, the first bit being page `start`.
    /// Bits beyond the last page are passed over.
    pub fn insert_bitmap(&mut self, start: u64, bitmap: &[u64]) {
        if start.is_multiple_of(BITS) {
            let (mut at, mut rest) = (index(start / BITS), bitmap);
            while let Some(block) = self.blocks.get_mut(at / WORDS).filter(|_| !rest.is_empty()) {
                let (part, after) = rest.split_at(rest.len().min(WORDS - at % WORDS));
                if !is_zero(part) {
                    let words = &mut block.get_or_insert_with(empty)[at % WORDS..];
                    words.iter_mut().zip(part).for_each(|(to, from)| *to |= from);
                }
                at += part.len();
                rest = after;
            }
            self.trim();
            return;
        }
        let bits = bitmap.iter().flat_map(|word| (0..BITS).map(move |bit| word >> bit & 1 == 1));
        for (page, _) in (start..self.pages).zip(bits).filter(|(_, written)| *written) {
            self.insert(PageRange::new(page, 1));
        }
    }

    /// The set's words from the one with this index: bit `p % 64` of word `p / 64` is page `p`. Bits
    /// beyond the last are zero.
    pub fn words(&self, from: u64) -> impl Iterator<Item = u64> {
        (from..self.pages.div_ceil(BITS)).map(|word| self.word(word))
    }

    fn word(&self, word: u64) -> u64 {
        let word = index(word);
        self.blocks[word / WORDS].as_ref().map_or(0, |words| words[word % WORDS])
    }

    /// The runs of pages, in order.
    #[must_use]
    pub fn runs(&self) -> Runs<'_> {
        self.runs_in(PageRange::new(0, self.pages))
    }

    /// The runs within `range`, in order, cut to it.
    #[must_use]
    pub fn runs_in(&self, range: PageRange) -> Runs<'_> {
        Runs { set: self, next: range.start, end: range.end().min(self.pages) }
    }

    /// The first page at or after `from` and before `end` whose membership is `member`.
    fn find(&self, from: u64, end: u64, member: bool) -> Option<u64> {
        let flip = if member { 0 } else { u64::MAX };
        let mut page = from;
        while page < end {
            let Some(words) = &self.blocks[index(page / BLOCK)] else {
                if !member {
                    return Some(page);
                }
                page = (page / BLOCK + 1) * BLOCK;
                continue;
            };
            let rest = (words[index(page % BLOCK / BITS)] ^ flip) >> (page % BITS);
            if rest != 0 {
                let found = page + u64::from(rest.trailing_zeros());
                return (found < end).then_some(found);
            }
            page = (page / BITS + 1) * BITS;
        }
        None
    }

    /// The blocks that have pages of `range`, and which of theirs those are.
    fn parts(&self, range: PageRange) -> impl Iterator<Item = (usize, PageRange)> + use<> {
        let end = range.end().min(self.pages);
        let start = range.start.min(end);
        let blocks = if start == end { 0..0 } else { start / BLOCK..end.div_ceil(BLOCK) };
        blocks.map(move |block| {
            let base = block * BLOCK;
            let low = start.max(base) - base;
            (index(block), PageRange::new(low, end.min(base + BLOCK) - base - low))
        })
    }

    /// Takes out what lies beyond the last page.
    fn trim(&mut self) {
        if let (Some(Some(words)), used @ 1..) = (self.blocks.last_mut(), self.pages % BLOCK) {
            for (word, mask) in masks(PageRange::new(used, BLOCK - used)) {
                words[word] &= !mask;
            }
        }
    }
}

impl PartialEq for PageSet {
    fn eq(&self, other: &Self) -> bool {
        let same = |(ours, theirs): (&Option<Box<Block>>, &Option<Box<Block>>)| match (ours, theirs)
        {
            (Some(ours), Some(theirs)) => ours == theirs,
            (Some(one), None) | (None, Some(one)) => is_zero(&one[..]),
            (None, None) => true,
        };
        self.pages == other.pages && self.blocks.iter().zip(&other.blocks).all(same)
    }
}

impl Eq for PageSet {}

impl std::fmt::Debug for PageSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageSet({} of {}: ", self.count(), self.pages)?;
        f.debug_list().entries(self.runs().map(|r| r.start..r.end())).finish()?;
        write!(f, ")")
    }
}

/// Iterator over the runs of a [`PageSet`].
#[derive(Debug, Clone)]
pub struct Runs<'a> {
    set: &'a PageSet,
    next: u64,
    end: u64,
}

impl Iterator for Runs<'_> {
    type Item = PageRange;
    fn next(&mut self) -> Option<PageRange> {
        let start = self.set.find(self.next, self.end, true)?;
        let end = self.set.find(start, self.end, false).unwrap_or(self.end);
        self.next = end;
        Some(PageRange::new(start, end - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn model(set: &PageSet) -> BTreeSet<u64> {
        set.runs().flat_map(|r| r.start..r.end()).collect()
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_set_of_numbers(
            pages in 1u64..400,
            steps in proptest::collection::vec((any::<bool>(), 0u64..420, 0u64..200), 0..30),
            within in (0u64..420, 0u64..420),
        ) {
            let mut set = PageSet::new(pages);
            let mut expect = BTreeSet::new();
            for (add, start, count) in steps {
                let range = PageRange::new(start, count);
                if add { set.insert(range) } else { set.remove(range) }
                for page in (start..start + count).filter(|p| *p < pages) {
                    if add { expect.insert(page); } else { expect.remove(&page); }
                }
            }
            prop_assert_eq!(&model(&set), &expect);
            prop_assert_eq!(set.count(), expect.len() as u64);
            prop_assert_eq!(set.is_empty(), expect.is_empty());
            for page in 0..pages + 70 {
                prop_assert_eq!(set.contains(page), expect.contains(&page));
            }
            let range = PageRange::new(within.0, within.1);
            let cut: BTreeSet<u64> =
                set.runs_in(range).flat_map(|r| r.start..r.end()).collect();
            let want: BTreeSet<u64> =
                expect.iter().copied().filter(|p| (range.start..range.end()).contains(p)).collect();
            prop_assert_eq!(set.count_in(range), want.len() as u64);
            prop_assert_eq!(cut, want);
            // Runs are maximal: no two of them touch.
            let runs: Vec<_> = set.runs().collect();
            prop_assert!(runs.windows(2).all(|w| w[0].end() < w[1].start));
        }

        #[test]
        fn union_and_difference_are_those_of_sets(
            pages in 1u64..300,
            a in proptest::collection::btree_set(0u64..300, 0..80),
            b in proptest::collection::btree_set(0u64..300, 0..80),
        ) {
            let of = |s: &BTreeSet<u64>| {
                let mut set = PageSet::new(pages);
                s.iter().for_each(|p| set.insert(PageRange::new(*p, 1)));
                set
            };
            let (x, y) = (of(&a), of(&b));
            let (ma, mb) = (model(&x), model(&y));
            let mut union = x.clone();
            union.union_with(&y);
            prop_assert_eq!(model(&union), ma.union(&mb).copied().collect::<BTreeSet<_>>());
            let mut both = x.clone();
            both.intersect_with(&y);
            prop_assert_eq!(model(&both), ma.intersection(&mb).copied().collect::<BTreeSet<_>>());
            let mut less = x.clone();
            less.subtract(&y);
            prop_assert_eq!(model(&less), ma.difference(&mb).copied().collect::<BTreeSet<_>>());
        }

        #[test]
        fn a_bitmap_goes_to_its_place(
            pages in 1u64..400, start in 0u64..300, words in proptest::collection::vec(any::<u64>(), 0..4),
        ) {
            let mut set = PageSet::new(pages);
            set.insert_bitmap(start, &words);
            for page in 0..pages {
                let bit = page.checked_sub(start).is_some_and(|b| {
                    words.get(usize::try_from(b / 64).unwrap()).is_some_and(|w| w >> (b % 64) & 1 == 1)
                });
                prop_assert_eq!(set.contains(page), bit);
            }
            prop_assert_eq!(set.count(), model(&set).len() as u64);
        }
    }

    /// Runs over some blocks, most of which stay empty or become full.
    fn long_runs() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
        let edge =
            (0u64..6, 0u64..4).prop_map(|(block, near)| (block * BLOCK + near).saturating_sub(2));
        let place = prop_oneof![edge, 0u64..6 * BLOCK];
        let run = (any::<bool>(), place.clone(), place);
        proptest::collection::vec(run, 0..12)
    }

    fn played(pages: u64, steps: &[(bool, u64, u64)]) -> (PageSet, Vec<bool>) {
        let mut set = PageSet::new(pages);
        let mut expect = vec![false; index(pages)];
        for (add, a, b) in steps {
            let range = PageRange::new(*a.min(b), a.abs_diff(*b));
            if *add {
                set.insert(range);
            } else {
                set.remove(range);
            }
            let within = index(range.start.min(pages))..index(range.end().min(pages));
            expect[within].fill(*add);
        }
        (set, expect)
    }

    fn members(set: &PageSet) -> Vec<bool> {
        let mut members = vec![false; index(set.pages())];
        set.runs().for_each(|run| members[index(run.start)..index(run.end())].fill(true));
        members
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sets_over_many_blocks_are_sets_too(
            pages in 4 * BLOCK..6 * BLOCK, a in long_runs(), b in long_runs(),
        ) {
            let ((x, ma), (y, mb)) = (played(pages, &a), played(pages, &b));
            prop_assert!(members(&x) == ma);
            prop_assert_eq!(x.count(), ma.iter().filter(|m| **m).count() as u64);
            prop_assert_eq!(x.is_empty(), !ma.contains(&true));
            prop_assert!((0..pages).all(|page| x.contains(page) == ma[index(page)]));
            prop_assert_eq!(x == y, ma == mb);
            let mut again = PageSet::new(pages);
            again.insert_bitmap(0, &x.words(0).collect::<Vec<_>>());
            prop_assert!(again == x);
            prop_assert!(x == again);
            let mut shifted = PageSet::new(pages);
            let from = pages / 2 / BITS;
            shifted.insert_bitmap(from * BITS, &x.words(from).collect::<Vec<_>>());
            prop_assert_eq!(shifted.count(), x.count_in(PageRange::new(from * BITS, pages)));
            for (name, op, expect) in [
                ("union", PageSet::union_with as fn(&mut PageSet, &PageSet), (|a, b| a || b) as fn(bool, bool) -> bool),
                ("difference", PageSet::subtract, |a, b| a && !b),
                ("intersection", PageSet::intersect_with, |a, b| a && b),
            ] {
                let mut both = x.clone();
                op(&mut both, &y);
                let expect: Vec<_> = ma.iter().zip(&mb).map(|(a, b)| expect(*a, *b)).collect();
                prop_assert!(members(&both) == expect, "{}", name);
            }
        }
    }

    #[test]
    fn a_hostile_run_changes_nothing_outside() {
        let mut set = PageSet::new(10);
        set.insert(PageRange::new(u64::MAX, u64::MAX));
        set.insert(PageRange::new(10, 5));
        assert!(set.is_empty());
        set.insert(PageRange::new(9, u64::MAX));
        assert_eq!(set.runs().collect::<Vec<_>>(), [PageRange::new(9, 1)]);
        assert!(!PageRange::new(u64::MAX, 2).is_within(10));
        assert!(!PageRange::new(3, 0).is_within(10));
    }

    const EDGES: [u64; 9] = [0, 1, 63, 64, 65, 1 << 60, 1 << 63, u64::MAX - 1, u64::MAX];

    #[test]
    fn every_small_set_and_every_run_near_an_edge_agree_with_single_pages() {
        for pages in [0, 1, 63, 64, 65, 127, 128, 129] {
            for start in (0..=pages + 1).chain(EDGES) {
                for count in (0..=3).chain(EDGES) {
                    let range = PageRange::new(start, count);
                    let inside = |page: u64| page >= start && page - start < count;
                    let mut set = PageSet::new(pages);
                    set.insert(range);
                    let mut rest = PageSet::full(pages);
                    rest.remove(range);
                    for page in 0..pages {
                        assert_eq!(
                            set.contains(page),
                            inside(page),
                            "{range:?} of {pages}: {page}"
                        );
                        assert_eq!(rest.contains(page), !inside(page), "{range:?} of {pages}");
                    }
                    let expected = (0..pages).filter(|page| inside(*page)).count() as u64;
                    assert_eq!(set.count(), expected);
                    assert_eq!(PageSet::full(pages).count_in(range), expected);
                    let runs: Vec<_> = PageSet::full(pages).runs_in(range).collect();
                    assert_eq!(runs.iter().map(|run| run.count).sum::<u64>(), expected);
                    assert!(runs.len() <= 1 && runs.iter().all(|run| run.is_within(pages)));
                }
            }
        }
    }

    #[test]
    fn a_bitmap_near_the_last_number_reaches_no_page() {
        for start in EDGES.into_iter().filter(|start| *start > 200) {
            let mut set = PageSet::new(200);
            set.insert_bitmap(start, &[u64::MAX; 3]);
            assert!(set.is_empty(), "a bitmap from {start} on wrote {set:?}");
        }
    }
}
