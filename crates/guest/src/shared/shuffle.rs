//! Numbers in an order that nobody guesses, without a table of them

use super::pattern::{FACTOR, STEP};

/// All numbers below a count, each once, in an order that depends on a seed
#[derive(Clone, Debug)]
pub struct Shuffle {
    seed: u64,
    count: u64,
    bits: u32,
    next: u64,
}

impl Shuffle {
    /// The numbers below `count`, which is at most 2^62
    #[must_use]
    pub const fn new(count: u64, seed: u64) -> Self {
        let bits = count.next_power_of_two().trailing_zeros();
        Self { seed, count, bits, next: 0 }
    }

    /// A one-to-one function of the numbers of so many bits: multiplying by what is odd, adding and
    /// shifting down by less than all bits can each be undone
    const fn place(&self, number: u64) -> u64 {
        let mask = (1 << self.bits) - 1;
        let mut number = number;
        let mut round = 0;
        while round < 4 {
            number = number.wrapping_add(self.seed.wrapping_mul(STEP) >> 7 | 1) & mask;
            number = number.wrapping_mul(FACTOR) & mask;
            number ^= number >> (self.bits / 2 + 1);
            round += 1;
        }
        number
    }
}

impl Iterator for Shuffle {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        // At least every second number of so many bits is below the count.
        while self.next < 1 << self.bits {
            let number = self.place(self.next);
            self.next += 1;
            if number < self.count {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_once(count in 0u64..5000, seed in any::<u64>()) {
            let mut all: Vec<u64> = Shuffle::new(count, seed).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_order_is_another_for_another_seed_and_far_from_ascending() {
        let order = |seed| Shuffle::new(4096, seed).collect::<Vec<_>>();
        assert_ne!(order(1), order(2));
        let neighbours = order(1).windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 16).count();
        assert!(neighbours < 100, "{neighbours}");
    }
}
