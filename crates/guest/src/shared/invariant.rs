//! What a page of the self-check must hold, and how it fails to

use super::pattern::{self, Key, Page, WORDS};
use super::report::Kind;

/// What becomes of a page over the generations
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Written with new content in each round
    Rewritten,
    /// Written in the first round only
    Once,
    /// Written and zeroed in turn
    Flipped,
}

impl Class {
    /// The class of the page with this index: of sixteen, fourteen are
    /// rewritten, one is written once, one flips
    #[must_use]
    pub const fn of(index: u64) -> Self {
        match index % 16 {
            5 => Self::Once,
            10 => Self::Flipped,
            _ => Self::Rewritten,
        }
    }

    /// The generation that a page of this class has once it was last visited in
    /// the round before `round`, which counts from 1
    #[must_use]
    pub const fn generation(self, round: u64) -> u64 {
        match self {
            Self::Once => 1,
            Self::Rewritten | Self::Flipped => round,
        }
    }

    /// Whether a page of this class is zero in this generation
    #[must_use]
    pub const fn is_zero(self, generation: u64) -> bool {
        matches!(self, Self::Flipped) && generation.is_multiple_of(2)
    }
}

/// What a page must hold
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Whose content it is
    pub key: Key,
    /// Whether that content is zero
    pub zero: bool,
}

/// How a page differs from what it must hold
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breach {
    /// In which way
    pub kind: Kind,
    /// Where the first wrong word is
    pub address: u64,
    /// What was expected: a generation, an address or a word, by kind
    pub expected: u64,
    /// What was found, likewise
    pub found: u64,
}

/// Whose a word is: `None` if it is zero, which is nobody's
fn owner(word: u64, index: usize) -> Option<Key> {
    (word != 0).then(|| Key::of_word(word, index))
}

impl Expected {
    /// The word at `index`
    #[must_use]
    pub const fn word(&self, index: usize) -> u64 {
        if self.zero { 0 } else { pattern::word(self.key.seed(), index) }
    }

    /// Looks at a whole page; `None` if it is as expected
    #[must_use]
    pub fn examine(&self, page: &Page) -> Option<Breach> {
        let wrong = || (0..WORDS).filter(|&index| page[index] != self.word(index));
        let first = wrong().next()?;
        let breach = |kind, expected, found| Breach {
            kind,
            address: self.key.address + 8 * first as u64,
            expected,
            found,
        };
        let corrupt = breach(Kind::Corrupt, self.word(first), page[first]);
        let key = self.key;
        let one_owner = wrong().all(|index| owner(page[index], index) == owner(page[first], first));
        let every_word_differs = wrong().count() == WORDS;
        Some(match owner(page[first], first) {
            None if one_owner && every_word_differs => breach(Kind::Zero, key.generation, 0),
            Some(found) if one_owner && every_word_differs => {
                if found.address != key.address {
                    breach(Kind::Misplaced, key.address, found.address)
                } else if found.generation < key.generation {
                    breach(Kind::Stale, key.generation, found.generation)
                } else if found.generation > key.generation {
                    breach(Kind::Future, key.generation, found.generation)
                } else {
                    corrupt
                }
            }
            // Parts of other contents of this page, or of one other page. A single
            // word that decodes to something foreign proves nothing.
            found
                if wrong().all(|index| {
                    owner(page[index], index).is_none_or(|owner| owner.address == key.address)
                }) || one_owner && wrong().count() > 1 =>
            {
                breach(Kind::Torn, key.generation, found.map_or(0, |found| found.generation))
            }
            _ => corrupt,
        })
    }
}

