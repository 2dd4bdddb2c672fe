//! Memory whose every page says which page and which version it is.

const WORDS: usize = 4096 / size_of::<u64>();

/// Pages, and beside them the version that each of them must have.
pub struct Memory {
    words: Vec<u64>,
    versions: Vec<u32>,
}

/// The word at `index` of a page: no two pages, versions or places have the same.
fn word(page: usize, version: u32, index: usize) -> u64 {
    // The finaliser of splitmix64: a bijection, so different pages and versions stay different.
    let mut seed = ((page as u64) << 32) | u64::from(version);
    seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (seed ^ (seed >> 31)).wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Memory {
    /// That many MiB, each page in its first version.
    pub fn filled(mib: usize) -> Self {
        let pages = (mib << 20) / (WORDS * size_of::<u64>());
        let mut memory = Self { words: vec![0; pages * WORDS], versions: vec![0; pages] };
        for page in 0..pages {
            memory.rewrite(page);
        }
        memory
    }

    /// Number of pages.
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Writes the next version of a page.
    pub fn rewrite(&mut self, page: usize) {
        self.versions[page] = self.versions[page].wrapping_add(1);
        let version = self.versions[page];
        let words = &mut self.words[page * WORDS..][..WORDS];
        for (index, place) in words.iter_mut().enumerate() {
            *place = word(page, version, index);
        }
        // What is checked later is to come from memory.
        std::hint::black_box(words);
    }

    /// Compares a page with what was written last.
    pub fn check(&self, page: usize) -> Result<(), String> {
        let version = self.versions[page];
        let words = &self.words[page * WORDS..][..WORDS];
        let mut wrong = (0..WORDS).filter(|&index| words[index] != word(page, version, index));
        let Some(first) = wrong.next() else { return Ok(()) };
        let earlier = (1..=8).find(|back| {
            let old = version.wrapping_sub(*back);
            words[first] == word(page, old, first)
        });
        let found = match earlier {
            _ if words[first] == 0 => "zero".to_string(),
            Some(back) => format!("older by {back}"),
            None => format!("{:#x}", words[first]),
        };
        let count = wrong.count() + 1;
        Err(format!(
            "memory page={page} version={version} first={first} wrong={count} found={found}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_left_alone_is_as_it_was_written() {
        let mut memory = Memory::filled(1);
        assert_eq!(memory.len(), 256);
        memory.rewrite(7);
        assert!((0..256).all(|page| memory.check(page).is_ok()));
    }

    #[test]
    fn a_lost_stale_torn_or_misplaced_page_is_found() {
        let filled = || Memory::filled(1);
        let page = |memory: &Memory, page: usize| memory.words[page * WORDS..][..WORDS].to_vec();

        let mut lost = filled();
        lost.words[3 * WORDS..4 * WORDS].fill(0);
        assert!(lost.check(3).unwrap_err().contains("found=zero"));

        let mut stale = filled();
        let old = page(&stale, 3);
        stale.rewrite(3);
        stale.words[3 * WORDS..4 * WORDS].copy_from_slice(&old);
        assert!(stale.check(3).unwrap_err().contains("found=older by 1"));

        let mut torn = filled();
        torn.rewrite(3);
        torn.words[3 * WORDS + 500..4 * WORDS].copy_from_slice(&old[500..]);
        assert!(torn.check(3).unwrap_err().contains("first=500 wrong=12"));

        let mut misplaced = filled();
        let other = page(&misplaced, 4);
        misplaced.words[3 * WORDS..4 * WORDS].copy_from_slice(&other);
        assert!(misplaced.check(3).is_err());
        assert!(misplaced.check(4).is_ok());
    }
}
