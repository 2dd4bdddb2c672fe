//! Times of which a median and a 99th percentile are wanted, without keeping each

/// Buckets for each power of two: a quantile is off by no more than 1/64
const PARTS: u64 = 32;
const PART_BITS: u32 = PARTS.trailing_zeros();
/// Times from 2^40 ns (18 minutes) on are counted as that long
const MOST_BITS: u32 = 40;
const BUCKETS: usize = ((MOST_BITS - PART_BITS + 1) as usize) << PART_BITS;

/// How many times there were of each length
#[derive(Clone, Debug)]
pub struct Quantiles {
    counts: [u32; BUCKETS],
    count: u64,
    max: u64,
}

impl Default for Quantiles {
    fn default() -> Self {
        Self::new()
    }
}

impl Quantiles {
    /// With nothing counted
    #[must_use]
    pub const fn new() -> Self {
        Self { counts: [0; BUCKETS], count: 0, max: 0 }
    }

    /// Counts a time, in nanoseconds
    pub const fn add(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.count += 1;
        if nanoseconds > self.max {
            self.max = nanoseconds;
        }
    }

    /// The longest
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// The time that so many of a thousand do not exceed, 0 if there are none
    #[must_use]
    pub const fn of_thousand(&self, thousandths: u64) -> u64 {
        let wanted = (self.count * thousandths).div_ceil(1000);
        let mut seen = 0;
        let mut index = 0;
        while index < BUCKETS {
            seen += self.counts[index] as u64;
            if seen >= wanted && seen > 0 {
                let middle = middle(index);
                return if middle < self.max { middle } else { self.max };
            }
            index += 1;
        }
        0
    }
}

#[allow(clippy::cast_possible_truncation, reason = "what is left is a bucket's number")]
const fn bucket(nanoseconds: u64) -> usize {
    let most = (1 << MOST_BITS) - 1;
    let time = if nanoseconds < most { nanoseconds } else { most };
    if time < PARTS {
        return time as usize;
    }
    let shift = time.ilog2() - PART_BITS;
    ((shift as usize + 1) << PART_BITS) + ((time >> shift) - PARTS) as usize
}

/// The time in the middle of what a bucket counts
#[allow(clippy::cast_possible_truncation, reason = "there are less than a hundred powers of two")]
const fn middle(bucket: usize) -> u64 {
    let (octave, part) = (bucket >> PART_BITS, (bucket as u64) & (PARTS - 1));
    if octave == 0 {
        return part;
    }
    let shift = octave as u32 - 1;
    ((PARTS + part) << shift) + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_near_the_middle_of_its_bucket(time in 0u64..(1 << MOST_BITS)) {
            let middle = middle(bucket(time));
            prop_assert!(middle.abs_diff(time) <= time / 64, "{} {}", time, middle);
        }

        #[test]
        fn a_quantile_is_that_of_the_sorted_times(
            mut times in proptest::collection::vec(0u64..1 << 30, 1..300), thousandths in 1usize..=1000
        ) {
            let mut all = Quantiles::new();
            times.iter().for_each(|time| all.add(*time));
            times.sort_unstable();
            let index = (times.len() * thousandths).div_ceil(1000) - 1;
            let (found, exact) = (all.of_thousand(thousandths as u64), times[index]);
            prop_assert!(found.abs_diff(exact) <= exact / 32, "{} {}", found, exact);
            prop_assert!(found <= all.max());
        }
    }

    #[test]
    fn none_are_none_and_the_longest_are_cut() {
        let mut all = Quantiles::new();
        assert_eq!((all.of_thousand(500), all.max()), (0, 0));
        all.add(u64::MAX);
        assert_eq!(all.max(), u64::MAX);
        assert!(all.of_thousand(500) >= 1 << 39);
    }
}