/// Looks at a page that was never written; `None` if it is zero
#[must_use]
pub fn examine_untouched(address: u64, page: &Page) -> Option<Breach> {
    let (index, &found) = page.iter().enumerate().find(|&(_, &word)| word != 0)?;
    Some(Breach { kind: Kind::Dirty, address: address + 8 * index as u64, expected: 0, found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: Key = Key { address: 0x1_2345_6000, generation: 7, cpu: 3 };
    const EXPECTED: Expected = Expected { key: KEY, zero: false };

    fn page(key: Key) -> Page {
        let mut page = [0; WORDS];
        pattern::fill(&mut page, key.seed());
        page
    }

    fn kind(expected: Expected, page: &Page) -> Option<Kind> {
        expected.examine(page).map(|breach| breach.kind)
    }

    #[test]
    fn a_page_as_it_should_be_is_no_breach() {
        assert_eq!(EXPECTED.examine(&page(KEY)), None);
        assert_eq!(Expected { zero: true, ..EXPECTED }.examine(&[0; WORDS]), None);
    }

    #[test]
    fn a_dropped_page_is_zero() {
        let breach = EXPECTED.examine(&[0; WORDS]).unwrap();
        let expected = Breach { kind: Kind::Zero, address: KEY.address, expected: 7, found: 0 };
        assert_eq!(breach, expected);
    }

    #[test]
    fn an_old_version_is_stale_and_a_newer_one_future() {
        for (generation, kind) in [(6, Kind::Stale), (1, Kind::Stale), (8, Kind::Future)] {
            let found = page(Key { generation, ..KEY });
            let breach = Breach { kind, address: KEY.address, expected: 7, found: generation };
            assert_eq!(EXPECTED.examine(&found), Some(breach));
            // The same where the page was zeroed since, or is to be
            assert_eq!(Expected { zero: true, ..EXPECTED }.examine(&found), Some(breach));
        }
    }

    #[test]
    fn a_page_of_another_address_is_misplaced() {
        let other = Key { address: 0x7000, ..KEY };
        let breach = EXPECTED.examine(&page(other)).unwrap();
        assert_eq!((breach.kind, breach.found), (Kind::Misplaced, 0x7000));
    }

    #[test]
    fn content_of_nobody_is_corrupt() {
        let mut found = page(KEY);
        found[100] ^= 1 << 40;
        let breach = EXPECTED.examine(&found).unwrap();
        assert_eq!((breach.kind, breach.address), (Kind::Corrupt, KEY.address + 800));
        assert_eq!((breach.expected, breach.found), (EXPECTED.word(100), found[100]));
        assert_eq!(kind(EXPECTED, &page(Key { cpu: 4, ..KEY })), Some(Kind::Corrupt));
    }

    proptest! {
        #[test]
        fn a_page_of_two_parts_is_torn(
            cut in 1..WORDS, older in 1u64..7, tail in any::<bool>(), what in 0..4
        ) {
            let other = match what {
                0 => [0; WORDS],
                1 => page(Key { generation: older, ..KEY }),
                2 => page(Key { generation: 8, ..KEY }),
                _ => page(Key { address: 0x9000, ..KEY }),
            };
            let mut found = page(KEY);
            let (start, end) = if tail { (cut, WORDS) } else { (0, cut) };
            // One word of a foreign page cannot be told from garbage
            prop_assume!(what != 3 || end - start > 1);
            found[start..end].copy_from_slice(&other[start..end]);
            prop_assert_eq!(kind(EXPECTED, &found), Some(Kind::Torn));
        }

        #[test]
        fn no_change_of_any_word_goes_unseen(index in 0..WORDS, change in 1u64..) {
            let mut found = page(KEY);
            found[index] ^= change;
            let breach = EXPECTED.examine(&found).unwrap();
            prop_assert_eq!(breach.address, KEY.address + 8 * index as u64);
            let mut zero = [0; WORDS];
            zero[index] = change;
            let breach = Expected { zero: true, ..EXPECTED }.examine(&zero);
            prop_assert!(breach.is_some());
        }
    }

    #[test]
    fn a_page_never_written_must_be_zero() {
        let mut page = [0; WORDS];
        assert_eq!(examine_untouched(0x5000, &page), None);
        page[511] = 9;
        let expected = Breach { kind: Kind::Dirty, address: 0x5ff8, expected: 0, found: 9 };
        assert_eq!(examine_untouched(0x5000, &page), Some(expected));
    }

    #[test]
    fn generations_follow_the_class() {
        assert_eq!((0..16).filter(|&i| Class::of(i) == Class::Rewritten).count(), 14);
        assert_eq!(Class::Once.generation(9), 1);
        assert_eq!(Class::Rewritten.generation(9), 9);
        assert!(Class::Flipped.is_zero(2) && !Class::Flipped.is_zero(3));
        assert!(!Class::Rewritten.is_zero(2));
    }
}
