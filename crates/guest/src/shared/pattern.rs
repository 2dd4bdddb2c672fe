//! The content of a page: every word says whose it is
//!
//! A page's [`Key`] is its address, its generation and the processor that wrote
//! it. Each of its 512 words is a different one-to-one function of that key, so
//! that the page is incompressible, changes as a whole with each generation,
//! and any single word that turns up in a wrong place can be traced to where it
//! came from.

/// Words in a page
pub const WORDS: usize = 512;

/// A page of memory, as words
pub type Page = [u64; WORDS];

/// Odd, so that a seed plus multiples of it runs through all numbers: 2^64 / golden ratio
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Odd, hence invertible; from MurmurHash3's finalizer
pub const FACTOR: u64 = 0xff51_afd7_ed55_8ccd;
const FACTOR_INVERSE: u64 = inverse(FACTOR);

const FRAME_BITS: u32 = 28;
const GENERATION_BITS: u32 = 30;
const CPU_BITS: u32 = 6;
const _: () = assert!(FRAME_BITS + GENERATION_BITS + CPU_BITS == u64::BITS);

/// What the content of a page depends on
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Address of the page; below 1 TiB
    pub address: u64,
    /// How many times it was written, this time included; below 2^30
    pub generation: u64,
    /// Who wrote it, below 64
    pub cpu: u64,
}

impl Key {
    /// The seed of a page's words
    #[must_use]
    pub const fn seed(self) -> u64 {
        let generation = self.generation & ((1 << GENERATION_BITS) - 1);
        let cpu = self.cpu & ((1 << CPU_BITS) - 1);
        let frame = self.address >> 12;
        mix(mix(frame << (u64::BITS - FRAME_BITS) | generation << CPU_BITS | cpu)
            .wrapping_add(STEP))
    }

    /// The key of the page in which `word` stands at `index`, if any page has it there
    ///
    /// A word that was never written gives an arbitrary key.
    #[must_use]
    pub const fn of_word(word: u64, index: usize) -> Self {
        let seed = unmix(word).wrapping_sub(STEP.wrapping_mul(index as u64));
        let packed = unmix(unmix(seed).wrapping_sub(STEP));
        Self {
            address: packed >> (u64::BITS - FRAME_BITS) << 12,
            generation: packed >> CPU_BITS & ((1 << GENERATION_BITS) - 1),
            cpu: packed & ((1 << CPU_BITS) - 1),
        }
    }
}

/// The word at `index` of the page with this seed
#[must_use]
pub const fn word(seed: u64, index: usize) -> u64 {
    mix(seed.wrapping_add(STEP.wrapping_mul(index as u64)))
}

/// Writes a page
pub fn fill(page: &mut Page, seed: u64) {
    for (index, slot) in page.iter_mut().enumerate() {
        *slot = word(seed, index);
    }
}

const fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 32).wrapping_mul(FACTOR);
    value ^ value >> 32
}

const fn unmix(value: u64) -> u64 {
    let value = (value ^ value >> 32).wrapping_mul(FACTOR_INVERSE);
    value ^ value >> 32
}

/// Inverse of an odd number modulo 2^64, by Newton's iteration: each step
/// doubles the number of right bits, of which there are three at the start
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_word_tells_its_page(
            frame in 0u64..1 << 28, generation in 0u64..1 << 30, cpu in 0u64..64, index in 0..WORDS
        ) {
            let key = Key { address: frame << 12, generation, cpu };
            prop_assert_eq!(Key::of_word(word(key.seed(), index), index), key);
        }
    }

    #[test]
    fn a_page_is_incompressible() {
        let mut page = [0; WORDS];
        fill(&mut page, Key { address: 0x1000, generation: 1, cpu: 0 }.seed());
        let mut counts = [0u32; 256];
        for byte in page.iter().flat_map(|word| word.to_le_bytes()) {
            counts[usize::from(byte)] += 1;
        }
        let entropy: f64 = counts
            .iter()
            .filter(|&&count| count != 0)
            .map(|&count| f64::from(count) / 4096.0)
            .map(|share| -share * share.log2())
            .sum();
        // 4096 random bytes have 7.95 bits each, and each word must be new
        assert!(entropy > 7.9, "{entropy}");
        let mut words = page;
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
